"""`stdet data check` and `stdet quantize` ask one doctor, so they judge the same calibration images alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from stdet import api
from stdet.errors import ConfigError, DataError, StdetError
from stdet.interfaces.reporter import SilentReporter
from stdet.quantizing.data_check import IDS

SIZE = 32
IMAGES = {"train": 52, "val": 4, "calibration": 51}
"""The calibration images are the first of the training images."""
CONFIG = """\
operation_mode: quantization
model: {{ model_name: st_yolodv2milli_actrelu_pt, model_path: {folder}/model.onnx }}
dataset:
  dataset_name: coco
  class_names: [disc, star]
  train_images_path: {folder}/train
  train_annotations_path: {folder}/train.json
  val_images_path: {folder}/val
  val_annotations_path: {folder}/val.json
  quantization_path: {folder}/calibration
  num_workers: 0
hydra: {{ run: {{ dir: {folder}/run }} }}
"""


class StopError(StdetError):
    """The target isn't what is tested here."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        (tmp_path / split).mkdir()
        for index in range(count):
            path = tmp_path / split / f"{index:02}.png"
            if split == "calibration":
                shutil.copyfile(tmp_path / "train" / path.name, path)
            else:
                pixels = rng.integers(0, 256, (8, 9, 3), np.uint8)
                Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
        if split != "calibration":
            annotate(tmp_path / f"{split}.json", count)
    onnx.save(_ours(), tmp_path / "model.onnx")
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "c.yaml"


def annotate(path: Path, count: int, classes: int = 2) -> None:
    document = {
        "images": [{"id": i, "file_name": f"{i:02}.png", "width": SIZE, "height": SIZE} for i in range(count)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % classes, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
            for i in range(count)
        ],
        "categories": [{"id": 0, "name": "disc"}, {"id": 1, "name": "star"}],
    }
    path.write_text(json.dumps(document))


def _ours() -> onnx.ModelProto:
    """A file whose metadata say how it was trained; nothing here runs it."""
    from stdet.export.metadata import write_metadata
    from stdet_models_yolod.family import ST_YOLOD

    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["input"], ["output"])],
            "ours",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        )
    )
    preprocess = ST_YOLOD.preprocess.with_size(SIZE, SIZE)
    write_metadata(model, ST_YOLOD.spec("st_yolodv2milli_actrelu_pt", ("disc", "star"), preprocess, {}), {})
    return model


def nothing(folder: Path) -> None:
    pass


def few(folder: Path) -> None:
    for path in sorted((folder / "calibration").iterdir())[7:]:
        path.unlink()


def one_class(folder: Path) -> None:
    annotate(folder / "train.json", IMAGES["train"], classes=1)


def unknown(folder: Path) -> None:
    """Other images than any that is annotated."""
    for path in (folder / "calibration").iterdir():
        image = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(((image + 64) % 256).astype(np.uint8)).save(path)


def evaluated(folder: Path) -> None:
    for index in range(3):
        shutil.copyfile(folder / "val" / f"{index:02}.png", folder / "calibration" / f"{index:02}.png")


def twice(folder: Path) -> None:
    shutil.copyfile(folder / "calibration" / "00.png", folder / "calibration" / "01.png")


@pytest.mark.parametrize(
    ("plant", "overrides", "expected"),
    [
        (nothing, [], {}),
        (few, [], {"size": "warning"}),
        (one_class, [], {"classes": "warning"}),
        (unknown, [], {"classes": "unknown"}),
        (twice, [], {"duplicates": "warning"}),
        (evaluated, [], {"overlap": "error"}),
        (evaluated, ["quantization.allow_overlap=True"], {"overlap": "warning"}),
        (nothing, ["dataset.quantization_path=null"], {}),
        (twice, ["dataset.quantization_path={folder}/val"], {"size": "warning", "overlap": "error"}),
    ],
)
def test_the_doctor_says_the_same_to_both_who_ask(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Path], None],
    overrides: list[str],
    expected: dict[str, str],
) -> None:
    plant(config.parent)
    given = [text.format(folder=config.parent) for text in overrides]
    checked, failed, told = by_data_check(config, given)
    found, refusal = by_quantize(config, given, monkeypatch)
    assert checked == expected
    assert failed == (refusal is not None) == ("error" in expected.values())
    if refusal is not None:
        assert any(refusal in message for message in told)
    else:
        assert found == expected


def test_another_preprocessing_than_the_models_is_an_error_to_both_who_ask(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantizing doesn't even begin: the config contradicts the file."""
    given = ["preprocessing.color_mode=rgb"]
    checked, failed, _ = by_data_check(config, given)
    assert (checked, failed) == ({"preprocessing": "error"}, True)
    with pytest.raises(ConfigError, match=r"makes color_mode rgb, but the file was made with bgr"):
        by_quantize(config, given, monkeypatch)


def by_data_check(config: Path, overrides: list[str]) -> tuple[dict[str, str], bool, list[str]]:
    there = f"hydra.run.dir={config.parent / 'run'}"
    result = api.check_data(api.load_data_config(config, [*overrides, there]), SilentReporter())
    names = {check_id: name for name, check_id in IDS.items()} | {"D404": "classes"}
    judged = {names[f["id"]]: f for f in result.document["findings"] if f["id"] in names}
    verdicts = {name: "unknown" if f["severity"] == "info" else f["severity"] for name, f in judged.items()}
    return verdicts, any(f["severity"] == "error" for f in judged.values()), [f["message"] for f in judged.values()]


def by_quantize(
    config: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, str], str | None]:
    from stdet_deploy_stm32.target import Stm32Target

    seen: list[Any] = []

    def stop(self: Any, model: Path, output: Path, calibration: Any, *rest: Any) -> None:
        seen.extend(calibration.checks)
        raise StopError("far enough")

    monkeypatch.setattr(Stm32Target, "quantize", stop)
    with pytest.raises((StopError, DataError)) as caught:
        api.run(api.load_config(config, overrides), SilentReporter())
    if isinstance(caught.value, DataError):
        return {}, caught.value.message
    return {check.name: check.verdict for check in seen if check.verdict != "ok"}, None


def test_the_check_of_calibration_images_needs_no_torch(config: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from stdet import api; from stdet.interfaces.reporter import SilentReporter;"
        f"result = api.check_data(api.load_data_config(None, ['dataset.class_names=[disc, star]', "
        f"'dataset.train_images_path={config.parent}/train', 'hydra.run.dir={config.parent}/run',"
        f"'dataset.train_annotations_path={config.parent}/train.json']), SilentReporter());"
        "assert result.document['splits']['train']['images_read'];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _chain(config: Path, *overrides: str) -> api.RunResult:
    given = [
        "~model.model_path",
        "model.input_shape=[3,64,64]",
        "training.epochs=1",
        "training.batch_size=26",
        *overrides,
    ]
    return api.run(api.load_config(config, given, "chain_tqe"), SilentReporter())


def test_a_chain_tells_before_its_first_epoch_that_it_would_calibrate_on_evaluation_images(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stdet.engine.trainer import Trainer

    def stop(_: Trainer) -> None:
        raise StopError("the training begins")

    monkeypatch.setattr(Trainer, "fit", stop)
    with pytest.raises(StopError):
        _chain(config)
    folder = config.parent
    shutil.copyfile(folder / "val" / "01.png", folder / "calibration" / "renamed.png")
    with pytest.raises(DataError, match=r"1 of 52 calibration images are evaluation images: renamed\.png"):
        _chain(config)
    with pytest.raises(StopError):
        _chain(config, "quantization.allow_overlap=True")
