"""The loader's rules, each with the fault planted in a real, throw-away distribution on the path."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from importlib.metadata import Distribution, DistributionFinder, EntryPoint, MetadataPathFinder
from pathlib import Path

import pytest

from stdet.errors import PluginError
from stdet.plugins import API_VERSION
from stdet.plugins.loader import PluginState, load_plugins
from stdet.registry import Catalogue

HEAD = "from stdet.plugins import hookimpl\nSTDET_API_VERSION = 2\n"
ONE_SCHEDULER = HEAD + textwrap.dedent(
    """
    @hookimpl
    def stdet_register_schedulers(register):
        register("flat", "stdet.engine.schedules:Cosine", "a schedule", options="stdet.engine.schedule_options:CosineOptions")
    """
)

Plant = Callable[..., None]
Load = Callable[[], tuple[Catalogue, dict[str, PluginState]]]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Puts a distribution with one entry point of the group `stdet` on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(distribution: str, code: str, entry: str | None = None, version: str = "1.0") -> None:
        module = f"planted_{uuid.uuid4().hex}"  # a name of its own, since Python keeps modules between tests
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[stdet]\n{entry or distribution} = {module}\n")

    return make


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the planted distributions and nothing else."""

    def run() -> tuple[Catalogue, dict[str, PluginState]]:
        found: list[EntryPoint] = []
        context = DistributionFinder.Context(path=[str(tmp_path)])
        for distribution in MetadataPathFinder().find_distributions(context):
            assert isinstance(distribution, Distribution)
            found += list(distribution.entry_points.select(group="stdet"))
        catalogue, states = load_plugins(found)
        return catalogue, {state.distribution: state for state in states}

    return run


def test_a_good_plugin_is_loaded_and_its_component_builds(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER)
    catalogue, states = load()
    assert states["acme"] == PluginState("acme", "acme", "1.0", "loaded", "", API_VERSION)
    assert catalogue.names("schedulers") == ["flat"]
    assert "t_max" in catalogue.options("schedulers", "flat").model_fields


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_a_broken_import_is_set_aside_and_the_others_go_on(plant: Plant, load: Load, code: str, reason: str) -> None:
    plant("aaa-broken", code)
    plant("zzz-good", ONE_SCHEDULER)
    catalogue, states = load()
    assert states["aaa-broken"].state == "broken"
    assert reason in states["aaa-broken"].reason
    assert states["zzz-good"].state == "loaded"
    assert catalogue.names("schedulers") == ["flat"]


def test_two_distributions_with_one_entry_point_name_are_both_set_aside(plant: Plant, load: Load) -> None:
    plant("acme-one", ONE_SCHEDULER, entry="acme")
    plant("acme-two", ONE_SCHEDULER, entry="acme")
    catalogue, states = load()
    assert [states[d].state for d in ("acme-one", "acme-two")] == ["duplicate", "duplicate"]
    assert "acme-two" in states["acme-one"].reason
    assert catalogue.names("schedulers") == []


@pytest.mark.parametrize("declared", ["STDET_API_VERSION = 99", ""])
def test_another_api_number_is_refused_and_both_numbers_are_said(plant: Plant, load: Load, declared: str) -> None:
    plant("acme", ONE_SCHEDULER.replace("STDET_API_VERSION = 2", declared))
    _, states = load()
    assert states["acme"].state == "wrong-api"
    assert ("99" if declared else "None") in states["acme"].reason
    assert str(API_VERSION) in states["acme"].reason


def test_a_misspelt_hook_is_an_error_that_names_it(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER.replace("stdet_register_schedulers", "stdet_register_shedulers"))
    _, states = load()
    assert states["acme"].state == "broken"
    assert "stdet_register_shedulers" in states["acme"].reason


def test_a_hook_with_a_wrong_argument_is_an_error(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER.replace("(register)", "(registry)", 1))
    _, states = load()
    assert states["acme"].state == "broken"


def test_nothing_of_a_half_registered_plugin_is_kept(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER + "    raise ValueError('half way')\n")
    catalogue, states = load()
    assert "half way" in states["acme"].reason
    assert catalogue.names("schedulers") == []


def test_a_plugin_that_ends_the_process_while_registering_is_set_aside(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER + "    raise SystemExit(0)\n")
    assert load()[1]["acme"].state == "broken"


@pytest.mark.parametrize("name", ["None", "''", "7", "'acme/flat'"])
def test_a_name_that_a_config_could_not_say_is_refused(plant: Plant, load: Load, name: str) -> None:
    plant("acme", ONE_SCHEDULER.replace('"flat"', name))
    catalogue, states = load()
    assert states["acme"].state == "broken"
    assert "is no name" in states["acme"].reason
    assert catalogue.entries("schedulers") == []


def test_a_summary_that_is_no_text_is_refused(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER.replace('"a schedule"', "None"))
    assert "not a text" in load()[1]["acme"].reason


