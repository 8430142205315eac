"""The peers' side of `data_pipeline.py`: YOLOX's and ultralytics' training pipelines, in an interpreter that has them.

    pip install pixeltable-yolox ultralytics

Started by `data_pipeline.py` with a folder that it made: `images`, `labels` (YOLO text) and `annotations/all.json`
(COCO), and the name of a pipeline such as `yolox-640` or `ultralytics-320-ram`. For each line on stdin, a number of
samples, it makes that many and answers `done SECONDS`, CPU time of this process. Imports nothing of stdet.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import cv2
import torch

Maker = Callable[[int], object]


def yolox(folder: Path, size: int, cache: bool) -> tuple[Maker, int]:
    """MosaicDetection over TrainTransform: mosaic always, mixup off, affine of 10 degrees, .1, .5-1.5, 2; HSV, flip."""
    from loguru import logger
    from yolox.data import CocoDataset, MosaicDetection, TrainTransform

    logger.remove()
    warnings.simplefilter("ignore")
    plain = CocoDataset(str(folder), "all.json", "images", (size, size), cache=cache)
    mosaic = MosaicDetection(
        plain,
        (size, size),
        preproc=TrainTransform(max_labels=120, flip_prob=0.5, hsv_prob=1.0),
        degrees=10.0,
        translate=0.1,
        mosaic_scale=(0.5, 1.5),
        shear=2.0,
        enable_mixup=False,
    )
    return mosaic.__getitem__, len(mosaic)


def ultralytics(folder: Path, size: int, cache: bool) -> tuple[Maker, int]:
    """YOLODataset with the same amounts; its own HSV gains. Without a cache, partners come from its buffer."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)
    settings = {"degrees": 10.0, "translate": 0.1, "scale": 0.5, "shear": 2.0, "mosaic": 1.0, "mixup": 0.0}
    hyp = get_cfg(overrides=settings | {"fliplr": 0.5, "imgsz": size})
    names = {index: str(index) for index in range(80)}
    dataset = YOLODataset(
        img_path=str(folder / "images"),
        data={"names": names, "nc": 80, "channels": 3},
        imgsz=size,
        augment=True,
        hyp=hyp,
        batch_size=16,
        cache="ram" if cache else False,
        task="detect",
    )
    return dataset.__getitem__, len(dataset)


def main() -> None:
    folder, (name, size, *cache) = Path(sys.argv[1]), sys.argv[2].split("-")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    make, length = {"yolox": yolox, "ultralytics": ultralytics}[name](folder, int(size), bool(cache))
    cv2.setNumThreads(0)
    positions: Iterator[int] = count()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.process_time()
        for _ in range(int(line)):
            make(next(positions) % length)
        print("done", time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
