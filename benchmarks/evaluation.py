"""Scoring detections: ours against pycocotools' own way through JSON files and by our arrays, same numbers.

Run: python benchmarks/evaluation.py
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from harness import arguments, interleave, report, save
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stdet.evaluation.coco import METRICS, score
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Annotation, Detections

IMAGES, CLASSES, FOUND = 2500, 80, 100


class Random(DetectionDataset):
    """Random boxes, about seven an image."""

    class_names = tuple(f"c{i}" for i in range(CLASSES))

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.annotations = []
        for index in range(IMAGES):
            n = int(rng.poisson(7))
            corner = rng.uniform(0, 400, (n, 2))
            boxes = np.hstack([corner, corner + rng.uniform(10, 200, (n, 2))]).astype(np.float32)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            ignore = np.zeros(n, bool)
            self.annotations.append(
                Annotation(index, None, 640, 640, boxes, rng.integers(0, CLASSES, n), ignore, areas)
            )

    def __len__(self) -> int:
        return IMAGES

    def annotation(self, index: int) -> Annotation:
        return self.annotations[index]

    def read_image(self, index: int) -> np.ndarray:
        raise NotImplementedError


def main() -> None:
    args = arguments(__doc__ or "", rounds=1)
    dataset, rng = Random(), np.random.default_rng(1)
    found = {}
    for index in range(IMAGES):
        a = dataset.annotation(index)
        noise = rng.uniform(0, 400, (FOUND - len(a.boxes), 2))
        boxes = np.vstack([a.boxes + rng.normal(0, 6, a.boxes.shape), np.hstack([noise, noise + 80])]).astype(
            np.float32
        )
        labels = np.concatenate([a.labels, rng.integers(0, CLASSES, len(noise))])
        found[index] = Detections(boxes, rng.random(len(boxes)).astype(np.float32), labels)

    def through_files() -> list[float]:
        images, annotations, results = [], [], []
        for index in range(IMAGES):
            a, d = dataset.annotation(index), found[index]
            images.append({"id": index + 1, "width": 640, "height": 640})
            for b, k, area in zip(a.boxes.tolist(), a.labels.tolist(), a.areas.tolist(), strict=True):
                box = [b[0], b[1], b[2] - b[0], b[3] - b[1]]
                row = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": k + 1, "bbox": box}
                annotations.append(row | {"area": area, "iscrowd": 0})
            for b, s, k in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True):
                box = [b[0], b[1], b[2] - b[0], b[3] - b[1]]
                results.append({"image_id": index + 1, "category_id": k + 1, "bbox": box, "score": s})
        categories = [{"id": k + 1, "name": f"c{k}"} for k in range(CLASSES)]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            truth_file, result_file = Path(folder) / "gt.json", Path(folder) / "dt.json"
            document = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
            truth_file.write_text(json.dumps(document))
            result_file.write_text(json.dumps(results))
            truth = COCO(str(truth_file))
            judge = COCOeval(truth, truth.loadRes(str(result_file)), "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return [float(v) for v in judge.stats]

    ours = score(dataset, found).metrics
    theirs = through_files()
    worst = max(abs(ours[name] - value) for name, value in zip(METRICS, theirs, strict=True))  # type: ignore[operator]
    print(f"largest difference of the twelve numbers: {worst:.1e}")
    variants = {
        "pycocotools through JSON files": through_files,
        "scorer: pycocotools": lambda: score(dataset, found, scorer="pycocotools"),
        "scorer: stdet": lambda: score(dataset, found),
    }
    timings = interleave(variants, args.rounds)
    save(
        args.json,
        [
            report(
                f"scoring {IMAGES} images with {IMAGES * FOUND} detections", timings, "pycocotools through JSON files"
            )
        ],
    )


if __name__ == "__main__":
    main()
