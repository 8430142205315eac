"""The catalogue: which names exist, what is said of one that can't be used, and what a broken component costs."""

from __future__ import annotations

import logging
import sys
from collections import Counter, OrderedDict
from types import ModuleType

import pytest

from stdet.errors import PluginError
from stdet.interfaces.family import ModelFamily, Options
from stdet.known import known
from stdet.registry import KINDS, Catalogue, Entry
from stdet.structures import Preprocess

FAMILY = ModelFamily("toy", "toy", Preprocess(32, 32), "yolox", "cosine", False, 32, 32, "toy", (32,))


def entry(name: str, target: str = "collections:OrderedDict", distribution: str = "acme", **more: str) -> Entry:
    kind = more.pop("kind", "schedulers")
    return Entry(kind, name, target, "summary", distribution, "1.0", **more)


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("planted_family")
    module.FAMILY = FAMILY  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted_family", module)


def test_a_name_is_built_by_the_target_of_its_own_catalogue() -> None:
    assert type(Catalogue([entry("flat")]).build("schedulers", "flat")) is OrderedDict
    assert type(Catalogue([entry("flat", "collections:Counter")]).build("schedulers", "flat", "aab")) is Counter


def test_names_are_kept_apart_by_kind() -> None:
    catalogue = Catalogue([entry("yolox", kind="transforms"), entry("cosine")])
    assert {kind: catalogue.names(kind) for kind in KINDS if catalogue.names(kind)} == {
        "transforms": ["yolox"],
        "schedulers": ["cosine"],
    }
    with pytest.raises(PluginError, match="unknown scheduler"):
        catalogue.entry("schedulers", "yolox_")


def test_the_full_name_of_another_distribution_is_not_answered() -> None:
    catalogue = Catalogue([entry("flat")])
    assert catalogue.entry("schedulers", "acme/flat").distribution == "acme"
    with pytest.raises(PluginError):
        catalogue.entry("schedulers", "other/flat")


def test_a_component_without_options_has_the_empty_ones() -> None:
    catalogue = Catalogue([entry("flat"), entry("cos", options="stdet.engine.schedule_options:CosineOptions")])
    assert catalogue.options("schedulers", "flat") is Options
    assert "t_max" in catalogue.options("schedulers", "cos").model_fields


def test_a_broken_family_costs_its_own_models_and_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    good = entry("toy_net", kind="models", family="planted_family:FAMILY")
    bad = entry("acme_net", kind="models", family="acme_nowhere:FAMILY", distribution="acme-broken")
    catalogue = Catalogue([bad, good])
    with caplog.at_level(logging.WARNING):
        assert catalogue.families() == {"toy": FAMILY}
    assert "acme-broken 1.0 registers model `acme_net`" in caplog.text
    assert catalogue.family("toy_net") is FAMILY
    assert catalogue.model_of(FAMILY) == "toy_net"
    with pytest.raises(PluginError, match=r"acme-broken 1\.0 registers model `acme_net`.*acme_nowhere"):
        catalogue.family("acme_net")


def test_the_listing_says_why_a_name_of_ours_is_not_there() -> None:
    missing = {"stdet-models-ssd": "RuntimeError: boom"}
    lines = {line.name: line for line in Catalogue([], missing, missing).listing("models")}
    ssd, yolod = lines["ssd_mobilenetv1_pt"], lines["st_yolodv2milli_actrelu_pt"]
    assert (ssd.state, ssd.reason) == ("set aside", "RuntimeError: boom")
    assert (yolod.state, yolod.reason) == ("not installed", "pip install stdet-models-yolod")


def test_a_name_that_the_installed_version_lacks_asks_for_a_newer_one() -> None:
    catalogue = Catalogue([], installed=["stdet-models-ssd"])
    with pytest.raises(PluginError, match="stdet-models-ssd as installed has no model") as caught:
        catalogue.entry("models", "ssd_mobilenetv1_pt")
    assert caught.value.hint == "pip install -U stdet-models-ssd"


def test_a_board_without_its_package_says_how_to_get_it() -> None:
    with pytest.raises(PluginError, match="provided by stdet-deploy-stm32, which is not installed") as caught:
        Catalogue([]).entry("targets", "nucleo-f401re")
    assert caught.value.hint == "pip install stdet-deploy-stm32"


def test_every_kind_has_a_row_in_the_table_of_our_own_names() -> None:
    assert set(known().provides) == {*KINDS, "model_types"}


def test_a_writer_is_found_by_its_format_and_a_format_without_one_names_those_that_have() -> None:
    catalogue = Catalogue(
        [entry("flat", kind="datasets"), entry("tall", kind="datasets", writer="collections:Counter")]
    )
    assert catalogue.writer("tall") is Counter
    with pytest.raises(PluginError, match="no data set can be written as `flat`") as caught:
        catalogue.writer("flat")
    assert "tall" in caught.value.hint
