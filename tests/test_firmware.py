"""A deploy folder of each family: its C code finds in a picture what the model's own decoding finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

MODELS = {"st_yolodv2milli_actrelu_pt": (64, 96), "ssdlite_mobilenetv3small_pt": (96, 128)}
CONFIG = """\
operation_mode: chain_qd
model: {{ model_name: {model}, model_path: {out}/model.onnx, input_shape: [3, {height}, {width}] }}
dataset: {{ dataset_name: synthetic, class_names: [disc, square, star], num_images: 8, image_size: 64, num_workers: 0 }}
quantization: {{ random_calibration: 2, onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
postprocessing: {{ confidence_thresh: 0.3 }}
hydra: {{ run: {{ dir: {out}/run }} }}
"""


def _excited_model(builder: object, path: Path) -> None:
    """An untrained detector that finds something everywhere, as ONNX."""
    import torch

    from stdet.export.onnx import export_onnx

    torch.manual_seed(3)
    detector = builder.detector(builder.spec(("disc", "square", "star")))  # type: ignore[attr-defined]
    for name, parameter in detector.named_parameters():
        if "pred" in name or "headers" in name:
            torch.nn.init.normal_(parameter, 0, 0.35 if parameter.dim() > 1 else 1.0)
    export_onnx(detector, path, provenance={})


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `firmware` folder of a quantized model."""
    from stdet import api
    from stdet.build import Builder
    from stdet.config import load_text
    from stdet.interfaces.reporter import SilentReporter
    from stdet.plugins.loader import load_plugins

    out = tmp_path_factory.mktemp(request.param)
    height, width = MODELS[request.param]
    (out / "model.onnx").touch()  # the config is checked before
    text = CONFIG.format(model=request.param, out=out, height=height, width=width)
    catalogue = load_plugins()[0]
    config = load_text(text, "c", [], catalogue)
    _excited_model(Builder(config, catalogue), out / "model.onnx")
    api.run(config, SilentReporter())
    return out / "run" / "firmware"


def _compiler() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("gcc isn't here: apt-get install gcc")
    return found


def test_the_example_finds_the_boxes_of_the_test_vector(folder: Path) -> None:
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    sources = sorted(str(path.name) for path in folder.glob("*.c"))
    subprocess.run([_compiler(), *flags, *sources, "-o", "boxes", "-lm"], cwd=folder, check=True)
    done = subprocess.run(
        ["./boxes", "test_vector/picture.ppm"], cwd=folder, check=True, capture_output=True, text=True
    )
    wanted = (folder / "test_vector" / "boxes.txt").read_text().splitlines()
    found = done.stdout.splitlines()
    assert len(wanted) > 5
    assert [line.split()[0] for line in found] == [line.split()[0] for line in wanted]
    numbers = [[float(v) for v in line.split()[1:]] for line in found]
    np.testing.assert_allclose(numbers, [[float(v) for v in line.split()[1:]] for line in wanted], atol=0.0011)


def test_the_boxes_are_those_of_prediction(folder: Path) -> None:
    """Another way to the same: the predictor of evaluation, on the picture of the folder."""
    import cv2

    from stdet.artifacts import ModelFile
    from stdet.build import Builder
    from stdet.config import load_text
    from stdet.evaluation.postprocess import detect
    from stdet.evaluation.predictors import OnnxPredictor
    from stdet.export.metadata import read_spec
    from stdet.plugins.loader import load_plugins
    from stdet.structures import Thresholds

    spec = read_spec(folder / "model.onnx")
    assert spec is not None
    catalogue = load_plugins()[0]
    height, width = spec.preprocess.size
    text = CONFIG.format(model=spec.model_name, out=folder, height=height, width=width)
    builder = Builder(load_text(text, "c", [], catalogue), catalogue)
    picture = cv2.imread(str(folder / "test_vector" / "picture.ppm"))[..., ::-1]
    predictor = OnnxPredictor(ModelFile(folder / "model.onnx", "int8"), builder.decoder(spec))
    found = detect(predictor, picture, spec.preprocess, Thresholds(0.3, 0.65, 100))
    boxes = json.loads((folder / "test_vector" / "boxes.json").read_text())["boxes"]
    np.testing.assert_allclose([b["picture_xyxy"] for b in boxes], found.boxes, atol=1e-3)
    np.testing.assert_allclose([b["score"] for b in boxes], found.scores, atol=1e-6)
    assert [b["label"] for b in boxes] == found.labels.tolist()


def test_the_readme_says_what_the_file_says(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    graph = onnx.load(folder / "model.onnx").graph
    for value in (*graph.input, *graph.output):
        shape = " x ".join(str(d.dim_value) for d in value.type.tensor_type.shape.dim)
        assert f"`{value.name}`: {shape}" in text
    assert "disc" in text
    assert "0.3" in text
    assert "Calibrated on noise" in text
    assert "{" not in text.replace("{schema}", ""), "a placeholder was left"


def test_each_layer_of_onnxruntime_is_within_a_step_of_the_integer_reference(folder: Path) -> None:
    from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
    from stdet_deploy_stm32.onnx_graph.session import watching

    model = onnx.load(folder / "model.onnx")
    reference = IntegerReference(model)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {reference.inputs[0]: np.fromfile(folder / "test_vector" / "input.bin", np.float32).reshape(shape)}
    names = list(reference.run(feeds).stored)
    assert len(names) > 150
    theirs = dict(zip(names, watching(model, names).run(names, feeds), strict=True))
    mine = reference.run(feeds, theirs).stored
    off = [np.abs(mine[name].astype(int) - theirs[name]) for name in names]
    assert max(int(d.max()) for d in off) <= 1
    assert sum(int((d > 0).sum()) for d in off) < 1e-4 * sum(d.size for d in off)


def _stdet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stdet_cli.main", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_deploys_a_file_without_a_config(folder: Path, tmp_path: Path) -> None:
    """With photographs of the user's; the model says the rest itself."""
    import cv2

    (tmp_path / "photos").mkdir()
    picture = cv2.imread(str(folder / "test_vector" / "picture.ppm"))
    cv2.imwrite(str(tmp_path / "photos" / "one.png"), picture)
    overrides = [f"dataset.prediction_path={tmp_path / 'photos'}", f"hydra.run.dir={tmp_path / 'run'}"]
    overrides += ["postprocessing.confidence_thresh=0.3", "postprocessing.max_detection_boxes=7"]
    done = _stdet("deploy", str(folder / "model.onnx"), *overrides, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["stages"]["deploy"]
    assert found["thresholds"] == {"confidence": 0.3, "nms_iou": 0.65, "max_detections": 7}
    assert found["picture"] == "one.png"
    again = json.loads((Path(found["folder"]) / "test_vector" / "boxes.json").read_text())
    wanted = json.loads((folder / "test_vector" / "boxes.json").read_text())
    assert again["boxes"] == wanted["boxes"][:7]


def test_the_readme_leads_to_the_board_and_the_project_of_the_config(folder: Path, tmp_path: Path) -> None:
    from stdet import api
    from stdet.interfaces.reporter import SilentReporter

    def readme(*keys: str) -> str:
        given = [f"deployment.{key}" for key in keys]
        config = api.load_command(folder / "model.onnx", [*given, f"hydra.run.dir={tmp_path / 'run'}"], "deployment")
        return (api.run(config, SilentReporter()).run_dir / "firmware" / "README.md").read_text()

    project = tmp_path / "my project"
    text = readme("hardware_setup.board=STM32N6570-DK", "hardware_setup.output=UVCL", f"c_project_path={project}")
    assert text.startswith(f"# {_name(folder)} for STM32N6570-DK")
    assert "--target stm32n6" in text
    assert "--target stm32h7" not in text
    assert f"'{project.as_posix()}'/Application/STM32N6570-DK/Inc/" in text
    assert "The build configuration is `UVCL`" in text
    assert "Nothing has been built or flashed" in text
    text = readme("hardware_setup.serie=STM32U5", "build_conf=Release")
    assert "--target stm32u5" in text
    assert "stm32n6" not in text
    assert "The build configuration is `Release`" in text


def _name(folder: Path) -> str:
    from stdet.export.metadata import read_spec

    spec = read_spec(folder / "model.onnx")
    assert spec is not None
    return spec.model_name


def test_what_cannot_be_deployed_is_a_mistake_that_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    from stdet import api
    from stdet.errors import StdetError
    from stdet.interfaces.reporter import SilentReporter

    wrong = onnx.load(folder / "model.onnx")
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1  # rows that the family hasn't
    onnx.save(wrong, tmp_path / "wrong.onnx")
    cases = {
        folder.parents[1] / "model.onnx": "isn't quantized",
        tmp_path / "wrong.onnx": "outputs are",
        tmp_path / "none.onnx": "none.onnx",
    }
    for index, (model, reason) in enumerate(cases.items()):
        with pytest.raises(StdetError, match=reason) as caught:
            api.run(api.load_command(model, [f"hydra.run.dir={tmp_path / str(index)}"], "deployment"), SilentReporter())
        assert caught.value.hint
        assert not list(tmp_path.glob(f"{index}/*firmware*"))
