"""Training samples a second of the recipes, one process, one core, CPU time, on the COCO photographs of shared/data.

Claims, each a ratio of one interleaved run: with four freshly decoded images a mosaic at least 1.9x YOLOX's pipeline at
640 px and 1.7x at 320, both with YOLOX's view of the mosaic (`mosaic_view: corner`); with partners from the recent
images at least 1.15x ultralytics, which takes them from its buffer; with images cached in RAM at least 1.2x ultralytics'
cache, and 1.6x YOLOX's with its view; SSD's recipe at 300 px at least 2x pytorch-ssd's (see ssd_baseline.py: it is on no
registry, so that baseline is a restatement; torchvision's is real).

The 100 photographs are listed six times, so that no buffer holds the whole set, and 60 times for our recent images, of
which there are more: so all decode one file a sample. The caches are full before the first round.

The peers run in an interpreter of their own, since stdet must not depend on them:
    python -m venv peer && peer/bin/pip install pixeltable-yolox ultralytics
    STDET_PEER_PYTHON=peer/bin/python python benchmarks/data_pipeline.py
Without it only our own variants, decoding alone and the SSD baselines are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import ssd_baseline
import torch
from harness import arguments, interleave, report, save
from torchvision import tv_tensors
from torchvision.transforms import v2

from stdet.data.loader import TrainLoader
from stdet.interfaces.dataset import DatasetRequest
from stdet.interfaces.transform import Transform
from stdet.structures import Preprocess
from stdet_datasets.coco import CocoDataset
from stdet_datasets.options import YoloxAugmentation
from stdet_datasets.ssd_recipe import SsdRecipe
from stdet_datasets.yolox_recipe import YoloxRecipe

SAMPLES = 60
COPIES, MANY_COPIES = 6, 60
BATCH = 16
Variant = Callable[[], float]
"""Makes `SAMPLES` samples and returns the CPU seconds it took."""


def listed(shared: Path, folder: Path, copies: int) -> CocoDataset:
    """The photographs of tiny_coco, each under `copies` names, with COCO and YOLO annotations, in `folder`."""
    folder.mkdir()
    images, annotations, categories = [], [], []
    for name in ("images", "labels", "annotations"):
        (folder / name).mkdir()
    for split in ("train2017", "val2017"):
        source = json.loads((shared / f"data/tiny_coco/annotations/instances_{split}.json").read_text())
        categories = source["categories"]
        ranks = {category["id"]: rank for rank, category in enumerate(categories)}
        for _ in range(copies):
            for image in source["images"]:
                own = [a for a in source["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
                number = len(images) + 1
                images.append(image | {"id": number, "file_name": f"{number:06d}.jpg"})
                (folder / f"images/{number:06d}.jpg").symlink_to(
                    (shared / "data/tiny_coco" / split / image["file_name"]).resolve()
                )
                lines = []
                for a in own:
                    x, y, w, h = a["bbox"]
                    annotations.append(a | {"id": len(annotations) + 1, "image_id": number})
                    width, height = image["width"], image["height"]
                    centre = (x + w / 2) / width, (y + h / 2) / height
                    lines.append(f"{ranks[a['category_id']]} {centre[0]} {centre[1]} {w / width} {h / height}\n")
                (folder / f"labels/{number:06d}.txt").write_text("".join(lines))
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/all.json").write_text(json.dumps(document))
    return CocoDataset(DatasetRequest("train", folder / "images", folder / "annotations/all.json"))


def ours(dataset: CocoDataset, recipe: Transform, preprocess: Preprocess, **options: object) -> Variant:
    loader = TrainLoader(
        dataset,
        recipe,
        preprocess,
        batch_size=BATCH,
        seed=0,
        epochs=1000,
        **options,  # type: ignore[arg-type]
    )
    if options.get("cache_images"):
        for index in range(len(dataset)):
            _ = loader._samples._source.sample(index).image
    samples = endless(loader)

    def run() -> float:
        start = time.process_time()
        for _ in range(SAMPLES):
            next(samples)
        return time.process_time() - start

    return run


def endless(loader: TrainLoader) -> Iterator[object]:
    """Uncollated samples, epoch after epoch: the peers' figures don't include collating either."""
    for epoch in count():
        for keys in loader._keys(epoch):
            for key in keys:
                yield loader._samples[key]


def timed(make: Callable[[int], object]) -> Variant:
    positions = count()

    def run() -> float:
        start = time.process_time()
        for _ in range(SAMPLES):
            make(next(positions))
        return time.process_time() - start

    return run


def decode(dataset: CocoDataset) -> Variant:
    paths = [str(dataset.annotation(i).path) for i in range(len(dataset))]
    return timed(lambda position: cv2.imread(paths[position % len(paths)]))


@contextmanager
def peer(python: str, folder: Path, name: str) -> Iterator[Variant]:
    """A pipeline of `data_pipeline_peer.py` in an interpreter of its own."""
    command = [python, str(Path(__file__).with_name("data_pipeline_peer.py")), str(folder), name]
    environment = os.environ | {"PYTHONPATH": "", "YOLO_CONFIG_DIR": str(folder), "TQDM_DISABLE": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask() -> float:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{SAMPLES}\n")
            process.stdin.flush()
            word, seconds = process.stdout.readline().split()
            assert word == "done"
            return float(seconds)

        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError(f"{python} can't run {name}; its message is above")
        yield ask
        process.stdin.close()


def torchvision_ssd(dataset: CocoDataset, size: int) -> Variant:
    """The SSD preset of torchvision's reference training."""
    transform = v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104), "others": 0}),  # type: ignore[dict-item]
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((size, size)),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def make(position: int) -> object:
        sample = dataset.sample(position % len(dataset))
        boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(sample.height, sample.width))  # type: ignore[call-overload]
        image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))))
        return transform({"image": image, "boxes": boxes, "labels": torch.from_numpy(sample.labels)})

    return timed(make)


