"""`stdet plugins …` and `--plugin FILE`: they answer whatever plugins do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from strangers import ABSTRACT, FINE, HEAD, HOOK, site, stdet

from stdet.plugins.survey import survey

HALF = (
    HEAD
    + "from stdet.interfaces.scheduler import Scheduler\n"
    + "class Half(Scheduler):\n    def __init__(self, length, options): pass\n"
    + "    def learning_rate(self, step, base_lr): return base_lr / 2\n"
    + HOOK
    + "register('half', 'my_rate:Half', 'half of the base rate')\n"
)


def test_what_hangs_is_named_and_the_others_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site(tmp_path, "acme-hang", "while True: pass")
    site(tmp_path, "acme-fine", FINE.format("acme-fine"))
    monkeypatch.syspath_prepend(tmp_path)
    found = survey(limit_s=3)
    states = {state.distribution: state for state in found.states}
    assert states["acme-hang"].reason == "it hangs: nothing happened for 3 s"
    assert states["acme-fine"].state == states["stdet-core"].state == "loaded"
    assert {e.name for e in found.entries if e.distribution == "acme-fine"} == {"acme-fine-fine"}


def test_a_plugin_is_disabled_and_enabled_without_being_imported(tmp_path: Path) -> None:
    site(tmp_path, "acme-killer", "import os; os._exit(9)")
    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    assert stdet(tmp_path, "list", "models", **home).returncode == 9
    done = stdet(tmp_path, "plugins", "disable", "acme-killer", **home)
    assert (done.returncode, "disabled_plugins.json" in done.stdout) == (0, True)
    assert stdet(tmp_path, "list", "models", **home).returncode == 0
    listed = json.loads(stdet(tmp_path, "plugins", "--json", **home).stdout)
    killer = next(s for s in listed if s["distribution"] == "acme-killer")
    assert killer["state"] == "left out"
    assert "stdet plugins enable acme-killer" in killer["reason"]
    chosen = stdet(tmp_path, "list", "models", STDET_PLUGINS="acme-killer", **home)
    assert chosen.returncode == 9  # a choice for one command says more than the list
    assert stdet(tmp_path, "plugins", "enable", "acme-killer", **home).returncode == 0
    assert stdet(tmp_path, "list", "models", **home).returncode == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("disable", "core"), "can't be disabled"),
        (("disable", "acm"), "there is no plugin `acm`"),
        (("enable", "ssd"), "is not disabled"),
        (("ssdd",), "no plugin is called `ssdd`"),
        (("check", "ssdd"), "no plugin is called `ssdd`"),
    ],
)
def test_a_wrong_name_is_a_mistake(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = stdet(tmp_path, "plugins", *words, XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert message in done.stderr
    assert "hint: " in done.stderr or "core" in message + done.stderr


def test_a_damaged_list_of_disabled_plugins_is_named(tmp_path: Path) -> None:
    (tmp_path / "stdet").mkdir()
    (tmp_path / "stdet" / "disabled_plugins.json").write_text('{"format": "stdet.disabled-plugins/1", "disabled": 3}')
    done = stdet(tmp_path, "list", "models", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "disabled_plugins.json" in done.stderr


def test_a_plugin_of_ours_and_what_it_registers(tmp_path: Path) -> None:
    done = stdet(tmp_path, "plugins", "datasets", "--json")
    kinds = {(entry["kind"], entry["name"]) for entry in json.loads(done.stdout)}
    assert kinds >= {("datasets", "coco"), ("datasets", "voc"), ("transforms", "yolox")}


def test_check_says_what_is_wrong_with_each_string(tmp_path: Path) -> None:
    register = "".join(
        f"    register('{name}', '{target}', 's'{more})\n"
        for name, target, more in (
            ("acme-gone", "acme_strings_gone:Gone", ""),
            ("acme-abstract", "acme_strings_more2:Base", ""),
            ("acme-exit", "acme_strings_exit:X", ""),
            ("acme-torch", "acme_strings_more2:Base", ", options='acme_strings_torch:Keys'"),
            ("cosine", "acme_strings_more2:Base", ""),
        )
    )
    site(tmp_path, "acme-strings", HEAD + HOOK.rstrip(" ") + register)
    (tmp_path / "acme_strings_more2.py").write_text(ABSTRACT)
    (tmp_path / "acme_strings_exit.py").write_text("import os; print('noise'); os._exit(0)")
    (tmp_path / "acme_strings_torch.py").write_text(
        "import matplotlib\nfrom stdet.interfaces.family import Options\nclass Keys(Options): ...\n"
    )
    metadata = tmp_path / "acme_strings-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: no-such-library-at-all>=3\nRequires-Dist: numpy<1\n")
    done = stdet(tmp_path, "plugins", "check", "acme-strings", "--json")
    assert done.returncode == 2, done.stderr
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    faults = {what: f["finding"] for what, f in found.items() if f["verdict"] == "fault"}
    assert "pip install" in faults["no-such-library-at-all>=3"]
    assert "is installed" in faults["numpy<1"]
    assert "say acme-strings/cosine" in faults["scheduler `cosine`"]
    assert "ModuleNotFoundError" in faults["scheduler `acme-gone`: target `acme_strings_gone:Gone`"]
    assert "without learning_rate" in faults["scheduler `acme-abstract`: target `acme_strings_more2:Base`"]
    assert "brings matplotlib" in faults["scheduler `acme-torch`: options `acme_strings_torch:Keys`"]
    ended = faults["scheduler `acme-exit`: target `acme_strings_exit:X`"]
    assert ended == "it ended the process before it was done"


def test_check_finds_nothing_wrong_with_ours(tmp_path: Path) -> None:
    for name in ("core", "datasets"):
        done = stdet(tmp_path, "plugins", "check", name, "--json")
        assert done.returncode == 0, done.stdout
        assert {finding["verdict"] for finding in json.loads(done.stdout)} == {"ok"}


def test_a_plugin_of_one_file_works_in_any_command(tmp_path: Path) -> None:
    path = tmp_path / "tried" / "my_rate.py"
    path.parent.mkdir()
    path.write_text(HALF)
    config = tmp_path / "c.yaml"
    config.write_text(
        "operation_mode: training\nmodel: {model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 96, 96]}\n"
        "dataset: {dataset_name: synthetic, class_names: [disc]}\ntraining: {epochs: 2, scheduler: half}\n"
    )
    assert stdet(tmp_path, "config", "check", str(config)).returncode == 2
    done = stdet(tmp_path, "config", "check", "--plugin", str(path), str(config))
    assert done.returncode == 0, done.stderr
    drawn = stdet(
        tmp_path, f"--plugin={path}", "config", "plot-schedule", str(config), "--json", "-o", f"{tmp_path}/s.png"
    )
    rates = json.loads(drawn.stdout)["learning_rates"]
    assert all(rate["highest"] == pytest.approx(rate["base"] / 2) for rate in rates)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--plugin", "nowhere.py"), "there is no file"),
        (("--plugin", "c.yaml"), "is no Python file"),
        (("--plugin",), "is no Python file"),
        (("--plugin", "files/json.py"), "`json` is"),
        (("--plugin", "files/broken.py"), "division by zero"),
    ],
)
def test_a_file_that_is_no_plugin_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "json.py").write_text(HALF)
    (tmp_path / "files" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    done = stdet(tmp_path / "elsewhere", "plugins", *words)
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


RATE = "    def learning_rate(self, step, base_lr): return {}['oops']\n"
NOTES = "class Keys(ScheduleOptions):\n    def notes(self, epochs): raise KeyError('oops')\n"
RAISES = {
    "a factory": "class Half(Scheduler):\n    def __init__(self, *_): raise KeyError('oops')\n" + RATE,
    "a rate": "class Half(Scheduler):\n    def __init__(self, *_): ...\n" + RATE,
    "notes": "class Half(Scheduler):\n"
    + RATE
    + "class Keys(ScheduleOptions):\n    def notes(self, epochs): raise KeyError('oops')\n",
}


@pytest.mark.parametrize("which", RAISES)
def test_an_error_in_a_plugins_code_names_the_plugin_beside_the_traceback(tmp_path: Path, which: str) -> None:
    imports = "from stdet.interfaces.scheduler import Scheduler, ScheduleOptions\n"
    options = ", options='acme_raises:Keys'" if which == "notes" else ""
    call = f"register('half', 'acme_raises:Half', 's'{options})\n"
    site(tmp_path, "acme-raises", HEAD + imports + RAISES[which] + HOOK + call)
    config = tmp_path / "c.yaml"
    config.write_text(
        "operation_mode: training\nmodel: {model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 96, 96]}\n"
        "dataset: {dataset_name: synthetic, class_names: [disc]}\ntraining: {epochs: 2, scheduler: half}\n"
    )
    done = stdet(tmp_path, "config", "plot-schedule", str(config), "-o", str(tmp_path / "s.png"))
    assert done.returncode == 1
    assert "KeyError: 'oops'" in done.stderr
    assert "this is a bug in acme-raises 1.0, a plugin that is not stdet's" in done.stderr
