"""A model learns eight synthetic images by heart: AP50 of at least 0.95 on them, in eval mode.

Claim: every registered model, from random weights, gets there. Plain torch and the Detector contract, no trainer and no
augmentation, so a failure is the network's, the assignment's or the loss's. Run: python benchmarks/overfit.py [MODEL …]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import save

from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.coco import evaluate
from stdet.evaluation.predictors import TorchPredictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Detector, Targets
from stdet.plugins.loader import load_plugins
from stdet.structures import Annotation, DetectorSpec, Thresholds

IMAGES, WANTED = 8, 0.95


class Shapes(DetectionDataset):
    """Noise with one to three discs, squares or triangles, each in its own quarter and about a third as wide as the
    image."""

    class_names = ("disc", "square", "triangle")

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._made = [_make(rng, size, count=1 + index % 3) for index in range(IMAGES)]

    def __len__(self) -> int:
        return len(self._made)

    def annotation(self, index: int) -> Annotation:
        image, boxes, labels = self._made[index]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return Annotation(index, None, *image.shape[:2], boxes, labels, np.zeros(len(labels), bool), areas)

    def read_image(self, index: int) -> np.ndarray:
        return self._made[index][0]


def _make(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = rng.integers(60, 120, (size, size, 3)).astype(np.uint8)
    boxes, labels = [], []
    for quarter in rng.permutation(4)[:count]:
        half = rng.uniform(0.13, 0.20, 2) * size
        center = (np.array([quarter % 2, quarter // 2]) + 0.5) * size / 2 + rng.uniform(-0.03, 0.03, 2) * size
        (x1, y1), (x2, y2) = (center - half).astype(int), (center + half).astype(int)
        color = [int(c) for c in rng.choice([0, 30, 180, 255], 3)]
        label = int(rng.integers(3))
        if label == 0:
            middle, axes = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
            cv2.ellipse(image, middle, axes, 0, 0, 360, color, -1)
        elif label == 1:
            cv2.rectangle(image, (x1, y1), (x2, y2), color, -1)
        else:
            cv2.fillPoly(image, [np.array([[x1, y2], [x2, y2], [(x1 + x2) // 2, y1]])], color)
        boxes.append([x1, y1, x2 + 1, y2 + 1])
        labels.append(label)
    return image, np.array(boxes, np.float32), np.array(labels)


def _batch(dataset: Shapes, spec: DetectorSpec) -> tuple[torch.Tensor, Targets]:
    images = np.stack([prepare(dataset.read_image(i), spec.preprocess)[0] for i in range(IMAGES)])
    boxes, labels = torch.zeros(IMAGES, 3, 4), torch.full((IMAGES, 3), -1)
    for index in range(IMAGES):
        a = dataset.annotation(index)
        boxes[index, : len(a.labels)] = torch.from_numpy(a.boxes)
        labels[index, : len(a.labels)] = torch.from_numpy(a.labels)
    return normalize(torch.from_numpy(images), spec.preprocess), Targets(boxes, labels)


def overfit(name: str, size: int, max_steps: int, learning_rate: float, seed: int) -> dict[str, object]:
    """Train until AP50 is `WANTED` or the steps are used up: what came of it."""
    catalogue, _ = load_plugins()
    family = catalogue.family(name)
    dataset = Shapes(size, seed)
    spec = family.spec(name, dataset.class_names, family.preprocess.with_size(size, size))
    torch.manual_seed(seed)
    detector: Detector = catalogue.build("models", name, spec)
    detector.to(memory_format=torch.channels_last)
    images, targets = _batch(dataset, spec)
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(detector.parameter_groups(learning_rate, 0.0, family.training_options()))
    start, curve, step, ap50 = time.perf_counter(), [], 0, 0.0
    while ap50 < WANTED and step < max_steps:
        detector.train()
        for _ in range(20):
            optimizer.zero_grad(set_to_none=True)
            loss = detector.loss(detector(images), targets)["total"]
            loss.backward()
            optimizer.step()
        step += 20
        metrics = evaluate(TorchPredictor(detector), dataset, spec.preprocess, Thresholds(0.01, 0.65)).scalars()
        ap50 = metrics["AP50"]
        curve.append({"step": step, "loss": round(float(loss.detach()), 4), "AP50": round(ap50, 4)})
        print(f"  step {step:4d}  loss {curve[-1]['loss']:8.4f}  AP50 {ap50:.4f}", flush=True)
    seconds = round(time.perf_counter() - start, 1)
    return {"model": name, "size": size, "AP50": ap50, "steps": step, "seconds": seconds, "curve": curve}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=load_plugins()[0].names("models"), help="all of them by default")
    parser.add_argument("--size", type=int, default=128, help="input side, pixels")
    parser.add_argument("--steps", type=int, default=600, help="give up after so many")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results = []
    for name in args.models:
        print(name, flush=True)
        results.append(overfit(name, args.size, args.steps, args.lr, args.seed))
        verdict = "ok" if results[-1]["AP50"] >= WANTED else "FAILED"
        print(f"  {verdict}: AP50 {results[-1]['AP50']:.4f}, {results[-1]['steps']} steps, {results[-1]['seconds']} s")
        save(args.json, results)  # after each model, so that a run that is stopped leaves what it found out
    return int(any(result["AP50"] < WANTED for result in results))


if __name__ == "__main__":
    sys.exit(main())
