"""What this package adds to stdet."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import Register, RegisterDataset

STDET_API_VERSION = 2


@hookimpl
def stdet_register_datasets(register: RegisterDataset) -> None:
    facts, writers = "stdet_datasets.options", "stdet_datasets.writers"
    register(
        "coco",
        "stdet_datasets.coco:CocoDataset",
        "COCO JSON annotations",
        facts=f"{facts}:COCO",
        writer=f"{writers}:CocoWriter",
    )
    register(
        "voc",
        "stdet_datasets.voc:VocDataset",
        "Pascal VOC: one XML an image, split lists",
        facts=f"{facts}:VOC",
        writer=f"{writers}:VocWriter",
    )
    register(
        "yolo",
        "stdet_datasets.yolo:YoloDataset",
        "YOLO labels: one text file an image, boxes in shares of its size",
        facts=f"{facts}:YOLO",
        writer=f"{writers}:YoloWriter",
    )
    register(
        "synthetic",
        "stdet_datasets.synthetic:SyntheticDataset",
        "generated shapes on textured backgrounds; for trials and tests",
        facts=f"{facts}:SYNTHETIC",
    )


@hookimpl
def stdet_register_transforms(register: Register) -> None:
    register(
        "yolox",
        "stdet_datasets.yolox_recipe:YoloxRecipe",
        "training recipe: mosaic, affine, mixup, HSV, flip, letterbox",
        options="stdet_datasets.options:YoloxAugmentation",
    )
    register(
        "ssd",
        "stdet_datasets.ssd_recipe:SsdRecipe",
        "training recipe: photometric distortion, expand, IoU crop, mirror, resize",
        options="stdet_datasets.options:SsdAugmentation",
    )
