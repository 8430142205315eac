"""`plugins/known.json` says what our packages bring: compared with what they register."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from stdet.known import known
from stdet.plugins.loader import load_plugins
from stdet.registry import KINDS

ROOT = Path(__file__).parents[1]
CATALOGUE, STATES = load_plugins()


@pytest.mark.parametrize("kind", KINDS)
def test_the_known_names_are_those_that_our_packages_register(kind: str) -> None:
    registered = defaultdict(set)
    for entry in CATALOGUE.entries(kind):
        if entry.distribution in known().distributions:
            registered[entry.distribution].add(entry.name)
    assert {owner: set(names) for owner, names in known().provides[kind].items()} == registered


def test_the_known_model_types_are_those_of_our_models() -> None:
    types = defaultdict(set)
    for entry in CATALOGUE.entries("models"):
        if entry.distribution in known().distributions:
            types[entry.distribution].add(CATALOGUE.family(f"{entry.distribution}/{entry.name}").model_type)
    assert {owner: set(names) for owner, names in known().provides["model_types"].items()} == types


def test_our_distributions_are_those_of_this_repository_that_have_a_plugin() -> None:
    projects = [tomllib.loads(p.read_text())["project"] for p in ROOT.glob("packages/*/pyproject.toml")]
    assert sorted(p["name"] for p in projects if "stdet" in p["entry-points"]) == list(known().distributions)


def test_no_name_is_known_twice() -> None:
    for kind in known().provides:
        names = known().names(kind)
        assert len(names) == len(set(names)), kind


def test_the_defaults_are_components_that_exist() -> None:
    defaults = known().defaults
    for kind, name in (
        ("datasets", defaults.dataset),
        ("datasets", defaults.dataset_with_split_lists),
        ("targets", defaults.board),
    ):
        assert known().provider(kind, name) == CATALOGUE.entry(kind, name).distribution
