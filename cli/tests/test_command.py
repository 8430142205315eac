"""The command as a user meets it: help, lists, config errors, JSON on stdout and nothing else, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdet_cli.main import _budget

CONFIG = """\
operation_mode: training
general: { saved_models_dir: models }
model: { model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }
dataset:
  dataset_name: synthetic
  class_names: [disc, square]
  num_images: 8
  image_size: 64
  num_workers: 0
training: { batch_size: 4, epochs: 1, no_aug_epochs: 0, print_interval: 1, device: cpu }
hydra: { run: { dir: OUT/run } }
"""


Plant = Callable[..., dict[str, str]]


def stdet(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stdet_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))


def on_the_path(folder: Path) -> dict[str, str]:
    """The environment in which `folder` comes first."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("OUT", str(tmp_path)))
    return path


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


HEAVY = """
import sys
sys.argv = ["stdet", *{arguments!r}]
try:
    from stdet_cli.main import main
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
found = {{"torch", "torchvision", "mmengine", "mlflow", "cv2", "onnx", "onnxruntime", "matplotlib"}} & sys.modules.keys()
print("HEAVY", sorted(found), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "models"],
        ["list", "targets", "--json"],
        ["plugins"],
        ["config", "check", "CONFIG"],
        ["config", "schema"],
        ["data", "--help"],
    ],
    ids=" ".join,
)
def test_commands_that_only_look_import_nothing_heavy(arguments: list[str], config: Path) -> None:
    arguments = [str(config) if a == "CONFIG" else a for a in arguments]
    done = subprocess.run(
        [sys.executable, "-c", HEAVY.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert "HEAVY []" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (["list", "models"], '"numpy", "pydantic", "yaml", "rich",'),
        (["list", "targets"], '"numpy", "pydantic", "yaml", "rich",'),
        (["plugins"], '"numpy", "pydantic", "yaml", "rich",'),
        (["config", "check", "CONFIG"], '"numpy", "rich",'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_list_needs_no_numpy_and_no_pydantic_and_a_check_no_numpy(
    arguments: list[str], without: str, config: Path
) -> None:
    arguments = [str(config) if a == "CONFIG" else a for a in arguments]
    code = HEAVY.format(arguments=arguments).replace('"torch",', without, 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stderr, done.stderr


def test_lists_show_name_origin_version_and_state() -> None:
    found = {line["name"]: line for line in document(stdet("list", "models", "--json"))}
    milli = found["st_yolodv2milli_actrelu_pt"]
    assert (milli["distribution"], milli["state"]) == ("stdet-models-yolod", "available")
    assert milli["version"]
    assert "st_yolodv2milli_actrelu_pt\t" in stdet("list", "models").stdout
    assert {p["name"] for p in document(stdet("plugins", "--json"))} >= {"core", "datasets", "ssd", "stm32", "yolod"}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Makes a distribution with one plugin; returns the environment in which it is installed."""

    def make(code: str, entry: str = "acme") -> dict[str, str]:
        folder = tmp_path / "site"
        info = folder / "acme_broken-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "acme_broken.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[stdet]\n{entry} = acme_broken\n")
        return on_the_path(folder)

    return make


def test_a_broken_plugin_is_shown_and_the_rest_works(plant: Plant) -> None:
    env = plant("raise RuntimeError('boom')")
    states = {p["name"]: p for p in document(stdet("plugins", "--json", env=env))}
    assert states["acme"]["state"] == "broken"
    assert "RuntimeError: boom" in states["acme"]["reason"]
    assert stdet("list", "models", env=env).returncode == 0


PLUGIN = "from stdet.plugins import hookimpl\nSTDET_API_VERSION = {api}\n"
REGISTER = "@hookimpl\ndef stdet_register_schedulers(register):\n    register({name!r}, {target!r}, 'a schedule')\n"


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("def broken(:", "broken", "SyntaxError"),
        ("import sys; sys.exit(0)", "broken", "SystemExit"),
        (PLUGIN.format(api=99), "wrong-api", "made for plugin API 99, this stdet-core has API 2"),
        (PLUGIN.format(api=2) + "@hookimpl\ndef stdet_register_shedulers(register): ...", "broken", "shedulers"),
        (PLUGIN.format(api=2) + REGISTER.format(name="f", target="a:b") + "    1 / 0", "broken", "ZeroDivisionError"),
        (PLUGIN.format(api=2) + REGISTER.format(name="f", target="a.b"), "broken", "module:attribute"),
        (PLUGIN.format(api=2) + REGISTER.format(name="f", target="a:b"), "loaded", ""),
    ],
)
def test_each_fault_of_a_plugin_is_shown(plant: Plant, code: str, state: str, reason: str) -> None:
    found = {p["distribution"]: p for p in document(stdet("plugins", "--json", env=plant(code)))}
    assert found["acme-broken"]["state"] == state
    assert reason in found["acme-broken"]["reason"]
    assert found["stdet-core"]["state"] == "loaded"


