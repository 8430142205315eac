"""Configs as users of the reference have them: they check with nothing but paths changed, or say which key has no place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from stdet import api
from stdet.config import ConfigProblems
from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.postprocess import detect
from stdet.evaluation.predictors import TorchPredictor
from stdet.interfaces.detector import Detector
from stdet.interfaces.family import ModelFamily
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins
from stdet.structures import Preprocess, Thresholds

SIZE = 96
MODELS = {"ssd": "ssdlite_mobilenetv3small_pt", "st_yolod": "st_yolodv2milli_actrelu_pt"}
SIZES = {"ssd": 300, "st_yolod": 192}

SECTIONS = yaml.safe_load((Path(__file__).parent / "reference_style" / "sections.yaml").read_text(encoding="utf-8"))
MODES = {
    "training": "model dataset training postprocessing",
    "evaluation": "model dataset postprocessing evaluation",
    "quantization": "model dataset postprocessing quantization",
    "prediction": "onnx dataset postprocessing prediction",
    "benchmarking": "onnx tools benchmarking",
    "deployment": "onnx dataset postprocessing tools deployment",
    "chain_tqe": "model dataset training postprocessing quantization evaluation",
    "chain_tqeb": "model dataset training postprocessing quantization evaluation tools benchmarking",
    "chain_eqe": "model dataset postprocessing quantization evaluation",
    "chain_eqeb": "model dataset postprocessing quantization evaluation tools benchmarking",
    "chain_qb": "model dataset postprocessing quantization tools benchmarking",
    "chain_qd": "model dataset postprocessing quantization tools deployment",
}
CONFIGS = [
    *((mode, family, "coco") for mode in MODES for family in ("ssd", "st_yolod")),
    *((mode, "ssd", "voc") for mode in ("training", "evaluation")),
]


def text_of(mode: str, family: str, data: str) -> str:
    parts = [f"operation_mode: {mode}", SECTIONS["common"]]
    for name in MODES[mode].split():
        kind = {"model": f"model {family}", "onnx": f"onnx {family}", "training": f"training {family}"}.get(name, name)
        section = SECTIONS[f"dataset {data}" if name == "dataset" else kind]
        if name == "dataset" and family == "st_yolod":
            section += re.sub("^", "  ", SECTIONS["augmentation"], flags=re.M)
        if data == "voc" and name == "model":
            section = section.replace("coco_person", "voc").replace("num_classes: 1", "num_classes: 2")
        parts.append(section.replace("{image}", "uint8" if family == "ssd" else "float"))
    return "\n".join(parts)


def judged(path: Path, mode: str, family: str, data: str) -> list[str]:
    """The keys that the config is refused for, each with the reason."""
    path.write_text(text_of(mode, family, data), encoding="utf-8")
    try:
        api.load_config(path)
    except ConfigProblems as error:
        return [f"{p.key}: {p.message}" for p in error.problems]
    return []


def test_each_loads_as_it_is(tmp_path: Path) -> None:
    found = {config: judged(tmp_path / "config.yaml", *config) for config in CONFIGS}
    assert len(found) == 26
    assert not {config: problems for config, problems in found.items() if problems}


def test_a_deployment_is_for_its_board_and_says_what_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text_of("deployment", "ssd", "coco") + SECTIONS["benchmarking"])
    config = api.load_config(tmp_path / "config.yaml", ["benchmarking.board=NUCLEO-H743ZI2"])
    assert config.benchmarking.board == "stm32n6570-dk"
    said = "\n".join(config.notes)
    assert "benchmarking.board: nucleo-h743zi2 is for benches; the firmware is for stm32n6570-dk" in said
    assert "deployment.IDE, verbosity: nothing is built or flashed here" in said
    assert "deployment.c_project_path: there is no folder" in said
    with pytest.raises(ConfigProblems, match=r"deployment\.hardware_setup\.board: unknown target") as caught:
        api.load_config(tmp_path / "config.yaml", ["deployment.hardware_setup.board=STM32MP257F-EV1"])
    assert len(caught.value.problems) == 1  # not each key that only a board would know


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Pictures and, as COCO lists them, no object yet."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(4):
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), picture)
    return tmp_path


@pytest.mark.parametrize("family", ["ssd", "st_yolod"])
def test_published_weights_see_what_they_learned_through_the_references_lines(photographs: Path, family: str) -> None:
    """What the network finds in pixels prepared as its family expects is the truth of the evaluation."""
    facts, detector = _published(family, photographs)
    _annotate(photographs, detector, facts.preprocess.with_size(SIZE, SIZE))
    text = text_of("evaluation", family, "coco")
    silent = re.sub("^preprocessing:.*?(?=^mlflow)", "", text, flags=re.S | re.M)
    expected, said = _scored(photographs, silent)
    assert expected["AP50"] > 0.6
    assert not any("warning" in note for note in said)
    same = text.replace("color_mode: rgb", f"color_mode: {facts.preprocess.color_mode}")
    same = same.replace("aspect_ratio: fit", f"aspect_ratio: {facts.preprocess.resize_mode}")
    found, said = _scored(photographs, same)
    assert found == expected
    assert not any("warning" in note for note in said)
    assert any("scale" in note and "do nothing" in note for note in said)
    if family == "st_yolod":
        _, said = _scored(photographs, text)
        assert "resize_mode fit (weights: letterbox), color_mode rgb (weights: bgr)" in said[-1]
        assert said[-1].startswith("warning")


def _published(family: str, folder: Path) -> tuple[ModelFamily, Detector]:
    """An untrained network that sees differences between pictures, and its weights as the reference publishes them."""
    name, catalogue = MODELS[family], load_plugins()[0]
    facts = catalogue.families()[family]
    torch.manual_seed(3)
    detector: Detector = catalogue.build("models", name, facts.spec(name, ("person",)))
    for key, parameter in detector.named_parameters():
        if key.partition(".")[0] == "classification_headers" or "cls_preds" in key or "obj_preds" in key:
            torch.nn.init.normal_(parameter, 0, 0.35 if parameter.dim() > 1 else 1.0)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch below
    pictures = [cv2.imread(str(path)) for path in sorted((folder / "images").iterdir())]
    preprocess = facts.preprocess.with_size(SIZE, SIZE)
    prepared = np.stack([prepare(picture[..., ::-1], preprocess)[0] for picture in pictures])
    with torch.no_grad():
        detector.train()(normalize(torch.from_numpy(prepared), preprocess))
    state = detector.state_dict()
    published = {"model": state, "start_epoch": 300} if family == "st_yolod" else state
    torch.save(published, folder / f"{name}_coco_person_{SIZES[family]}.pth")
    return facts, detector.eval()


def _annotate(folder: Path, detector: Detector, preprocess: Preprocess) -> None:
    """`truth.json`: the surest boxes that the network finds."""
    images, boxes = [], []
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        images.append({"id": number, "file_name": path.name, "width": SIZE, "height": SIZE})
        picture = cv2.imread(str(path))[..., ::-1]
        found = detect(TorchPredictor(detector, "cpu"), picture, preprocess, Thresholds(0.5, 0.5))
        sides = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in found.boxes.astype(float).tolist()]
        boxes += [(number, box) for box in sides if min(box[2:]) > 0.1]
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, box) in enumerate(boxes)
    ]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "truth.json").write_text(json.dumps(document))


def _scored(folder: Path, text: str) -> tuple[dict[str, float], list[str]]:
    """The metrics of an evaluation with nothing but paths and the size changed, and what it said."""
    said: list[str] = []

    class Listening(SilentReporter):
        def note(self, message: str) -> None:
            said.append(message)

    (folder / "config.yaml").write_text(text)
    given = [f"model.weights_from={folder}", f"model.input_shape=[3,{SIZE},{SIZE}]", f"hydra.run.dir={folder / 'run'}"]
    given += [f"dataset.test_images_path={folder / 'images'}", f"dataset.test_annotations_path={folder / 'truth.json'}"]
    given += ["mlflow.uri=null", "dataset.num_workers=0"]
    result = api.run(api.load_config(folder / "config.yaml", given), Listening())
    return result.document["stages"]["evaluate_float"]["metrics"], said
