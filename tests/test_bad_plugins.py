"""Plugins that are wrong in every way we could think of, all installed at once beside ours: each is named with what is
wrong with it, and everything else goes on. Checked through the command and the API, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from strangers import FINE, HEAD, HOOK, environment, site, stdet

from stdet.known import known
from stdet.plugins import API_VERSION


@dataclass(frozen=True)
class Bad:
    """A plugin's code and what must be said of it."""

    code: str
    state: str
    reason: str
    entry: str = ""


OWN_BASE = "class Stop(BaseException): ...\nraise Stop('enough')"
MUTE = "class Mute(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise Mute"
NOISE = "import os\nprint('noise-1')\nos.write(1, b'noise-2')\nos.system('echo noise-3')\n"

LOADER = {
    "bad-import": Bad("import no_such_module_at_all", "broken", "ModuleNotFoundError"),
    "bad-syntax": Bad("def broken(:", "broken", "SyntaxError"),
    "bad-raise": Bad("raise RuntimeError('boom')", "broken", "RuntimeError: boom"),
    "bad-exit": Bad("import sys; sys.exit(0)", "broken", "SystemExit"),
    "bad-interrupt": Bad("raise KeyboardInterrupt", "broken", "KeyboardInterrupt"),
    "bad-generator-exit": Bad("raise GeneratorExit", "broken", "GeneratorExit"),
    "bad-base": Bad(OWN_BASE, "broken", "Stop: enough"),
    "bad-mute": Bad(MUTE, "broken", "Mute: its message can't be shown"),
    "bad-recursion": Bad("def f(): f()\nf()", "broken", "RecursionError"),
    "bad-lines": Bad("raise ValueError('one\\n\\ttwo')", "broken", "ValueError: one two"),
    "bad-noise": Bad(NOISE + FINE.format("bad-noise"), "loaded", ""),
    "bad-handler": Bad(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + FINE.format("bad-handler"), "loaded", ""
    ),
    "bad-api": Bad(
        FINE.replace(f"= {API_VERSION}", "= 99"), "wrong-api", f"API 99, this stdet-core has API {API_VERSION}"
    ),
    "bad-no-api": Bad(FINE.replace(f"STDET_API_VERSION = {API_VERSION}", ""), "wrong-api", "made for plugin API None"),
    "bad-api-object": Bad(FINE.replace(f"= {API_VERSION}", "= object()"), "wrong-api", "made for plugin API <object"),
    "bad-api-raises": Bad(
        "def __getattr__(name): raise OSError('no attribute for you')", "broken", "OSError: no attribute"
    ),
    "bad-hook-name": Bad(FINE.replace("_schedulers", "_shedulers"), "broken", "stdet_register_shedulers"),
    "bad-hook-argument": Bad(FINE.replace("(register)", "(registry)"), "broken", "registry"),
    "bad-halfway": Bad(FINE.format("bad-halfway") + "    1 / 0\n", "broken", "ZeroDivisionError"),
    "bad-hook-exit": Bad(FINE.format("bad-hook-exit") + "    raise SystemExit(3)\n", "broken", "SystemExit: 3"),
    "bad-hook-interrupt": Bad(FINE + "    raise KeyboardInterrupt\n", "broken", "KeyboardInterrupt"),
    "bad-slash": Bad(HEAD + HOOK + "register('a/b', 'a:b', 's')", "broken", "'a/b' is no name"),
    "bad-number": Bad(HEAD + HOOK + "register(7, 'a:b', 's')", "broken", "7 is no name"),
    "bad-summary": Bad(HEAD + HOOK + "register('a', 'a:b', None)", "broken", "not a text"),
    "bad-twice": Bad(HEAD + HOOK + "[register('a', 'a:b', 's') for _ in range(2)]", "broken", "registered twice"),
    "bad-colon": Bad(HEAD + HOOK + "register('a', 'a.b', 's')", "broken", "module:attribute"),
    "bad-object": Bad(HEAD + HOOK + "register('a', print, 's')", "broken", "module:attribute"),
    "bad-keyword": Bad(HEAD + HOOK + "register('a', 'a:b', 's', colour='red')", "broken", "colour"),
    "bad-attribute": Bad(HEAD, "broken", "nothing_there", entry="bad-attribute = {module}:nothing_there"),
    "bad-named-core": Bad(FINE, "duplicate", "stdet-core uses", entry="core = {module}"),
    "bad-named-ssd": Bad(FINE, "duplicate", "stdet-models-ssd uses", entry="ssd = {module}"),
    "bad-twin-one": Bad(FINE, "duplicate", "bad-twin-two uses", entry="twin = {module}"),
    "bad-twin-two": Bad(FINE, "duplicate", "bad-twin-one uses", entry="twin = {module}"),
    "bad-slow": Bad("import time; time.sleep(1.1)\n" + FINE.format("bad-slow"), "loaded", "its import takes 1"),
}

