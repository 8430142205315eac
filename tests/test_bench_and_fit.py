"""`stdet bench MODEL.onnx` and `stdet fit CONFIG`: from the command line to the verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stdet_cli.main import main

CONFIG = """
model: {{model_type: ssd, model_name: ssdlite_mobilenetv2_pt, input_shape: [3, {size}, {size}], pretrained: false,
  num_classes: 3{more}}}
hydra: {{run: {{dir: {folder}}}}}
"""


def run(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["stdet", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def network(path: Path, channels: int = 8) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[3, 3], pads=[1] * 4)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, depth, 32, 32])]
        for name, depth in (("x", 3), ("y", channels))
    ]
    weight = numpy_helper.from_array(np.ones((channels, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph([node], "g", *ends, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_files_are_benched_without_a_config_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(network(tmp_path / "a.onnx")), str(network(tmp_path / "b.onnx", 16))]
    options = ["--board", "STM32N6570-DK", "--backend", "estimate", "--output", str(tmp_path / "out")]
    code, out, _ = run(["bench", *models, *options], monkeypatch, capsys)
    assert code == 0
    assert "STM32N6570-DK\tfits" in out
    assert "latency ms (by a formula)" in out
    assert (tmp_path / "out" / "bench.html").read_text().startswith("<!doctype html>")
    code, out, _ = run(["bench", *models, *options, "--json"], monkeypatch, capsys)
    assert code == 0
    document = json.loads(out)
    assert [r["model"] for r in document["reports"]] == ["a.onnx", "b.onnx"]
    assert all(r["latency_kind"] == "model" and r["uncertainty_percent"] for r in document["reports"])
    assert document == json.loads((tmp_path / "out_1" / "bench.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--board", "STM32N6570"], "stm32n6570-dk"),
        (["--backend", "estimat"], "estimate"),
        (["another.yaml"], "another.yaml stands among ONNX files"),
    ],
)
def test_a_slip_in_a_bench_of_files_is_answered_with_what_was_meant(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["bench", str(network(tmp_path / "a.onnx")), *arguments], monkeypatch, capsys)
    assert code == 2
    assert says in err


def there(config: Path) -> str:
    """Tools write beside the runs, unless the command line says where."""
    return f"hydra.run.dir={config.parent / 'run'}"


def test_a_network_that_fits_is_told_so_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(size=96, more="", folder=tmp_path / "run"))
    code, out, _ = run(["fit", str(config), there(config), "--board", "stm32n6570-dk", "--json"], monkeypatch, capsys)
    document = json.loads(out)
    assert (code, document["fits"], document["instead"]) == (0, True, [])


def test_a_network_that_does_not_fit_ends_with_two_and_names_the_nearest_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(size=96, more=", width_mult: 0.5", folder=tmp_path / "run"))
    code, out, err = run(
        ["fit", str(config), there(config), "--board", "nucleo-h743zi2", "--latency-ms", "1"], monkeypatch, capsys
    )
    assert code == 2
    assert "more than 1 ms" in err
    assert "none was found that will do" in out
    config.write_text(CONFIG.format(size=96, more="", folder=tmp_path / "run"))
    code, out, _ = run(["fit", str(config), there(config), "--board", "stm32h735g-dk", "--json"], monkeypatch, capsys)
    document = json.loads(out)
    assert code == 2
    assert document["reason"].startswith("flash overflows by")
    assert [entry["change"].split("=")[0] for entry in document["instead"]] == ["model.width_mult"]
    assert document["instead"][0]["report"]["fits"] is True


def test_a_training_for_a_board_says_first_whether_the_model_will_fit_and_draws_nothing_from_the_seed(
    tmp_path: Path,
) -> None:
    import torch

    from stdet import api
    from stdet.build import Builder
    from stdet.fitting import before_training
    from stdet.interfaces.reporter import SilentReporter

    class Notes(SilentReporter):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def note(self, message: str) -> None:
            self.seen.append(message)

    path, notes = tmp_path / "c.yaml", Notes()
    path.write_text(CONFIG.format(size=96, more="", folder=tmp_path / "run"))
    for board in ([], ["benchmarking.board=stm32n6570-dk"]):
        state = torch.random.get_rng_state()
        before_training(Builder(api.load_data_config(path, board), api._plugins()[0]), notes)
        assert torch.equal(torch.random.get_rng_state(), state)
    (line,) = notes.seen
    assert line.startswith("STM32N6570-DK: the model fits; ")
    assert line.endswith("(model, no measurement)")


TOOL = """\
#!{python} -IS
import json, os, sys
if sys.argv[1] == "--version":
    sys.exit(print("ST Edge AI Core v4.0.1-20581 7ed50de05"))
