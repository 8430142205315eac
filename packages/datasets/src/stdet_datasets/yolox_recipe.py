"""YOLOX's training recipe (arXiv 2107.08430): mosaic, affine, mixup, HSV, flip, letterbox; every key honoured."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from stdet.data.preprocess import fitted, resize, resized_sample, with_channels
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Sample
from stdet_datasets.geometry import (
    WARP_FLAGS,
    clip_boxes,
    flip_boxes,
    input_scale,
    paste,
    random_affine,
    shift,
    stretch,
    warp_boxes,
)
from stdet_datasets.options import YoloxAugmentation

HSV_GAINS = (5.0, 30.0, 30.0)
"""Largest change of hue (of 180), saturation and value (of 255)."""
MIXUP_FLIP_PROB = 0.5
MIXUP_TRIES = 50
"""Images drawn in search of a mixup partner that has boxes."""


class YoloxRecipe(Transform):
    """While strong augmentation is on: mosaic (or the image alone), affine, mixup. Always: HSV and flip.

    In the reference the affine of a mosaic has the top left corner of its canvas, of twice the input's size, as its
    fixed point. On COCO 40 % of the pixels in view are padding then, a tenth of the samples has no box, and 2.4 of four
    images are in view. That is `mosaic_view: corner`; about the centre it is 13 %, none, and 3.7 images.
    Other differences, on purpose: an image alone is turned too, about its centre; images without boxes stay, as
    background; nothing is resampled twice, unless a warp doesn't offer the preprocessing's kernel: then images are
    resized by that kernel first, and warped bilinearly. Every tile comes to the input's size by the resize mode of the
    preprocessing.
    """

    def __init__(self, options: YoloxAugmentation | None = None) -> None:
        self._options = options or YoloxAugmentation()

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        made = self._strong(*_warpable(sample, context)) if context.strong else _fit(sample, context)
        image, boxes = made.image, made.boxes
        if context.rng.random() < self._options.hsv_prob:
            height, width = context.preprocess.size
            if not context.strong:  # padding beside a plain image keeps the value that evaluation gives it
                (height, width), _ = fitted((sample.height, sample.width), context.preprocess)
            changed = change_hsv(image[:height, :width], context.rng)
            if changed.shape != image.shape:
                image = image.copy()
                image[:height, :width] = changed
            else:
                image = changed
        if context.rng.random() < self._options.flip_prob:
            image, boxes = cv2.flip(image, 1), flip_boxes(boxes, image.shape[1])
        return Sample(image, boxes, made.labels)

    def _strong(self, sample: Sample, context: TransformContext) -> Sample:
        options, rng = self._options, context.rng
        if rng.random() < options.mosaic_prob:
            made = self._mosaic(sample, context)
            if options.enable_mixup and len(made.labels) and rng.random() < options.mixup_prob:
                made = self._mixup(made, context)
            return made
        return self._affine_alone(sample, context)

    def _affine(self, context: TransformContext) -> np.ndarray:
        o = self._options
        return random_affine(
            context.rng,
            degrees=o.degrees,
            scale=o.mosaic_scale,
            shear=o.shear,
            translate=o.translate,
            size=context.preprocess.size,
        )

    def _affine_alone(self, sample: Sample, context: TransformContext) -> Sample:
        """One image, fitted, then turned about the centre of the input without the mosaic's scaling."""
        height, width = context.preprocess.size
        o = self._options
        turn = random_affine(
            context.rng, degrees=o.degrees, scale=(1.0, 1.0), shear=o.shear, translate=o.translate, size=(height, width)
        )
        scale_y, scale_x = input_scale((sample.height, sample.width), context.preprocess)
        matrix = shift(width / 2, height / 2) @ turn @ shift(-width / 2, -height / 2)
        if context.preprocess.resize_mode == "crop":
            matrix = matrix @ shift((width - sample.width * scale_x) / 2, (height - sample.height * scale_y) / 2)
        matrix = matrix @ stretch(scale_x, scale_y)
        canvas = _canvas(context)
        paste(sample, canvas, matrix, interpolation=context.preprocess.interpolation)
        return Sample(canvas, *clip_boxes(warp_boxes(sample.boxes, matrix), sample.labels, (height, width)))

    def _mosaic(self, sample: Sample, context: TransformContext) -> Sample:
        """Four images meet at a random point of a canvas twice the input; the affine shows a part of it.

        The affine is drawn first and each tile warped once, straight into the output; a tile out of view is never
        decoded.
        """
        height, width = context.preprocess.size
        rng = context.rng
        meet_x, meet_y = rng.uniform(0.5, 1.5) * width, rng.uniform(0.5, 1.5) * height
        view = self._affine(context)
        if self._options.mosaic_view == "centre":
            view = shift(width / 2, height / 2) @ view @ shift(-width, -height)
        tiles = [sample, context.draw(), context.draw(), context.draw()]
        canvas = _canvas(context)
        boxes, labels = [], []
        for place, tile in enumerate(tiles):
            right, below = place % 2, place // 2
            scale_y, scale_x = input_scale((tile.height, tile.width), context.preprocess)
            tile_h, tile_w = tile.height * scale_y, tile.width * scale_x
            left, top = meet_x - (0 if right else tile_w), meet_y - (0 if below else tile_h)
            whole = view @ shift(left, top) @ stretch(scale_x, scale_y)
            # A tile ends where the canvas of twice the input does, to the nearest of its own pixels.
            x1, x2 = round(max(0.0, -left) / scale_x), round(min(tile_w, 2 * width - left) / scale_x)
            y1, y2 = round(max(0.0, -top) / scale_y), round(min(tile_h, 2 * height - top) / scale_y)
            if not paste(tile, canvas, whole, (x1, y1, x2, y2), context.preprocess.interpolation):
                continue
            cut = np.clip(tile.boxes, [x1, y1, x1, y1], [x2, y2, x2, y2]).astype(np.float32)
            seen = (cut[:, 2:] - cut[:, :2]).min(1, initial=np.inf) > 0
            boxes.append(warp_boxes(cut[seen], whole))
            labels.append(tile.labels[seen])
        if not boxes:
            return Sample(canvas, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        return Sample(canvas, *clip_boxes(np.concatenate(boxes), np.concatenate(labels), (height, width)))

    def _mixup(self, sample: Sample, context: TransformContext) -> Sample:
        """Half this image, half another one, which is scaled, perhaps mirrored, and cut out at a random place."""
        height, width = context.preprocess.size
        rng = context.rng
        other = next((s for s in (context.draw() for _ in range(MIXUP_TRIES)) if len(s.labels)), None)
        if other is None:  # hardly an image of the set has boxes
            return sample
        factor = rng.uniform(*self._options.mixup_scale)
        scale_y, scale_x = (factor * s for s in input_scale((other.height, other.width), context.preprocess))
        scaled_h, scaled_w = other.height * scale_y, other.width * scale_x
        room_x, room_y = scaled_w - width, scaled_h - height
        left, top = -rng.uniform(0, max(room_x, 0)), -rng.uniform(0, max(room_y, 0))
        matrix = shift(left, top) @ stretch(scale_x, scale_y)
        if rng.random() < MIXUP_FLIP_PROB:
            matrix = matrix @ shift(other.width, 0) @ stretch(-1.0, 1.0)
        canvas = _canvas(context)
        paste(other, canvas, matrix, interpolation=context.preprocess.interpolation)
        boxes, labels = clip_boxes(warp_boxes(other.boxes, matrix), other.labels, (height, width))
        image = cv2.addWeighted(sample.image, 0.5, canvas, 0.5, 0)
        return Sample(image, np.concatenate([sample.boxes, boxes]), np.concatenate([sample.labels, labels]))


def _warpable(sample: Sample, context: TransformContext) -> tuple[Sample, TransformContext]:
    """The arguments as they are, or with all images resized by the kernel, where a warp doesn't offer it."""
    preprocess = context.preprocess
    if preprocess.interpolation in WARP_FLAGS:
        return sample, context

    def resized(sample: Sample) -> Sample:
        return resized_sample(sample, fitted((sample.height, sample.width), preprocess)[0], preprocess)

    return resized(sample), dataclasses.replace(context, draw=lambda: resized(context.draw()))


def _canvas(context: TransformContext) -> np.ndarray:
    channels = 4 if context.preprocess.color_mode == "rgba" else 3
    return np.full((*context.preprocess.size, channels), context.preprocess.pad_value, np.uint8)


def _fit(sample: Sample, context: TransformContext) -> Sample:
    """The image as evaluation sees it."""
    image, geometry = resize(with_channels(sample.image, context.preprocess), context.preprocess)
    boxes, labels = clip_boxes(geometry.to_input(sample.boxes), sample.labels, context.preprocess.size)
    return Sample(image, boxes, labels)


def change_hsv(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3 or 4) RGB(A) with hue, saturation and value shifted by random amounts, each left alone half of the
    time. Alpha stays. Hue wraps around.
    """
    hue, *others = (rng.uniform(-1, 1, 3) * HSV_GAINS * rng.integers(0, 2, 3)).astype(int).tolist()
    if not any((hue, *others)):
        return image
    if image.shape[2] == 4:
        return np.dstack([shift_hsv(np.ascontiguousarray(image[..., :3]), hue, *others), image[..., 3]])
    return shift_hsv(np.ascontiguousarray(image), hue, *others)


def shift_hsv(image: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    """uint8 (H, W, 3) RGB with hue (of 180, at most 75 either way), saturation and value (of 255) shifted.

    Saturating additions are faster than tables or wider integers. They can't take hue below 0, so a negative shift is
    made as a positive one with red and blue exchanged, which turns the circle of hues around; above 179 OpenCV's way
    back wraps by itself. Grey has no hue: where saturation rises, it becomes a little red, or then a little blue.
    """
    there, back = (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB) if hue >= 0 else (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR)
    hsv = cv2.cvtColor(image, there)
    up, down = (abs(hue), max(saturation, 0), max(value, 0), 0), (0, max(-saturation, 0), max(-value, 0), 0)
    cv2.add(hsv, up, dst=hsv)
    if any(down):
        cv2.subtract(hsv, down, dst=hsv)
    return cv2.cvtColor(hsv, back, dst=hsv)
