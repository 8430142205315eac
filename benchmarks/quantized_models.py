"""What int8 costs each of the eight models: trained on generated images, quantized by the default recipe, both scored.

Claim: each loses at most half a point of AP50, on 2000 images that neither training nor calibration saw. How far chance goes
stands beside each drop: 95 % of the draws of as many images (`stdet.evaluation.chance`).
Training is plain torch over the Detector contract, float32 and without augmentation, just long enough to be a detector, so
the numbers compare with each other only. Exporting, quantizing and scoring are `stdet`'s.

Run: python benchmarks/quantized_models.py [MODEL ...] --json benchmarks/results/quantized_models.json
With --keep FOLDER the trained models stay there as ONNX, and those found there aren't trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from harness import save
from quantization import RECIPES, stdet

from stdet import api
from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.chance import Interval, difference
from stdet.evaluation.coco import Score, chooser, detections, score
from stdet.evaluation.predictors import OnnxPredictor
from stdet.export.metadata import read_spec
from stdet.export.onnx import export_onnx
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Targets
from stdet.plugins.loader import load_plugins
from stdet.structures import Preprocess


@dataclass(frozen=True)
class Schooling:
    """How a family is trained; `warm_up` is the share of the steps in which the learning rate rises."""

    classes: tuple[str, ...]
    images: int
    epochs: int
    batch: int
    warm_up: float
    options: dict[str, str]


LEARNING_RATE = 0.002
FAMILIES = {
    "ssd": Schooling(("disc",), 5120, 3, 8, 0.05, {"forced_priors": "all"}),
    "st_yolod": Schooling(("disc", "triangle", "cross"), 640, 14, 16, 0.3, {}),
}
"""From random weights, SSD takes far more images than these to tell the shapes from each other."""
SIZE = 96
JUDGED = ("dataset.num_images=8000",)
"""A quarter of them is the test set: on 160 images half a point was chance."""


def config_of(model: str) -> dict[str, object]:
    """The document of a configuration."""
    family = FAMILIES["st_yolod" if model.startswith("st_yolod") else "ssd"]
    return {
        "operation_mode": "quantization",
        "general": {"logger": None},
        "model": {"model_name": model, "input_shape": [3, SIZE, SIZE]},
        "dataset": {
            "dataset_name": "synthetic",
            "class_names": list(family.classes),
            "num_images": family.images,
            "image_size": SIZE,
            "max_objects": 3,
            "num_workers": 0,
            "quantization_split": 128 / family.images,
        },
    }


def loaded(dataset: DetectionDataset, preprocess: Preprocess) -> tuple[torch.Tensor, Targets]:
    """The whole set: uint8 images in the network's layout, and their boxes in its pixels, which are those of the images."""
    images = torch.from_numpy(np.stack([prepare(dataset.read_image(i), preprocess)[0] for i in range(len(dataset))]))
    annotations = [dataset.annotation(i) for i in range(len(dataset))]
    most = max(len(a.labels) for a in annotations)
    boxes, labels = torch.zeros(len(dataset), most, 4), torch.full((len(dataset), most), -1)
    for row, a in enumerate(annotations):
        boxes[row, : len(a.labels)], labels[row, : len(a.labels)] = torch.tensor(a.boxes), torch.tensor(a.labels)
    return images, Targets(boxes, labels)


def train(
    model: str,
    config: Path,
    onnx: Path,
    epochs: int | None,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Train on the configured set, for `epochs` or as its family does, and export; `autocast` surrounds forward passes."""
    torch.manual_seed(seed)
    catalogue, _ = load_plugins()
    builder = Builder(api.load_config(config, [f"model.model_path={onnx}"]), catalogue)
    dataset = builder.dataset("train", tuple(builder.config.dataset.class_names or ()))
    spec = builder.spec(dataset.class_names)
    detector = builder.detector(spec).to(memory_format=torch.channels_last).train()
    images, targets = loaded(dataset, spec.preprocess)
    family = FAMILIES[spec.model_type]
    epochs = epochs or family.epochs
    steps = len(dataset) // family.batch
    options = catalogue.family(model).training_options.model_validate(family.options)
    detector.use_training_options(options)
    optimizer = torch.optim.Adam(detector.parameter_groups(LEARNING_RATE, 0.0, options))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps, pct_start=family.warm_up)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(dataset))[: steps * family.batch].view(steps, -1):
            batch = normalize(images[rows], spec.preprocess).contiguous(memory_format=torch.channels_last)
            with autocast():
                raw = detector(batch)
            loss = detector.loss(raw, Targets(targets.boxes[rows], targets.labels[rows]))["total"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"{model} epoch {epoch + 1}/{epochs} loss {total / steps:.3f}", flush=True)
    export_onnx(detector.eval(), onnx)


def judged(config: Path, onnx: Path, int8: Path) -> tuple[dict[str, Score], dict[str, Interval], int]:
    """The scores of both forms on the same test images, how far chance moves float minus int8, and how many images."""
    catalogue, _ = load_plugins()
    builder = Builder(api.load_config(config, [f"model.model_path={onnx}", *JUDGED]), catalogue)
    spec = read_spec(onnx)
    assert spec is not None
    dataset, decoder = builder.dataset("test", spec.class_names, spec=spec), builder.decoder(spec)
    forms = {
        "float": OnnxPredictor(ModelFile(onnx, "float"), decoder),
        "int8": OnnxPredictor(ModelFile(int8, "int8"), decoder),
    }
    found = detections(
        lambda images: {form: predict(images) for form, predict in forms.items()},
        EvalLoader(dataset, spec.preprocess, 32, 0),
        chooser(builder.thresholds()),
    )
    scores = {form: score(dataset, found[form]) for form in forms}
    return scores, difference(scores["float"].matches, scores["int8"].matches, len(dataset)), len(dataset)


def row_of(model: str, recipe: str, folder: Path, epochs: int | None) -> dict[str, object]:
    """Train (or find) a model under `folder`, quantize it, score both forms."""
    config, onnx = folder / f"{model}.yaml", folder / f"{model}.onnx"
    config.write_text(yaml.safe_dump(config_of(model)), encoding="utf-8")
    if not onnx.exists():
        train(model, config, onnx, epochs)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        given = [f"model.model_path={onnx}", *RECIPES[recipe], f"hydra.run.dir={run}"]
        seconds, cpu_s, _ = stdet("quantize", str(config), *given)
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]["quantize"]
        scores, chance, images = judged(config, onnx, Path(record["path"]))
    floating, int8 = (scores[form].metrics for form in ("float", "int8"))
    return {
        "model": model,
        "recipe": recipe,
        "images": images,
        "AP50_float": floating["AP50"],
        "AP50_int8": int8["AP50"],
        "drop_points": 100 * (floating["AP50"] - int8["AP50"]),
        "chance_points": dataclasses.asdict(chance["AP50"]),
        "AP_float": floating["AP"],
        "AP_int8": int8["AP"],
        "AP_drop_points": 100 * (floating["AP"] - int8["AP"]),
        "AP_chance_points": dataclasses.asdict(chance["AP"]),
        "quantize_s": round(seconds, 1),
        "quantize_cpu_s": round(cpu_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[listing.name for listing in api.list_components("models")])
    parser.add_argument("--recipe", choices=RECIPES, default="Sensitivity (default)")
    parser.add_argument("--epochs", type=int, help="of the training; default: the family's")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where trained models stay")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for model in args.models:
            rows.append(row_of(model, args.recipe, folder, args.epochs))
            print(rows[-1], flush=True)
            save(args.json, rows)


if __name__ == "__main__":
    main()