if os.path.exists(__file__ + ".broken"):
    sys.exit("Unsupported layer types: Einsum")
out = sys.argv[sys.argv.index("--output") + 1]
os.makedirs(out)
buffers = [{{"id": 1, "is_param": False, "mpool_id": 1, "offset_start": 0, "size_bytes": 900, "shape": [1, 3, 8, 8],
            "epochs": {{"start": 0, "end": 1}}}}]
pools = [{{"id": 1, "name": "npuRAM5", "address": "875429888", "size_bytes": 458752, "used_size_bytes": 900,
          "rights": "ACC_WRITE"}}]
node = {{"id": 2, "name": "epoch_1", "mapping": "NODE_HW", "inputs": [], "outputs": [1], "macc": 0, "type": "Conv"}}
json.dump({{"json_schema_version": "2.0", "environment": {{"tools": [{{"name": "ST.EdgeAI.Core", "version": "4.0.1"}}]}},
           "memory_footprint": {{"weights": 250, "activations": 900, "io": []}}, "memory_pools": pools, "buffers": buffers,
           "graphs": [{{"nodes": [node]}}], "power_estimates": [{{"node_id": 2, "max_cycles": 3000000}}]}},
          open(out + "/network_c_info.json", "w"))
open(out + "/network_analyze_report.txt", "w").write("model: macc=221,184 weights=1 activations=-- io=--\\n")
"""


def test_sts_tool_stands_beside_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for the tool, once by a variable and a file, once by a config."""
    tool = tmp_path / "stedgeai"
    tool.write_text(TOOL.format(python=sys.executable))
    tool.chmod(0o755)
    model, out = str(network(tmp_path / "a.onnx")), tmp_path / "out"
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(tmp_path))
    chosen = ["--board", "STM32N6570-DK", "--backend", "estimate,stedgeai"]
    line = ["bench", model, *chosen, "--output", str(out), "--json"]
    code, printed, _ = run(line, monkeypatch, capsys)
    assert code == 0
    estimate, vendor = json.loads(printed)["reports"]
    assert (estimate["latency_kind"], vendor["latency_kind"], vendor["latency_ms"]) == ("model", "vendor_estimate", 3.0)
    assert estimate["macc"] == vendor["macc"]
    assert (out / "tools" / "stedgeai" / "a" / "analyze.log").is_file()
    _, printed, _ = run(line[:-1], monkeypatch, capsys)
    assert "latency ms (by a formula)\tlatency ms (vendor's estimate)" in printed
    monkeypatch.delenv("STEDGEAI_CORE_DIR")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"operation_mode: benchmarking\nmodel: {{model_path: {model}}}\nbenchmarking: {{board: STM32N6570-DK}}\n"
        f"tools: {{stedgeai: {{path_to_stedgeai: {tool}}}}}\nhydra: {{run: {{dir: {tmp_path / 'run'}}}}}\n"
    )
    code, printed, _ = run(["run", str(config), "--json"], monkeypatch, capsys)
    assert code == 0
    assert [r["backend"] for r in json.loads(printed)["stages"]["bench"]] == ["host", "estimate", "stedgeai"]
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(tmp_path))
    (tmp_path / "stedgeai.broken").touch()
    code, _, said = run(line, monkeypatch, capsys)
    assert code == 2
    assert "doesn't know the operator Einsum" in said
    assert f"its log is {tmp_path / 'out_2' / 'tools' / 'stedgeai' / 'a' / 'analyze.log'}" in " ".join(said.split())
    monkeypatch.setenv("STEDGEAI_CLOUD_TOKEN_FILE", str(tmp_path / "none"))
    code, _, said = run(["run", str(config), "tools.stedgeai.on_cloud=True"], monkeypatch, capsys)
    assert code == 2  # before anything is benched, and nothing else in the cloud's place
    assert "there is no token for the Developer Cloud" in said
