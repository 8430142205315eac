"""What this package adds to stdet."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import Register, RegisterDataset

STDET_API_VERSION = 1


@hookimpl
def stdet_register_datasets(register: RegisterDataset) -> None:
    writers = "stdet_datasets.writers"
    register("coco", "stdet_datasets.coco:CocoDataset", "COCO JSON annotations", writer=f"{writers}:CocoWriter")
    register(
        "voc",
        "stdet_datasets.voc:VocDataset",
        "Pascal VOC: one XML an image, split lists",
        writer=f"{writers}:VocWriter",
    )
    register(
        "yolo",
        "stdet_datasets.yolo:YoloDataset",
        "YOLO labels: one text file an image, boxes in shares of its size",
        writer=f"{writers}:YoloWriter",
    )
    register("folder", "stdet_datasets.folder:FolderDataset", "all images of a folder, without annotations")
    register(
        "synthetic",
        "stdet_datasets.synthetic:SyntheticDataset",
        "generated shapes on textured backgrounds; for trials and tests",
        options="stdet_datasets.options:SyntheticOptions",
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
