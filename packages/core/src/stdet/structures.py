"""Values that every stage shares. Plain data: no torch, no I/O, nothing that knows a model or a file format."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

if TYPE_CHECKING:
    import numpy as np

ResizeMode = Literal["fit", "letterbox", "crop"]
Interpolation = Literal["bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"]
ColorMode = Literal["rgb", "bgr", "grayscale", "rgba"]

COLOR_CHANNELS: dict[str, int] = {"rgb": 3, "bgr": 3, "grayscale": 1, "rgba": 4}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input: the one definition that training, evaluation, calibration, the ONNX
    metadata and the firmware header share.

    `pixel -> ((pixel * scale + offset) - mean[c]) / std[c]` on 0..255 values, after resizing to `height` x `width`.

    Attributes:
        height, width: input size in pixels.
        resize_mode: `fit` stretches both sides; `letterbox` keeps the aspect ratio, puts the image at the top left and
            pads right and bottom with `pad_value`; `crop` keeps the aspect ratio and cuts the centre.
        interpolation: resampling kernel.
        pad_value: 0..255, used by letterbox and by augmentations that uncover background.
        color_mode: channel order of the input tensor.
        scale, offset: applied first, on 0..255 pixel values.
        mean, std: per channel (in the order of `color_mode`), applied after scale and offset.
    """

    height: int
    width: int
    resize_mode: ResizeMode = "fit"
    interpolation: Interpolation = "bilinear"
    pad_value: int = 114
    color_mode: ColorMode = "rgb"
    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("resize_mode", get_args(ResizeMode)),
            ("interpolation", get_args(Interpolation)),
            ("color_mode", get_args(ColorMode)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values for color_mode {self.color_mode}")

    @property
    def channels(self) -> int:
        return COLOR_CHANNELS[self.color_mode]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def with_size(self, height: int, width: int) -> Self:
        return dataclasses.replace(self, height=height, width=width)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data | {"mean": tuple(data["mean"]), "std": tuple(data["std"])})


@dataclass(frozen=True)
class DetectorSpec:
    """What later stages may know of a model: everything they need to feed it and to read its outputs.

    It is stored in checkpoints and in the ONNX metadata, and is the only thing that evaluation, quantization and
    deployment read.

    Attributes:
        model_name: registered name of the model that can decode the outputs.
        model_type: family, such as `st_yolod` or `ssd`.
        class_names: object classes in label order, without background.
        preprocess: how to make the input tensor.
        box_coding: name of the output convention, such as `yolox` or `ssd`.
        strides: output strides in pixels, finest first.
        options: the model options that shape the network (for example `{"width_mult": 1.0}`); JSON values only.
    """

    model_name: str
    model_type: str
    class_names: tuple[str, ...]
    preprocess: Preprocess
    box_coding: str
    strides: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "model_type": self.model_type,
            "class_names": list(self.class_names),
            "preprocess": self.preprocess.to_dict(),
            "box_coding": self.box_coding,
            "strides": list(self.strides),
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(
            model_name=data["model_name"],
            model_type=data["model_type"],
            class_names=tuple(data["class_names"]),
            preprocess=Preprocess.from_dict(data["preprocess"]),
            box_coding=data["box_coding"],
            strides=tuple(data["strides"]),
            options=dict(data["options"]),
        )


@dataclass(frozen=True)
class BoxCoding:
    """What code outside Python needs to turn exported outputs into boxes, besides the spec.

    Attributes:
        name: the output convention, as `DetectorSpec.box_coding`.
        output_names: of the exported outputs, in the order of the convention.
        priors: float32 (P, 4): cx, cy, w, h in parts of the input's width and height; None where there are none.
        center_variance, size_variance: factors of the offsets against the priors; None where there are no priors.
    """

    name: str
    output_names: tuple[str, ...]
    priors: np.ndarray | None = None
    center_variance: float | None = None
    size_variance: float | None = None