def restated_ssd(dataset: CocoDataset, size: int) -> Variant:
    rng = np.random.default_rng(0)

    def make(position: int) -> object:
        a = dataset.annotation(position % len(dataset))
        return ssd_baseline.augment(str(a.path), a.boxes, a.labels, size, rng)

    return timed(make)


def compare(title: str, variants: Mapping[str, Variant], rounds: int, baselines: list[str]) -> list[dict[str, object]]:
    timings = interleave(variants, rounds)
    return [report(title, timings, baseline, "/s", SAMPLES) for baseline in baselines]


def mosaics(
    dataset: CocoDataset, many: CocoDataset, folder: Path, size: int, rounds: int, python: str | None
) -> list[dict[str, object]]:
    letterbox = Preprocess(size, size, "letterbox", color_mode="bgr")
    corner = YoloxRecipe(YoloxAugmentation(mosaic_view="corner"))
    variants: dict[str, Variant] = {
        "decoding one file": decode(dataset),
        "stdet, fresh": ours(dataset, YoloxRecipe(), letterbox),
        "stdet, fresh, corner view": ours(dataset, corner, letterbox),
        "stdet, recent": ours(many, YoloxRecipe(), letterbox, recent_partners=128),
        "stdet, RAM": ours(dataset, YoloxRecipe(), letterbox, cache_images="ram"),
        "stdet, RAM, corner view": ours(dataset, corner, letterbox, cache_images="ram"),
    }
    names = {
        "YOLOX": f"yolox-{size}",
        "ultralytics": f"ultralytics-{size}",
        "YOLOX, RAM": f"yolox-{size}-ram",
        "ultralytics, RAM": f"ultralytics-{size}-ram",
    }
    with ExitStack() as stack:
        if python:
            variants |= {title: stack.enter_context(peer(python, folder, name)) for title, name in names.items()}
        return compare(f"mosaics, {size} px", variants, rounds, list(names) if python else ["decoding one file"])


def main() -> None:
    args = arguments(__doc__ or "", rounds=9)
    python = os.environ.get("STDET_PEER_PYTHON")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        dataset = listed(args.shared, folder, COPIES)
        many = listed(args.shared, Path(name) / "many", MANY_COPIES)
        for size in (640, 320):
            results += mosaics(dataset, many, folder, size, args.rounds, python)
        variants = {
            "pytorch-ssd's recipe, restated": restated_ssd(dataset, 300),
            "torchvision v2's SSD recipe": torchvision_ssd(dataset, 300),
            "stdet": ours(dataset, SsdRecipe(), Preprocess(300, 300, mean=(127.0,) * 3, std=(128.0,) * 3)),
        }
        results += compare("SSD samples, 300 px", variants, args.rounds, list(variants)[:2])
    save(args.json, results)


if __name__ == "__main__":
    main()