OPTIONS = "from stdet.interfaces.family import Options\n"
FAMILY = (
    "from stdet.interfaces.family import ModelFamily\nfrom stdet.structures import Preprocess\n"
    "FAMILY = ModelFamily({0}, 'toy', Preprocess(32, 32), 'yolox', 'cosine', False, 32, 32, 'toy', (32,){1})\n"
)

COMPONENTS = {
    # distribution: (kind, keywords of the registration, further code of the module, what must be said)
    "bad-options-class": (
        "schedulers",
        "options='{m}:Plain'",
        "class Plain: ...",
        "the class Plain; wanted is a subclass",
    ),
    "bad-options-int": ("schedulers", "options='{m}:N'", "N = 7", "of type int; wanted is a subclass"),
    "bad-options-gone": ("schedulers", "options='{m}:Gone'", "", "AttributeError"),
    "bad-options-exit": ("schedulers", "options='{m}_more:X'", "", "SystemExit"),
    "bad-options-open": (
        "schedulers",
        "options='{m}:O'",
        OPTIONS + "class O(Options):\n    x: 'Nowhere'\n",
        "types that can't be resolved",
    ),
    "bad-recipe-options": ("transforms", "options='{m}:O'", OPTIONS + "class O(Options): ...", "wanted is a subclass"),
    "bad-reader-facts": ("datasets", "facts='{m}:F'", "F = {}", "of type dict; wanted is a stdet"),
    "bad-reader-facts-class": (
        "datasets",
        "facts='{m}:F'",
        "from stdet.interfaces.dataset import ReaderFacts as F",
        "the class ReaderFacts; wanted is a stdet",
    ),
    "bad-target-facts": ("targets", "facts='{m}:F'", "F = None", "of type NoneType; wanted is a stdet"),
    "bad-target-section": (
        "targets",
        "facts='{m}:F'",
        "from stdet.interfaces.target import TargetFacts\nclass P: ...\nF = TargetFacts(sections={'training': P})",
        "a section `training`",
    ),
    "bad-target-gone": ("targets", "facts='nowhere_at_all:F'", "", "ModuleNotFoundError"),
    "bad-family-int": (
        "models",
        "family='{m}:F'",
        "F = 7",
        "of type int; wanted is a stdet.interfaces.family.ModelFamily",
    ),
    "bad-family-options": (
        "models",
        "family='{m}:FAMILY'",
        FAMILY.format("'t'", ", 0, dict"),
        "model_options is the class dict; wanted is a subclass",
    ),
    "bad-family-type": ("models", "family='{m}:FAMILY'", FAMILY.format("7", ""), "whose model_type is 7"),
    "bad-family-gone": ("models", "family='nowhere_at_all:F'", "", "ModuleNotFoundError"),
}

KEYS = {
    "models": "model.model_name",
    "datasets": "dataset.dataset_name",
    "transforms": "dataset.augmentation",
    "schedulers": "training.scheduler",
    "targets": "benchmarking.board",
}
"""What a config calls a component of a kind."""


@dataclass(frozen=True)
class Seen:
    """What a command said."""

    states: dict[str, dict[str, Any]]
    stderr: str


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every bad plugin at once."""
    root = tmp_path_factory.mktemp("crowd")
    for distribution, bad in LOADER.items():
        site(root, distribution, bad.code.replace("{0}", distribution), bad.entry)
    for distribution, (kind, keywords, code, _) in COMPONENTS.items():
        call = f"register('{distribution}-x', 'nowhere:x', 's', {keywords.format(m=distribution.replace('-', '_'))})"
        site(root, distribution, HEAD + HOOK.replace("schedulers", kind) + call + "\n" + code)
    return root


@pytest.fixture(scope="module")
def seen(crowd: Path) -> Seen:
    done = stdet(crowd, "plugins", "--json")
    assert done.returncode == 0, done.stderr
    return Seen({state["distribution"]: state for state in json.loads(done.stdout)}, done.stderr)


@pytest.mark.parametrize("distribution", LOADER)
def test_a_bad_plugin_is_set_aside_with_its_reason(seen: Seen, distribution: str) -> None:
    found, wanted = seen.states[distribution], LOADER[distribution]
    assert found["state"] == wanted.state
    assert wanted.reason in found["reason"]
    assert "\n" not in found["reason"]


def test_ours_are_loaded_whatever_else_is_there(seen: Seen) -> None:
    assert {d: seen.states[d]["state"] for d in known().distributions} == dict.fromkeys(known().distributions, "loaded")


def test_what_a_plugin_writes_to_stdout_by_any_way_is_kept_from_the_document(seen: Seen) -> None:
    assert all(f"noise-{n}" in seen.stderr for n in (1, 2, 3))


def test_a_slow_plugin_is_named_by_every_command_and_its_time_is_shown(seen: Seen) -> None:
    assert seen.states["bad-slow"]["import_ms"] > 1000
    assert "bad-slow" in seen.stderr
    assert seen.states["bad-named-core"]["import_ms"] is None


CONFIG = """\
operation_mode: training
model: { model_name: st_yolodv2milli_actrelu_pt }
dataset: { dataset_name: synthetic, class_names: [disc] }
training: { epochs: 1 }
"""

ASK = """
import json, sys
from pathlib import Path
from stdet import api
from stdet.errors import StdetError
def said(*overrides):
    try:
        api.load_config(Path(sys.argv[1]), overrides)
    except StdetError as error:
        return str(error)
    return ""
