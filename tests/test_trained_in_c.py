"""A trained detector of each family as C: emulated cores, this computer, the integer reference and onnxruntime side by side.

The detectors learn eight generated images by heart, in seconds: what they answer has the distributions of trained weights.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from stdet import api
from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.config import load_text
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.chance import difference
from stdet.evaluation.coco import chooser, detections, score
from stdet.evaluation.postprocess import detect
from stdet.evaluation.predictors import OnnxPredictor, PlacedPredictor
from stdet.export.onnx import export_onnx
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Detector, Targets
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins
from stdet.structures import Preprocess, Thresholds
from stdet_deploy_stm32.bench import emulator
from stdet_deploy_stm32.bench.emulation import compare
from stdet_deploy_stm32.bench.emulator import MACHINES, CNetwork
from stdet_deploy_stm32.bench.places import of_program, reference
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.session import new_session

MODELS = {"st_yolodv2milli_actrelu_pt": 64, "ssdlite_mobilenetv3small_pt": 96}
CLASSES = ("disc", "square")
LEARNED, STEPS, RATE = 8, 24, 0.004
QUICK = ("-O0", "-ffp-contract=off")
"""Where only the answers matter: compiling takes the time."""
COUNTED = ("-O1", "-ffp-contract=off")
SCORED_FROM = 0.001
MOST_PERCENT = 2
CONFIG = """\
operation_mode: chain_qd
model: {{ model_name: {model}, model_path: {out}/model.onnx, input_shape: [3, {size}, {size}] }}
dataset: {{ dataset_name: synthetic, class_names: [disc, square], num_images: {count}, image_size: 64, max_objects: 1,
  num_workers: 0 }}
