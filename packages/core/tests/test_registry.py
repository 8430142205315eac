"""The catalogue: which names exist, what is said of one that can't be used, and what a broken component costs."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stdet.errors import PluginError
from stdet.interfaces.dataset import DatasetWriter, WrittenSplit
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.heads import HEADS, HeadForm
from stdet.interfaces.registered import fault_of
from stdet.interfaces.target import TargetFacts
from stdet.known import known
from stdet.registry import KINDS, Catalogue, Entry
from stdet.structures import Annotation, Preprocess

FAMILY = ModelFamily("toy", "toy", Preprocess(32, 32), "yolox", "cosine", False, 32, 32, "toy", (32,))


class Writer(DatasetWriter):
    images_folder = Path()

    def add(self, name: str, annotation: Annotation) -> None: ...

    def finish(self) -> WrittenSplit:
        return WrittenSplit(Path())


def entry(name: str, target: str = "collections:OrderedDict", distribution: str = "acme", **more: str) -> Entry:
    kind = more.pop("kind", "schedulers")
    return Entry(kind, name, target, "summary", distribution, "1.0", **more)


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("planted_family")
    module.FAMILY = FAMILY  # type: ignore[attr-defined]
    module.Writer = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted_family", module)


def test_a_name_is_built_by_the_target_of_its_own_catalogue() -> None:
    assert type(Catalogue([entry("flat")]).build("schedulers", "flat")) is OrderedDict
    assert type(Catalogue([entry("flat", "collections:Counter")]).build("schedulers", "flat", "aab")) is Counter


def test_a_factory_that_ends_the_program_is_told_with_its_distribution() -> None:
    with pytest.raises(PluginError, match=r"acme 1\.0 ended the program \(SystemExit\(0\)\) when scheduler `flat`"):
        Catalogue([entry("flat", "sys:exit")]).build("schedulers", "flat", 0)


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


def test_two_boards_of_one_name_keep_the_facts_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("planted_boards")
    module.ONE, module.OTHER = TargetFacts(backends=("one",)), TargetFacts(backends=("other",))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted_boards", module)
    boards = [
        entry("m7", kind="targets", distribution=who, facts=f"planted_boards:{name}")
        for who, name in (("acme", "ONE"), ("bolt", "OTHER"))
    ]
    found = Catalogue(boards).targets()
    assert {name: facts.backends for name, facts in found.items()} == {"m7": ("one",), "bolt/m7": ("other",)}


def test_every_kind_has_a_row_in_the_table_of_our_own_names() -> None:
    assert set(known().provides) == {*KINDS, "model_types"}


def test_a_writer_is_found_by_its_format_and_a_format_without_one_names_those_that_have() -> None:
    catalogue = Catalogue(
        [entry("flat", kind="datasets"), entry("tall", kind="datasets", writer="planted_family:Writer")]
    )
    assert catalogue.writer("tall") is Writer
    with pytest.raises(PluginError, match="no data set can be written as `flat`") as caught:
        catalogue.writer("flat")
    assert "tall" in caught.value.hint


class AbstractWriter(DatasetWriter):
    """Without its methods."""


@pytest.mark.parametrize(
    ("role", "found", "wanted"),
    [
        ("target", 7, "of type int; wanted is something that can be called"),
        ("target", AbstractWriter, "AbstractWriter without add, finish, images_folder"),
        ("writer", Counter, "the class Counter; wanted is a subclass of stdet.interfaces.dataset.DatasetWriter"),
        ("writer", AbstractWriter, "AbstractWriter without add, finish, images_folder"),
        ("options", ModelFamily, "the class ModelFamily; wanted is a subclass of stdet.interfaces.family.Options"),
        ("family", ModelFamily, "the class ModelFamily; wanted is a stdet.interfaces.family.ModelFamily"),
        (
            "family",
            dataclasses.replace(FAMILY, training_options=Counter),
            "training_options is the class Counter",
        ),
        ("family", dataclasses.replace(FAMILY, model_type="a/b"), "model_type is 'a/b'"),
        ("family", dataclasses.replace(FAMILY, heads=("yolox",)), "heads hold something of type str"),
        ("family", dataclasses.replace(FAMILY, heads=7), "heads hold something of type int"),
    ],
)
def test_what_a_string_names_is_told_from_what_is_wanted(role: str, found: object, wanted: str) -> None:
    assert wanted in fault_of(role, found)


@pytest.mark.parametrize(
    ("role", "found"), [("target", len), ("writer", Writer), ("options", Options), ("family", FAMILY)]
)
def test_what_is_wanted_has_no_fault(role: str, found: object) -> None:
    assert fault_of(role, found) == ""


def test_a_target_that_ends_the_process_when_imported_is_the_plugins_fault(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "planted_exit.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"acme 1\.0 registers scheduler `flat` as `planted_exit:x`.*SystemExit"):
        Catalogue([entry("flat", "planted_exit:x")]).build("schedulers", "flat")


def second_family(monkeypatch: pytest.MonkeyPatch) -> object:
    module = ModuleType("planted_second")
    module.FAMILY = dataclasses.replace(FAMILY, trainer_name="second")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted_second", module)
    return module.FAMILY


def test_a_model_type_claimed_twice_belongs_to_neither_and_the_full_type_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = second_family(monkeypatch)
    one = entry("net", kind="models", family="planted_family:FAMILY")
    two = entry("net", kind="models", family="planted_second:FAMILY", distribution="bcme")
    catalogue = Catalogue([one, two])
    assert catalogue.families() == {}
    with pytest.raises(PluginError, match="model_type `toy` is claimed by acme and bcme") as caught:
        catalogue.family_of_type("toy")
    assert "acme/toy" in caught.value.hint
    assert catalogue.family_of_type("acme/toy") is FAMILY
    assert catalogue.family_of_type("bcme/toy") is second
    assert catalogue.model_of(second) == "bcme/net"


def test_a_model_of_another_distribution_in_a_family_of_ours_claims_nothing() -> None:
    models = [entry(d, kind="models", family="planted_family:FAMILY", distribution=d) for d in ("acme", "bcme")]
    catalogue = Catalogue(models)
    assert catalogue.families() == {"toy": FAMILY}
    assert catalogue.family_of_type("toy") is catalogue.family_of_type("bcme/toy") is FAMILY


def test_a_model_type_that_nobody_has_is_none_and_one_of_ours_says_where_to_get_it() -> None:
    assert Catalogue([]).family_of_type("toy") is None
    with pytest.raises(PluginError, match="model_type `ssd` is provided by stdet-models-ssd") as caught:
        Catalogue([]).family_of_type("ssd")
    assert caught.value.hint == "pip install stdet-models-ssd"


def with_heads(monkeypatch: pytest.MonkeyPatch, module: str, *heads: str) -> None:
    planted = ModuleType(module)
    forms = tuple(HeadForm(head, "collections:OrderedDict", "outputs of acme", Preprocess(32, 32)) for head in heads)
    planted.FAMILY = dataclasses.replace(FAMILY, model_type=module, heads=forms)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, planted)


def test_a_head_that_two_claim_belongs_to_neither_and_cores_stay_cores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_heads(monkeypatch, "planted_acme", "twice", "acme_own", "yolox")
    with_heads(monkeypatch, "planted_bcme", "twice")
    models = [entry(d, kind="models", family=f"planted_{d}:FAMILY", distribution=f"{d}-nets") for d in ("acme", "bcme")]
    catalogue = Catalogue(models)
    with caplog.at_level(logging.WARNING):
        assert set(catalogue.heads()) == {"acme_own", *(form.name for form in HEADS)}
    assert "head `twice` is claimed by acme-nets and bcme-nets" in caplog.text
    assert "head `yolox` of acme-nets is left out" in caplog.text
    assert catalogue.heads()["yolox"] in HEADS
    assert type(catalogue.decoder("acme_own", {})) is OrderedDict


def test_a_head_that_can_not_be_imported_names_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    with_heads(monkeypatch, "planted_acme", "acme_own")
    form = sys.modules["planted_acme"].FAMILY.heads[0]
    object.__setattr__(form, "target", "acme_nowhere:Head")
    catalogue = Catalogue([entry("net", kind="models", family="planted_acme:FAMILY", distribution="acme-nets")])
    with pytest.raises(PluginError, match=r"acme-nets 1\.0 registers head `acme_own` as `acme_nowhere:Head`"):
        catalogue.decoder("acme_own", None)