print(json.dumps({text: said(*text.split()) for text in sys.argv[2:]}))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def used(crowd: Path, config: Path) -> dict[str, str]:
    """What is said when each broken component is used, by name; an empty text stands for no mistake."""
    uses = {d: f"operation_mode=chain_tqeb {KEYS[kind]}={d}-x" for d, (kind, *_) in COMPONENTS.items()}
    command = [sys.executable, "-c", ASK, str(config), *uses.values(), "training.epoks=1", "training.epochs=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(crowd))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])  # below what a plugin printed
    return {d: said[use] for d, use in uses.items()} | {key: said[key] for key in command[-2:]}


@pytest.mark.parametrize("distribution", COMPONENTS)
def test_a_string_that_names_the_wrong_thing_is_the_plugins_fault_when_it_is_used(
    used: dict[str, str], distribution: str
) -> None:
    kind, *_, wanted = COMPONENTS[distribution]
    assert f"{distribution} 1.0 registers {kind.removesuffix('s')} `{distribution}-x` with" in used[distribution]
    assert wanted in used[distribution]


def test_a_config_that_uses_none_of_the_bad_ones_is_judged_as_if_they_were_not_there(used: dict[str, str]) -> None:
    assert used["training.epochs=2"] == ""
    assert "training.epoks: unknown key (found 1); did you mean `epochs`?" in used["training.epoks=1"]


def test_the_schema_says_which_components_it_can_not_describe(crowd: Path, tmp_path: Path) -> None:
    code = OPTIONS + "from collections.abc import Callable\nclass O(Options):\n    call: Callable[[], int] = int\n"
    site(tmp_path, "bad-callable", HEAD + HOOK + "register('c', 'a:b', 's', options='bad_callable:O')\n" + code)
    done = stdet(
        crowd, "config", "schema", PYTHONPATH=os.pathsep.join((str(tmp_path), environment(crowd)["PYTHONPATH"]))
    )
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    assert "epochs" in schema["properties"]["training"]["properties"]
    assert "schedulers/bad-options-class-x" in schema["x-not-loaded"]
    assert "can't be described" in schema["x-not-loaded"]["schedulers/c"]


def test_an_unknown_name_says_which_plugins_were_set_aside(crowd: Path, config: Path) -> None:
    done = stdet(
        crowd, "config", "check", str(config), "training.scheduler=of_acme", STDET_PLUGINS="bad-import,yolod,datasets"
    )
    assert done.returncode == 2
    assert "set aside: " in done.stderr
    assert "bad-import" in done.stderr


# --- a model type that two claim -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taken")
    register = HEAD + HOOK.replace("schedulers", "models") + "register('toy', 'a:b', 's', family='acme_taker:FAMILY')\n"
    site(root, "acme-taker", register + FAMILY.format("'ssd'", ""))
    return root


def test_a_model_type_of_two_distributions_belongs_to_neither(taken: Path, config: Path) -> None:
    done = stdet(taken, "config", "check", str(config), "operation_mode=evaluation", "model={model_type: ssd}")
    assert done.returncode == 2
    assert "model_type `ssd` is claimed by acme-taker and stdet-models-ssd" in done.stderr


@pytest.mark.parametrize(
    "model", ["model_type: stdet-models-ssd/ssd", "model_name: ssd_mobilenetv2_pt, model_type: ssd"]
)
def test_the_full_type_and_the_models_of_the_type_are_exact(taken: Path, config: Path, model: str) -> None:
    code = "import sys; from pathlib import Path; from stdet import api\n"
    code += "print(api.load_config(Path(sys.argv[1]), sys.argv[2:]).family.trainer_name)"
    overrides = ["operation_mode=evaluation", f"model={{{model}, model_path: m.onnx}}"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(config), *overrides],
        capture_output=True,
        text=True,
        check=False,
        env=environment(taken),
    )
    assert done.stdout.strip() == "ssd", done.stderr