def test_a_name_registered_twice_by_one_plugin_is_refused(plant: Plant, load: Load) -> None:
    line = ONE_SCHEDULER.rstrip().rpartition("\n")[2]
    plant("acme", ONE_SCHEDULER + line + "\n")
    assert "registered twice" in load()[1]["acme"].reason


def test_a_target_that_is_no_module_and_attribute_is_refused(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER.replace("stdet.engine.schedules:Cosine", "stdet.engine.schedules.Cosine"))
    _, states = load()
    assert "module:attribute" in states["acme"].reason


def test_a_name_claimed_twice_belongs_to_nobody_and_the_full_name_is_exact(plant: Plant, load: Load) -> None:
    plant("acme-one", ONE_SCHEDULER)
    plant("acme-two", ONE_SCHEDULER)
    catalogue, _ = load()
    assert catalogue.names("schedulers") == []
    with pytest.raises(PluginError, match="acme-one and acme-two"):
        catalogue.entry("schedulers", "flat")
    assert catalogue.entry("schedulers", "acme-two/flat").distribution == "acme-two"
    assert [line.state for line in catalogue.listing("schedulers") if line.name == "flat"] == ["claimed twice"] * 2


def test_an_unknown_name_gets_close_matches(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER)
    with pytest.raises(PluginError, match="did you mean `flat`"):
        load()[0].entry("schedulers", "flatt")


def test_a_name_of_ours_that_is_not_installed_says_where_to_get_it(load: Load) -> None:
    with pytest.raises(PluginError, match=r"provided by stdet-models-ssd, which is not installed") as caught:
        load()[0].entry("models", "ssd_mobilenetv2_pt")
    assert caught.value.hint == "pip install stdet-models-ssd"
    with pytest.raises(PluginError, match="did you mean `ssd_mobilenetv2_pt`"):
        load()[0].entry("models", "ssd_mobilnetv2_pt")


def test_a_name_of_a_plugin_that_was_set_aside_says_why(plant: Plant, load: Load) -> None:
    plant("stdet-models-ssd", "raise RuntimeError('no luck')")
    with pytest.raises(PluginError, match=r"set aside: .*no luck"):
        load()[0].entry("models", "ssd_mobilenetv2_pt")


def test_a_target_that_can_not_be_imported_names_the_distribution(plant: Plant, load: Load) -> None:
    plant("acme", ONE_SCHEDULER.replace("stdet.engine.schedules:Cosine", "acme_nowhere:build"))
    with pytest.raises(PluginError, match=r"acme 1\.0 registers scheduler `flat`"):
        load()[0].build("schedulers", "flat")


@pytest.mark.parametrize(
    "name", ["os.system", "os:system", "stdet.engine.schedules.Cosine", "builtins.eval", "mmengine::x"]
)
def test_a_config_can_not_name_its_way_to_python(plant: Plant, load: Load, name: str, tmp_path: Path) -> None:
    plant("acme", ONE_SCHEDULER)
    catalogue, _ = load()
    with pytest.raises(PluginError):
        catalogue.build("schedulers", name, f"touch {tmp_path / 'touched'}")
    assert not (tmp_path / "touched").exists()


FENCE = """
import os, sys
os.system = lambda command: sys.exit("os.system was called")
from stdet.errors import PluginError
from stdet.registry import _fenced_registry
registry = _fenced_registry("models")
for attempt in (
    lambda: registry.get("os.system"),
    lambda: registry.get("acme_evil.anything"),
    lambda: registry.build({"type": "os.system", "command": "true"}),
    lambda: registry.build({"type": "anything", "_scope_": "acme_evil"}),
):
    try:
        attempt()
    except PluginError:
        continue
    sys.exit("the fence let something through")
sys.exit("the module was imported") if "acme_evil" in sys.modules else print("fenced")
"""


def test_mmengines_own_registry_can_not_import_what_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "acme_evil").mkdir()
    (tmp_path / "acme_evil" / "__init__.py").write_text("")
    (tmp_path / "acme_evil" / "registry.py").write_text("")
    done = subprocess.run([sys.executable, "-c", FENCE], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "fenced", done.stderr


def test_a_reader_may_bring_a_writer_and_no_other_kind_may(plant: Plant, load: Load) -> None:
    hook = "\n@hookimpl\ndef stdet_register_{}(register):\n    register('x', 'collections:Counter', 's', writer={!r})\n"
    plant("good", HEAD + hook.format("datasets", "collections:OrderedDict"))
    plant("vague", HEAD + hook.format("datasets", "OrderedDict"))
    plant("wrong", HEAD + hook.format("schedulers", "collections:OrderedDict"))
    catalogue, states = load()
    assert catalogue.entry("datasets", "x").writer == "collections:OrderedDict"
    assert (states["vague"].state, states["wrong"].state) == ("broken", "broken")
