"""Training samples a second of the recipes, one process, one core, CPU time, on the COCO photographs of shared/data.

Baselines in the same run: decoding alone (four files a sample, as a mosaic with fresh partners needs, and one), and
torchvision's v2 transforms with a comparable single-image recipe. Run: python benchmarks/data_pipeline.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import arguments, interleave, report, save
from torchvision import tv_tensors
from torchvision.transforms import v2

from stdet.data.preprocess import to_tensor_layout
from stdet.interfaces.dataset import DatasetRequest
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Preprocess
from stdet_datasets.coco import CocoDataset
from stdet_datasets.ssd_recipe import SsdRecipe
from stdet_datasets.yolox_recipe import YoloxRecipe

SAMPLES = 60


def ours(dataset: CocoDataset, recipe: Transform, preprocess: Preprocess, strong: bool = True) -> Callable[[], None]:
    def run() -> None:
        for position in range(SAMPLES):
            rng = np.random.default_rng([0, position])
            context = TransformContext(
                rng, lambda rng=rng: dataset.sample(int(rng.integers(len(dataset)))), preprocess, strong
            )
            made = recipe(dataset.sample(position % len(dataset)), context)
            to_tensor_layout(made.image, preprocess)

    return run


def decode(dataset: CocoDataset, files: int) -> Callable[[], None]:
    paths = [str(dataset.annotation(i).path) for i in range(len(dataset))]

    def run() -> None:
        for position in range(SAMPLES * files):
            cv2.imread(paths[position % len(paths)])

    return run


def torchvision_recipe(dataset: CocoDataset, size: int) -> Callable[[], None]:
    transform = v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomAffine(10, (0.1, 0.1), (0.5, 1.5), 2),
            v2.ColorJitter(0.1, 0.1, 0.1, 0.02),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def run() -> None:
        for position in range(SAMPLES):
            sample = dataset.sample(position % len(dataset))
            boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(sample.height, sample.width))  # type: ignore[call-overload]
            image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))))
            transform({"image": image, "boxes": boxes, "labels": torch.from_numpy(sample.labels)})

    return run


def main() -> None:
    args = arguments(__doc__ or "", rounds=5)
    folder: Path = args.shared / "data" / "tiny_coco"
    request = DatasetRequest("train", folder / "train2017", folder / "annotations" / "instances_train2017.json")
    dataset = CocoDataset(request)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    results = []
    for size in (640, 320):
        letterbox = Preprocess(size, size, "letterbox", color_mode="bgr")
        variants = {
            "torchvision v2, one image": torchvision_recipe(dataset, size),
            "decode 4 files": decode(dataset, 4),
            "decode 1 file": decode(dataset, 1),
            "yolox recipe, mosaic": ours(dataset, YoloxRecipe(), letterbox),
            "yolox recipe, no mosaic": ours(dataset, YoloxRecipe(), letterbox, strong=False),
            "ssd recipe": ours(dataset, SsdRecipe(), Preprocess(size, size, "fit")),
        }
        timings = interleave(variants, args.rounds, time.process_time)
        results.append(report(f"training samples, {size} px", timings, "torchvision v2, one image", "/s", SAMPLES))
    save(args.json, results)


if __name__ == "__main__":
    main()