def test_a_stranger_with_an_entry_point_named_like_ours_is_set_aside_and_ours_is_not(plant: Plant) -> None:
    env = plant(PLUGIN.format(api=2), entry="yolod")
    found = {p["distribution"]: p for p in document(stdet("plugins", "--json", env=env))}
    assert [found[d]["state"] for d in ("acme-broken", "stdet-models-yolod")] == ["duplicate", "loaded"]


def test_a_name_claimed_twice_is_shown_as_such(plant: Plant) -> None:
    env = plant(PLUGIN.format(api=2) + REGISTER.format(name="cosine", target="a:b"))
    lines = [line for line in document(stdet("list", "schedulers", "--json", env=env)) if line["name"] == "cosine"]
    assert [line["state"] for line in lines] == ["claimed twice"] * 2


def test_a_broken_model_of_somebody_else_does_not_hide_the_mistakes_of_a_config(plant: Plant, config: Path) -> None:
    register = "@hookimpl\ndef stdet_register_models(register):\n    register('net', 'a:b', '', family='acme_no:F')\n"
    env = plant(PLUGIN.format(api=2) + register)
    assert stdet("config", "check", str(config), env=env).returncode == 0
    config.write_text(config.read_text().replace("epochs", "epoks"))
    assert "did you mean `epochs`" in stdet("config", "check", str(config), env=env).stderr


def test_what_a_plugin_prints_does_not_end_up_in_the_document(plant: Plant) -> None:
    noise = "import os\nprint('hello')\nos.write(1, b'raw')\nos.system('echo child')\n"
    done = stdet("list", "models", "--json", env=plant(noise + PLUGIN.format(api=2)))
    assert document(done)
    assert all(word in done.stderr for word in ("hello", "raw", "child"))


def test_ctrl_c_at_any_time_is_one_document_and_exit_code_130(config: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import stdet.api\ndef stop(*a, **k): raise KeyboardInterrupt\nstdet.api.run = stop\n"
    )
    done = stdet("train", str(config), "--json", env=on_the_path(tmp_path))
    assert done.returncode == 130
    assert document(done)["error"]["message"] == "stopped"
    assert "Traceback" not in done.stderr