def test_the_model_type_of_a_package_that_is_not_there_says_how_to_get_it(taken: Path, config: Path) -> None:
    done = stdet(taken, "config", "check", str(config), "model={model_type: ssd}", STDET_PLUGINS="datasets")
    assert "model_type `ssd` is provided by stdet-models-ssd, whose plugin is set aside: STDET_PLUGINS" in done.stderr


def test_another_name_that_two_formats_claim_belongs_to_neither(tmp_path: Path, config: Path) -> None:
    for distribution in ("acme-one", "acme-two"):
        module = distribution.replace("-", "_")
        facts = "from stdet.interfaces.dataset import ReaderFacts\nF = ReaderFacts(aliases=('pictures',))\n"
        call = f"register('{distribution}-x', 'a:b', 's', facts='{module}:F')\n"
        site(tmp_path, distribution, HEAD + HOOK.replace("schedulers", "datasets") + call + facts)
    done = stdet(tmp_path, "config", "check", str(config), "dataset.dataset_name=pictures")
    assert done.returncode == 2
    assert "'pictures' is another name of several formats: acme-one-x, acme-two-x" in done.stderr


# --- plugins that can only be left out -------------------------------------------------------------------------------


def test_a_plugin_that_kills_the_process_can_be_left_out(tmp_path: Path) -> None:
    site(tmp_path, "acme-killer", "import os; os._exit(9)")
    assert stdet(tmp_path, "list", "models").returncode == 9
    states = {s["distribution"]: s for s in json.loads(stdet(tmp_path, "plugins", "--json").stdout)}
    assert states["acme-killer"]["reason"] == "it ended the process with code 9"
    assert {states[d]["state"] for d in known().distributions} == {"loaded"}
    done = stdet(tmp_path, "plugins", "--json", STDET_PLUGINS="stdet-datasets, ssd")
    states = {state["distribution"]: state["state"] for state in json.loads(done.stdout)}
    assert states == {
        "acme-killer": "left out",
        "stdet-core": "loaded",
        "stdet-datasets": "loaded",
        "stdet-deploy-stm32": "left out",
        "stdet-models-ssd": "loaded",
        "stdet-models-yolod": "left out",
    }


def test_an_unknown_name_in_the_choice_lists_what_there_is(tmp_path: Path) -> None:
    done = stdet(tmp_path, "plugins", STDET_PLUGINS="ssd,yolox,acme")
    assert done.returncode == 2
    assert "STDET_PLUGINS names `acme`, `yolox`" in done.stderr
    assert "core, datasets, ssd, stm32, yolod" in done.stderr


def test_one_of_two_strangers_with_one_name_can_be_chosen(tmp_path: Path) -> None:
    for distribution in ("acme-one", "acme-two"):
        site(tmp_path, distribution, FINE.format(distribution), entry="acme = {module}")
    done = stdet(tmp_path, "plugins", "--json", STDET_PLUGINS="acme-two")
    states = {state["distribution"]: state["state"] for state in json.loads(done.stdout)}
    assert (states["acme-one"], states["acme-two"]) == ("left out", "loaded")


def test_ctrl_c_while_a_plugin_hangs_stops_and_names_it_and_how_to_leave_it_out(tmp_path: Path) -> None:
    hang = "import time\ntry:\n    print('hanging', flush=True)\n    time.sleep(60)\nexcept BaseException: pass\n"
    site(tmp_path, "acme-hang", hang)
    process = subprocess.Popen(
        [sys.executable, "-m", "stdet_cli.main", "plugins"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "hanging\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped while importing the plugin `acme-hang` of acme-hang" in stderr
    assert "STDET_PLUGINS=core,datasets,ssd,stm32,yolod leaves it out" in stderr
    assert "`stdet plugins disable acme-hang` for good" in stderr


def test_metadata_that_can_not_be_read_costs_its_own_distribution_alone(tmp_path: Path) -> None:
    site(tmp_path, "acme-unreadable", HEAD, entry="this line has no equals sign")
    done = stdet(tmp_path, "plugins", "--json")
    states = json.loads(done.stdout)
    assert {s["distribution"] for s in states if s["state"] == "loaded"} >= set(known().distributions)
    unreadable = [s for s in states if "acme_unreadable" in s["distribution"]]
    assert not unreadable or "can't be read" in unreadable[0]["reason"]  # Python 3.12 and later skip such a line


def test_a_distribution_without_a_name_is_called_by_its_module(tmp_path: Path) -> None:
    site(tmp_path, "acme-nameless", FINE.format("acme-nameless"))
    (tmp_path / "acme_nameless-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    done = stdet(tmp_path, "plugins", "--json")
    assert {"unknown (acme_nameless)", "stdet-core"} <= {s["distribution"] for s in json.loads(done.stdout)}