@dataclass(frozen=True)
class Annotation:
    """What a data set says of one image, without decoding it.

    Attributes:
        image_id: unique within the data set; what reports and predictions call the image.
        path: the image file; None when the image is generated.
        height, width: of the image as it is shown (after EXIF orientation), pixels.
        boxes: float32 (N, 4), xyxy, pixels of the image.
        labels: int64 (N,), 0-based index into the data set's `class_names`.
        ignore: bool (N,), crowd regions (COCO) and difficult objects (VOC): never training targets, and detections that
            match them are neither right nor wrong. Which of the two is `DetectionDataset.ignored`.
        areas: float32 (N,), pixels^2, what COCO's small/medium/large is judged by (mask area where there is a mask).
    """

    image_id: int
    path: Path | None
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray


class Sample:
    """One image with its boxes on the way through the transforms.

    The image is decoded on first use, so a transform that finds a tile out of view never pays for it.

    Attributes:
        height, width: pixels, known without decoding.
        boxes: float32 (N, 4), xyxy, pixels of this image.
        labels: int64 (N,).
    """

    __slots__ = ("_image", "_read", "_read_reduced", "boxes", "height", "labels", "width")

    _image: np.ndarray | None
    _read: Callable[[], np.ndarray] | None

    def __init__(
        self,
        image: np.ndarray | Callable[[], np.ndarray],
        boxes: np.ndarray,
        labels: np.ndarray,
        size: tuple[int, int] | None = None,
        read_reduced: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        """Args:
        image: uint8 (H, W, C), channels R, G, B (, A), or a function that returns it (then `size` is needed).
        size: (height, width), pixels.
        read_reduced: a cheaper function for a small image, as `DetectionDataset.read_reduced`.
        """
        self._read_reduced = read_reduced
        if callable(image):
            if size is None:
                raise ValueError("a lazily read image needs its size")
            self._image, self._read = None, image
            self.height, self.width = size
        else:
            self._image, self._read = image, None
            self.height, self.width = image.shape[:2]
        self.boxes = boxes
        self.labels = labels

    @property
    def image(self) -> np.ndarray:
        """uint8 (H, W, C), RGB(A). Not to be written to: it may be shared with a cache."""
        if self._image is None:
            assert self._read is not None
            self._image = self._read()
        return self._image

    def reduced(self, scale: float) -> tuple[np.ndarray, int]:
        """The image for one who will shrink it to `scale` of its sides or less: perhaps averaged down already.

        Returns:
            uint8 (H, W, C), not to be written to, and the factor f (1, 2, 4, 8; f * scale <= 1) that it is reduced by.
        """
        factor = next((f for f in (8, 4, 2) if f * scale <= 1), 1)
        if factor == 1 or self._read_reduced is None or self._image is not None:
            return self.image, 1
        image = self._read_reduced(factor)
        return image, 1 if image.shape[:2] == (self.height, self.width) else factor


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, best first.

    Attributes:
        boxes: float32 (N, 4), xyxy, pixels of the original image unless the producer says otherwise.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), 0-based class index.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


SCORED_FROM, SHOWN_FROM = 0.001, 0.25
"""Least scores where the config gives none. Average precision wants the weak ones, too; they would bury every picture."""

_OLD_THRESHOLDS = {"confidence_thresh": "confidence", "nms": "nms_iou", "nms_thresh": "nms_iou"}


@dataclass(frozen=True)
class Thresholds:
    """Which candidates are detections: one value, made from the config once, for every place that finds any.

    Attributes:
        confidence: least score, 0..1, inclusive.
        nms_iou: IoU above which the weaker of two boxes of a class is dropped, 0..1.
        max_detections: at most so many an image, of all classes together; None for no limit.
    """

    confidence: float
    nms_iou: float
    max_detections: int | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """How every report spells them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Also reads the spellings of older reports.

        Raises:
            TypeError: a threshold is missing, or there is one that nobody knows.
        """
        return cls(**{_OLD_THRESHOLDS.get(name, name): value for name, value in data.items()})


@dataclass(frozen=True)
class Table:
    """A table for people; every cell is text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
