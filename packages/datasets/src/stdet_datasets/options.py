"""What readers and recipes tell the config layer: what they need, and the keys that they add. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stdet.interfaces.advice import Proposal, Situation
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import Options
from stdet.interfaces.transform import RecipeOptions, Sizes

if TYPE_CHECKING:
    import numpy as np

Probability = Annotated[float, Field(ge=0, le=1)]


FEW_IMAGES, MANY_IMAGES = 1000, 20_000
"""Below the first, the proposal is the recipe that blood cells were learned with; from the second on, YOLOX's own."""
SMALL_SHARE = 0.05
"""From this share of small objects on, nothing is proposed that makes objects smaller."""


class SyntheticOptions(Options):
    """Keys of the `synthetic` reader."""

    num_images: int = Field(320, gt=0, description="training images; validation and test have a quarter of that each")
    image_size: int = Field(256, ge=64, le=2048, description="side of the square images, pixels")
    max_objects: int = Field(6, ge=1, le=50, description="most objects in an image; some images have none")


def _find(reader: str) -> Callable[[Path], Mapping[str, Any]]:
    """Looks for the layout of a format; what that takes is imported when somebody asks."""

    def find(folder: Path) -> Mapping[str, Any]:
        from stdet_datasets import layouts

        return getattr(layouts, f"find_{reader}")(folder)

    return find


COCO = ReaderFacts(find=_find("coco"))
VOC = ReaderFacts(split_lists=True, aliases=("pascal_voc",), find=_find("voc"))
YOLO = ReaderFacts(
    needs=("images_path",), split_lists=True, aliases=("darknet_yolo",), list_is_enough=False, find=_find("yolo")
)
SYNTHETIC = ReaderFacts(options=SyntheticOptions, needs=())


class SsdAugmentation(RecipeOptions):
    """Keys of the `ssd` recipe."""

    expand_prob: Probability = Field(
        0.5,
        description="probability of laying the image on a canvas of up to four times its sides, which makes objects smaller",
    )

    @classmethod
    def proposals(cls, situation: Situation) -> Iterator[Proposal]:
        if situation.small > SMALL_SHARE:
            yield Proposal("dataset.expand_prob", 0.0, "expanding would make small objects smaller still")


class YoloxAugmentation(RecipeOptions):
    """Keys of the `yolox` recipe."""

    multiscale_range: int = Field(0, ge=0, description="train at input size +- 32 times this; 0 keeps the input size")
    random_size: tuple[int, int] | None = Field(
        None, description="train at sizes from low to high, in units of 32 px; wins over multiscale_range"
    )
    mosaic_prob: Probability = Field(1.0, description="probability of joining four images into one")
    mosaic_view: Literal["centre", "corner"] = Field(
        "centre",
        description="part of the mosaic that is shown: around its centre, where the images meet, or from its top left "
        "corner as in YOLOX, which is faster, but shows fewer objects and more padding",
    )
    mosaic_buffer: int = Field(
        0,
        ge=0,
        description="draw mosaic and mixup partners from about this many recently used images, which is faster; "
        "0 draws from the whole set",
    )
    mosaic_scale: tuple[float, float] = Field((0.5, 1.5), description="scale range of the mosaic")
    enable_mixup: bool = Field(False, description="blend a second image over a mosaic")
    mixup_prob: Probability = Field(1.0, description="probability of mixup, when it is enabled")
    mixup_scale: tuple[float, float] = Field((0.5, 1.5), description="scale range of the second image")
    hsv_prob: Probability = Field(1.0, description="probability of changing hue, saturation and value")
    flip_prob: Probability = Field(0.5, description="probability of mirroring left and right")
    degrees: float = Field(10.0, ge=0, le=180, description="rotation is drawn from -degrees to degrees")
    translate: float = Field(0.1, ge=0, le=1, description="shift is drawn from -translate to translate of the size")
    shear: float = Field(2.0, ge=0, lt=90, description="shear angles are drawn from -shear to shear, degrees")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("mosaic_scale", "mixup_scale", "random_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, not {value}")
        return self

    @classmethod
    def proposals(cls, situation: Situation) -> Iterator[Proposal]:
        if situation.images < FEW_IMAGES:
            few = f"{situation.images} images are few: "
            yield Proposal("dataset.mosaic_prob", 0.5, few + "half of the samples stay whole photographs")
            yield Proposal("dataset.mosaic_scale", [0.7, 1.4], few + "objects keep about their size")
            yield Proposal("dataset.degrees", 5.0, few + "turned a little; 0 where up and down never change")
            yield Proposal("dataset.shear", 1.0, few + "sheared a little")
        elif situation.images >= MANY_IMAGES:
            yield Proposal("dataset.enable_mixup", True, f"{situation.images} images bear stronger augmentation")

    def sizes(self, size: tuple[int, int]) -> Sizes | None:
        """Heights by `random_size`, else by `multiscale_range`, in steps of 32 pixels; the width follows, so that the
        aspect ratio is kept, rounded to a multiple of 32."""
        height, width = size
        if self.random_size is not None:
            low, high = self.random_size
        elif self.multiscale_range > 0:
            low, high = max(1, height // 32 - self.multiscale_range), height // 32 + self.multiscale_range
        else:
            return None

        def draw(rng: np.random.Generator) -> tuple[int, int]:
            rows = int(rng.integers(low, high + 1))
            return rows * 32, max(1, round(rows * width / height)) * 32

        return draw

    def recent_partners(self) -> int | None:
        return self.mosaic_buffer or None

    def idle(self, given: Mapping[str, Any]) -> Iterator[str]:
        if {"mixup_prob", "mixup_scale"} & given.keys() and "enable_mixup" not in given:
            yield "dataset.mixup_prob and mixup_scale do nothing without enable_mixup"
        if self.random_size is not None and given.get("multiscale_range"):
            yield "dataset.multiscale_range does nothing beside random_size"
