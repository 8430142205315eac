"""`evaluation.target` and `prediction.target`: the integer reference and the network's C code answer for the model."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from reporters import Notes

from stdet import api
from stdet.errors import ConfigError, ModelError, StdetError
from stdet_deploy_stm32.bench import emulator

SIZE = 32
CONFIG = """\
operation_mode: chain_eqe
model: {{ head: yolov8, model_path: {folder}/model.onnx }}
dataset: {{ dataset_name: synthetic, class_names: [disc, square], num_images: 20, image_size: 64, num_workers: 0,
  prediction_path: {folder}/photos }}
quantization: {{ random_calibration: 2, onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
postprocessing: {{ plot_metrics: False }}
hydra: {{ run: {{ dir: {folder}/run }} }}
"""
Run = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def c_compiler() -> None:
    if shutil.which("gcc") is None or importlib.util.find_spec("emx_onnx_cgen") is None:
        pytest.skip("; ".join(emulator.INSTALL[name] for name in ("gcc", "emx-onnx-cgen")))


def network() -> onnx.ModelProto:
    """A YOLOv8 head on a patchwork of pixels: 16 boxes somewhere in the image, with scores that depend on it."""
    rng = np.random.default_rng(1)
    weight = np.concatenate((rng.normal(0, 0.3, (4, 3, 8, 8)), rng.normal(0, 0.5, (2, 3, 8, 8)))).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], "patches", strides=[8, 8], kernel_shape=[8, 8]),
        helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["s", "pixels"], ["m"], "scale"),
        helper.make_node("Reshape", ["m", "rows"], ["output"], "rows"),
    ]
    pixels = np.array([SIZE] * 4 + [1, 1], np.float32).reshape(1, 6, 1, 1)
    constants = {"w": weight, "b": np.zeros(6, np.float32), "pixels": pixels, "rows": np.array([1, 6, 16])}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, SIZE, SIZE]), ("output", [1, 6, 16]))
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the small config with overrides: the stages' results, and what was said."""
    onnx.save(network(), tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path))

    def do(*overrides: str, mode: str | None = None) -> tuple[dict[str, Any], list[str]]:
        reporter = Notes()
        return api.run(api.load_config(tmp_path / "c.yaml", overrides, mode), reporter).document[
            "stages"
        ], reporter.notes

    return do


@pytest.mark.parametrize("place", ["reference", "c_host"])
def test_a_model_is_scored_and_predicts_where_the_config_says(c_compiler: None, run: Run, place: str) -> None:
    stages, notes = run(f"evaluation.target={place}")
    assert f"the float model runs on the host; {place} is for its int8 form" in notes
    assert "place" not in stages["evaluate_float"]["model"]
    assert stages["evaluate_int8"]["model"]["place"] == place
    int8 = stages["quantize"]["path"]
    (folder,) = Path(int8).parents[1].glob(place)
    assert (folder / "network.c").exists() == (place == "c_host")
    found = {}
    for where in ("host", place):
        stages, _ = run(f"model.model_path={int8}", f"prediction.target={where}", mode="prediction")
        document = json.loads((Path(stages["predict"]["folder"]) / "predictions.json").read_text())
        found[where] = [d for image in document["images"] for d in image["detections"]]
        assert (Path(stages["predict"]["folder"]).parent / place).exists() == (where == place)
    assert len(found["host"]) > 5
    boxes, scores = ({w: [d[k] for d in ds] for w, ds in found.items()} for k in ("box_xyxy", "score"))
    np.testing.assert_allclose(boxes[place], boxes["host"], atol=0.5)  # steps of the outputs' scales
    np.testing.assert_allclose(scores[place], scores["host"], atol=0.02)


def test_the_answers_of_the_place_are_those_that_are_scored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from stdet_deploy_stm32.bench import places

    int8 = run()[0]["quantize"]["path"]

    def blind(model: Path, folder: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        return lambda images: {"output": np.zeros((len(images), 6, 16), np.float32)}

    monkeypatch.setitem(places.PLACES, "reference", blind)  # type: ignore[misc]
    seen, _ = run(f"model.model_path={int8}", mode="evaluation")
    unseen, _ = run(f"model.model_path={int8}", "evaluation.target=reference", mode="evaluation")
    assert seen["evaluate_int8"]["detections"] > 0
    assert unseen["evaluate_int8"]["detections"] == 0


def test_a_place_that_cannot_be_is_told_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="reference"):
        run("evaluation.target=refernce")
    with pytest.raises(ModelError, match="isn't quantized"):
        run("evaluation.target=reference", mode="evaluation")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for overrides in (["evaluation.target=c_host"], ["benchmarking.backends=[emulator]"]):
        mode = "chain_eqe" if "c_host" in overrides[0] else "chain_eqeb"
        with pytest.raises(StdetError, match=r"C code needs (gcc|emx)") as caught:
            run(*overrides, mode=mode)
        assert "install" in caught.value.hint


def test_sts_tool_runs_the_network_as_the_section_that_asks_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def network(model: Path, place: str, tool: Any, section: Any, name: str, folder: Path) -> Any:
        asked.append((place, name, section.input_type, folder.name))
        return lambda images: {"output": np.zeros((len(images), 6, 16), np.float32)}

    monkeypatch.setattr("stdet_deploy_stm32.st_tools.ai_runner.RunnerNetwork", network)
    monkeypatch.setenv("STEDGEAI_CORE_DIR", sys.executable)
    keys = ["evaluation.input_type=int8", "prediction.input_type=float32"]
    keys += ["evaluation.target=stedgeai_host", "prediction.target=stedgeai_n6"]
    stages, _ = run(*keys, mode="evaluation")
    assert stages["evaluate_float"]["detections"] == 0
    run(*keys, mode="prediction")
    assert asked == [("stedgeai_host", "evaluation", "int8", "stedgeai_host"),
                     ("stedgeai_n6", "prediction", "float32", "stedgeai_n6")]  # fmt: skip
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(Path(sys.executable) / "none"))
    with pytest.raises(StdetError, match="there is no stedgeai"):
        run(*keys, mode="evaluation")
