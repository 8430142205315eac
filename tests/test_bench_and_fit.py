"""`stdet bench MODEL.onnx` and `stdet fit CONFIG`: from the command line to the verdict."""

from __future__ import annotations

import json
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


def test_a_network_that_fits_is_told_so_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(size=96, more="", folder=tmp_path / "run"))
    code, out, _ = run(["fit", str(config), "--board", "stm32n6570-dk", "--json"], monkeypatch, capsys)
    document = json.loads(out)
    assert (code, document["fits"], document["instead"]) == (0, True, [])


def test_a_network_that_does_not_fit_ends_with_two_and_names_the_nearest_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(size=96, more=", width_mult: 0.5", folder=tmp_path / "run"))
    code, out, err = run(["fit", str(config), "--board", "nucleo-h743zi2", "--latency-ms", "1"], monkeypatch, capsys)
    assert code == 2
    assert "more than 1 ms" in err
    assert "none was found that will do" in out
    config.write_text(CONFIG.format(size=96, more="", folder=tmp_path / "run"))
    code, out, _ = run(["fit", str(config), "--board", "stm32h735g-dk", "--json"], monkeypatch, capsys)
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
