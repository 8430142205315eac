"""How the outputs of somebody else's ONNX file can be read: what `model.head` names. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from stdet.structures import Preprocess


@dataclass(frozen=True)
class HeadForm:
    """A way to lay out boxes and scores that many networks share. A family's plugin brings more in `ModelFamily.heads`.

    Attributes:
        name: value of `model.head`, and the `box_coding` of the spec that is made with it.
        target: `module:Class`, called with the `DetectorSpec`; gives a `stdet.interfaces.detector.Decoder`.
        summary: one line for people: the shape, and what the columns mean.
        preprocess: what networks with this head usually want; config keys override it one by one.
    """

    name: str
    target: str
    summary: str
    preprocess: Preprocess


_YOLOX = Preprocess(640, 640, resize_mode="letterbox", color_mode="bgr")
HEADS = (
    HeadForm(
        "yolox",
        "stdet.evaluation.heads:YoloxHead",
        "[1, N, 5 + classes], rows over strides 8, 16, 32: raw box values, then objectness and classes, 0..1",
        _YOLOX,
    ),
    HeadForm(
        "yolox_decoded",
        "stdet.evaluation.heads:DecodedYoloxHead",
        "[1, N, 5 + classes]: centre, width and height in pixels, then objectness and classes, 0..1",
        _YOLOX,
    ),
    HeadForm(
        "yolov8",
        "stdet.evaluation.heads:Yolov8Head",
        "[1, 4 + classes, N] or its transpose: centre, width and height in pixels, then classes, 0..1",
        Preprocess(640, 640, resize_mode="letterbox", color_mode="rgb", scale=1 / 255),
    ),
)
"""Those that core reads."""