def test_the_schedule_is_drawn_and_told(config: Path, tmp_path: Path) -> None:
    picture = tmp_path / "rates.png"
    found = document(stdet("config", "plot-schedule", str(config), "-o", str(picture), "--json"))
    assert (found["epochs"], found["steps_per_epoch"], found["picture"]) == (1, 2, str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = stdet("config", "plot-schedule", str(config), "-o", str(tmp_path / "rates.jpg"), "--steps-per-epoch", "3")
    assert done.returncode == 2
    assert "ends in .png" in done.stderr


def test_mistakes_in_a_config_exit_with_two_and_are_listed(config: Path) -> None:
    config.write_text(config.read_text().replace("epochs: 1", "epochs: none_at_all").replace("batch_size", "batchsize"))
    done = stdet("config", "check", str(config))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean `batch_size`" in done.stderr
    assert "Traceback" not in done.stderr
    as_json = stdet("train", str(config), "--json")
    assert as_json.returncode == 2
    problems = document(as_json)["error"]["problems"]
    assert {p["key"] for p in problems} == {"training.batchsize", "training.epochs"}
    assert all(p["place"].startswith(f"{config}:") for p in problems)


def test_a_good_config_is_checked_shown_and_reloads(config: Path, tmp_path: Path) -> None:
    assert "no mistakes" in stdet("config", "check", str(config)).stdout
    shown = stdet("config", "show", str(config), "training.epochs=7").stdout
    (tmp_path / "again.yaml").write_text(shown)
    one, other = (
        document(stdet("config", "show", "--json", *a))
        for a in ((str(config), "training.epochs=7"), (str(tmp_path / "again.yaml"),))
    )
    assert one == other
    assert one["training"]["epochs"] == 7
    assert "mosaic_prob" in json.dumps(document(stdet("config", "schema")))


def test_misuse_of_the_command_exits_with_two() -> None:
    assert stdet("list", "nothing").returncode == 2
    assert stdet("no-such-command").returncode == 2
    missing = stdet("train", "/no/such/file.yaml")
    assert (missing.returncode, "cannot read the config" in missing.stderr) == (2, True)


def test_training_prints_one_json_document_and_never_overwrites_a_run(config: Path, tmp_path: Path) -> None:
    done = stdet("train", str(config), "--json")
    assert done.returncode == 0, done.stderr
    result = document(done)
    run = Path(result["run_dir"])
    assert result["stages"]["train"]["best_epoch"] == 1
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "run.json", "stdet.log", "curves.png", "models"}
    assert (run / "models" / "st_yolodv2milli_actrelu_pt.onnx").exists()
    assert json.loads((run / "run.json").read_text()) == result
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    evaluated = stdet("evaluate", str(run / "config.yaml"), f"model.model_path={run}/models/best_ckpt.pth", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert document(evaluated)["run_dir"] == f"{run}_1"
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_checkpoint_of_another_model_is_a_clear_error(config: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"model": {"conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    done = stdet("evaluate", str(config), f"model.model_path={tmp_path}/other.pth")
    assert done.returncode == 2
    assert "does not fit st_yolodv2milli_actrelu_pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_checkpoint_that_auto_resumes(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("epochs: 1", "epochs: 40"))
    command = [sys.executable, "-m", "stdet_cli.main", "train", str(config)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "run" / "models" / "latest_ckpt.pth"
    for _ in range(600):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    command = f"stdet run {tmp_path}/run/config.yaml training.resume_training_from={checkpoint}"
    assert f"go on with\nstdet run --resume {tmp_path}/run\n" in stderr
    assert f"\n{command}\n" in stderr
    done = stdet("train", str(config), "training.resume_training_from=auto", "training.epochs=3", "--json")
    assert done.returncode == 0, done.stderr
    assert Path(document(done)["stages"]["train"]["best_checkpoint"]).parent.parent.name == "run_1"


def test_a_bug_is_a_traceback_and_exit_code_one(config: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import stdet.api\ndef bug(*a, **k): raise ZeroDivisionError('planted')\nstdet.api.run = bug\n"
    )
    done = stdet("train", str(config), "--json", env=on_the_path(tmp_path))
    assert done.returncode == 1
    assert "ZeroDivisionError: planted" in done.stderr
    assert "error" in document(done)


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["train", "c.yaml", "--nope"], ["lst"], ["list", "model"]], ids=" ".join
)
def test_a_wrong_option_is_a_users_mistake_told_like_any_other(arguments: list[str]) -> None:
    for flags in ([], ["--json"]):
        done = stdet(*arguments, *flags)
        assert done.returncode == 2
        assert "error: " in done.stderr
        assert "--help" in done.stderr
        assert bool(done.stdout) == bool(flags)
    assert document(done)["error"]["message"]


@pytest.mark.parametrize("group", ["", "config", "data", "plugins", "runs"])
def test_no_line_of_a_group_s_help_is_cut_off(group: str) -> None:
    commands = stdet(*group.split(), "--help", env={"COLUMNS": "80"}).stdout.partition("Commands:")[2]
    assert commands
    assert "..." not in commands


def test_the_bare_command_shows_its_help() -> None:
    done = stdet()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize("arguments", ["config schema", "list schedulers"])  # more and less than a buffer
def test_a_reader_that_has_seen_enough_is_no_bug(arguments: str) -> None:
    command = f"{sys.executable} -m stdet_cli.main {arguments} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("141", "")


def test_the_time_budget_of_the_command_line_is_the_configs() -> None:
    assert _budget(["a=1"], "30m") == ["a=1", "training.time_budget=30m"]
    assert _budget(None, None) == []


def test_a_config_whose_files_are_not_there_does_not_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(
        "operation_mode: evaluation\nmodel: {model_name: ssdlite_mobilenetv2_pt, model_path: no.pth}\n"
        f"dataset:\n  val_images_path: {tmp_path / 'images'}\n  val_annotations_path: {tmp_path / 'a.json'}\n"
    )
    done = stdet("config", "check", str(config))
    assert done.returncode == 2
    assert "c.yaml:2: model.model_path: there is nothing at no.pth" in done.stderr
    assert f"c.yaml:5: dataset.val_annotations_path: there is nothing at {tmp_path / 'a.json'}" in done.stderr
    (tmp_path / "a.json").touch()
    assert stdet("config", "check", str(config), f"model.model_path={config}").returncode == 0


def test_versions_are_those_of_all_that_is_installed(plant: Plant) -> None:
    found = document(stdet("--version", "--json", env=plant("")))
    assert {"python", "stdet-cli", "stdet-core", "stdet-models-ssd", "torch", "onnxruntime"} <= found.keys()
    assert found["acme-broken"] == "1.0"


def completed(*words: str) -> list[str]:
    """What a bash offers for the last of `words`."""
    code = HEAVY.format(arguments=[]).replace('"torch",', '"numpy", "torch",', 1)
    line = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), "_STDET_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | line
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.split(), done.stderr]


def test_a_shell_completes_keys_values_models_and_boards_and_from_the_second_time_on_without_numpy() -> None:
    assert "training.epochs=" in completed("stdet", "train", "c.yaml", "training.e")
    *values, heavy = completed("stdet", "train", "c.yaml", "dataset.on_bad_data=")
    assert values == ["dataset.on_bad_data=error", "dataset.on_bad_data=skip"]
    assert "HEAVY []" in heavy
    assert "ssd_mobilenetv1_pt" in completed("stdet", "run", "c.yaml", "model.model_name", "=")  # as bash cuts it
    assert completed("stdet", "export", "a.pth", "training.fp16", "=", "T")[0] == "True"
    assert completed("stdet", "bench", "a.onnx", "--board", "stm32n6")[0] == "stm32n6570-dk"