quantization: {{ allow_overlap: True, onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
postprocessing: {{ confidence_thresh: {confidence} }}
hydra: {{ run: {{ dir: {out}/run }} }}
"""


@dataclass(frozen=True)
class Made:
    """A trained detector: its int8 file, its deploy folder, and its C code, built for this computer."""

    name: str
    int8: Path
    firmware: Path
    network: CNetwork
    here: emulator.Program
    host: OnnxPredictor
    images: DetectionDataset
    picture: Path
    preprocess: Preprocess

    def fed(self, index: int) -> np.ndarray:
        pixels = prepare(self.images.read_image(index), self.preprocess)[0]
        return self.network.input.quantize(normalize(pixels[None], self.preprocess))


def learned_by_heart(detector: Detector, images: DetectionDataset, size: int) -> None:
    preprocess = detector.spec.preprocess
    pixels = np.stack([prepare(images.read_image(i), preprocess)[0] for i in range(LEARNED)])
    truth = [images.annotation(i) for i in range(LEARNED)]
    boxes = torch.tensor(np.stack([a.boxes[:1] * size / a.width for a in truth]), dtype=torch.float32)
    labels = torch.tensor(np.stack([a.labels[:1] for a in truth]))
    batch = normalize(torch.from_numpy(pixels), preprocess)
    optimizer = torch.optim.Adam(detector.parameters(), RATE)
    for _ in range(STEPS):
        loss = detector.train().loss(detector(batch), Targets(boxes, labels))["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        detector(batch)


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    missing = [emulator.INSTALL[n] for n in ("gcc", emulator.ARM_GCC, emulator.QEMU) if shutil.which(n) is None]
    if importlib.util.find_spec("emx_onnx_cgen") is None:
        missing.append(emulator.INSTALL["emx-onnx-cgen"])
    if missing:
        pytest.skip(f"the emulator isn't here: {'; '.join(missing)}")
    out, name = tmp_path_factory.mktemp("trained"), str(request.param)
    (out / "model.onnx").touch()  # the config is checked before
    text = CONFIG.format(model=name, out=out, size=MODELS[name], count=LEARNED, confidence=SCORED_FROM)
    catalogue = load_plugins()[0]
    config = load_text(text, "c", [], catalogue)
    builder = Builder(config, catalogue)
    spec = builder.spec(CLASSES)
    torch.manual_seed(0)
    detector, images = builder.detector(spec), builder.dataset("train", CLASSES)
    learned_by_heart(detector, images, MODELS[name])
    export_onnx(detector, out / "model.onnx", provenance={})
    stages = api.run(config, SilentReporter()).document["stages"]
    int8, firmware = Path(stages["quantize"]["path"]), Path(stages["deploy"]["folder"])
    (out / "c").mkdir()
    network = CNetwork(int8, out / "c", firmware)
    here = network.build(None, optimization=QUICK)
    picture = cv2.resize(images.read_image(0), (90, 70), interpolation=cv2.INTER_CUBIC)
    (out / "picture.ppm").write_bytes(b"P6\n90 70\n255\n" + picture.tobytes())
    host = OnnxPredictor(ModelFile(int8, "int8"), builder.decoder(spec))
    return Made(name, int8, firmware, network, here, host, images, out / "picture.ppm", spec.preprocess)


def test_the_cores_answer_bit_for_bit_as_this_computer_and_boxes_take_little(made: Made) -> None:
    large = made.name.startswith("st_yolod")
    fed = [made.fed(index) for index in range(1 if large else 2)]
    wanted = made.network.run(made.here, fed)
    cores = ("Cortex-M55",) if large else ("Cortex-M55", "Cortex-M7")  # whose 16 MiB are too few for the large one
    for core in cores:
        optimization = COUNTED if core == "Cortex-M55" else QUICK
        ran = made.network.run(made.network.build(MACHINES[core], optimization=optimization), fed)
        for found, expected in zip((*ran.outputs, ran.boxes), (*wanted.outputs, wanted.boxes), strict=True):
            for one, other in zip(found, expected, strict=True):
                assert one.tobytes() == other.tobytes()
        if core == "Cortex-M55":
            shares = [100 * p / n for p, n in zip(ran.postprocess, ran.network, strict=True)]
            print(f"{core}: network {ran.network}, post-processing {ran.postprocess}, {max(shares):.3f} %")
            assert min(len(boxes) for boxes in ran.boxes) >= 1
            assert max(shares) <= MOST_PERCENT


def test_the_example_finds_on_the_emulated_core_the_boxes_of_python(made: Made) -> None:
    if made.name.startswith("st_yolod"):
        pytest.skip("one family is enough, and this network takes long")
    program = made.network.build(MACHINES["Cortex-M55"], example=True, optimization=COUNTED)
    lines = [line.split() for line in made.network.run_example(program, made.picture)]
    picture = cv2.cvtColor(cv2.imread(str(made.picture)), cv2.COLOR_BGR2RGB)
    python = PlacedPredictor(made.host, of_program(made.network, made.here))
    found = detect(python, picture, made.preprocess, Thresholds(SCORED_FROM, 0.65, 100))
    assert len(lines) == len(found.labels) > 1
    assert [line[0] for line in lines] == [CLASSES[label] for label in found.labels]
    np.testing.assert_allclose([[float(v) for v in line[2:]] for line in lines], found.boxes, atol=1e-3)
    np.testing.assert_allclose([float(line[1]) for line in lines], found.scores, atol=1e-4)


def test_the_answers_differ_by_ties_and_the_scores_by_chance(made: Made) -> None:
    fed = [made.fed(index) for index in range(2)]
    names, loaded = [output.name for output in made.network.outputs], onnx.load(made.int8)
    feeds = [{made.network.input.name: image} for image in fed]
    integers, session = IntegerReference(loaded), new_session(made.int8, optimize=False)
    c = made.network.run(made.here, fed).outputs
    exact = [[integers.run(feed).outputs[name] for name in names] for feed in feeds]
    theirs = [session.run(names, feed) for feed in feeds]
    for what, other in (("reference", exact), ("onnxruntime", theirs)):
        print(f"C against {what}: {compare(c, other, made.network.outputs)}")
    places = {
        "C": PlacedPredictor(made.host, of_program(made.network, made.here)),
        "reference": PlacedPredictor(made.host, reference(made.int8, made.firmware)),
        "onnxruntime": made.host,
    }
    preprocess = made.preprocess
    loader = EvalLoader(made.images, preprocess, LEARNED, 0, list(range(LEARNED)))
    thresholds = Thresholds(SCORED_FROM, 0.65, 100)
    found = detections(lambda images: {n: p(images) for n, p in places.items()}, loader, chooser(thresholds))
    scores = {name: score(made.images, boxes) for name, boxes in found.items()}
    print({name: each.metrics["AP50"] for name, each in scores.items()})
    assert (scores["onnxruntime"].metrics["AP50"] or 0) > 0.5
    for name in ("C", "reference"):
        chance = difference(scores[name].matches, scores["onnxruntime"].matches, LEARNED)
        assert chance["AP50"].holds_zero
        assert chance["AP"].holds_zero


def test_the_emulator_counts_on_the_images_of_the_config(made: Made, tmp_path: Path) -> None:
    from stdet_deploy_stm32.bench.emulation import photographs

    for index in (0, 1):
        cv2.imwrite(str(tmp_path / f"{index}.png"), made.images.read_image(index)[..., ::-1])
    fed = photographs(made.int8, made.network.input, tmp_path)
    for index, image in enumerate(fed):
        np.testing.assert_array_equal(image, made.fed(index))
