"""Boxes proven right by painting: every box is filled with a colour of its own, and found again in what a recipe makes."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.data.image_cache import MemoryCache
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.transform import TransformContext
from stdet.structures import Annotation, Preprocess, Sample
from stdet_datasets import ssd_recipe
from stdet_datasets.options import YoloxAugmentation
from stdet_datasets.ssd_recipe import SsdRecipe
from stdet_datasets.yolox_recipe import YoloxRecipe

SLACK = 2.0
"""Pixels: one for where nearest-neighbour sampling falls, one for whole pixels of tiles and crops."""
MODES = st.sampled_from(["fit", "letterbox", "crop"])


def colour(label: int) -> int:
    """Far enough apart to be told from one another after a half-and-half blend."""
    return 40 + 12 * label


def painted(number: int, channel: int = 0) -> Sample:
    """A black image with a box left and a box right, labelled 2 n and 2 n + 1, filled with their colours.

    It is small, so that nothing shrinks to less than half: then colours are averaged, and can't be told apart.
    """
    rng = np.random.default_rng(number)
    height, width = rng.integers(50, 110, 2).tolist()
    image = np.zeros((height, width, 3), np.uint8)
    boxes, labels = [], []
    for side in (0, 1):
        x1, x2 = np.sort(
            rng.choice(np.arange(side * width // 2 + 1, (side + 1) * width // 2), 2, replace=False)
        ).tolist()
        y1, y2 = np.sort(rng.choice(np.arange(height), 2, replace=False)).tolist()
        labels.append(2 * (number % 8) + side)
        image[y1:y2, x1:x2, channel] = colour(labels[-1])
        boxes.append((x1, y1, x2, y2))
    return Sample(image, np.array(boxes, np.float32), np.array(labels))


def check(made: Sample, channel: int, shade: Any, exact: bool, labels: list[int]) -> None:
    """Every painted area has its box, and every box its painted area.

    Args:
        shade: label to the value that its colour has become.
        exact: boxes cut off by the border end where their pixels do; a turned one is the hull of the whole.
    """
    height, width = made.image.shape[:2]
    plane = made.image[..., channel].astype(int)
    for label in labels:
        mask = np.abs(plane - shade(label)) <= 1
        boxes = made.boxes[made.labels == label]
        assert len(boxes) <= 1
        if not mask.any():
            assert not exact or not len(boxes) or (boxes[0, 2:] - boxes[0, :2]).min() <= 2 * SLACK
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        if not len(boxes):
            assert (seen[2:] - seen[:2]).min() <= 2 * SLACK
            continue
        box = boxes[0]
        assert np.all(seen[:2] >= box[:2] - SLACK)
        assert np.all(seen[2:] <= box[2:] + SLACK)
        if exact or (box.min() > 0 and box[2] < width and box[3] < height):
            np.testing.assert_allclose(box, seen, atol=SLACK)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    mode=MODES,
    turned=st.booleans(),
    mosaic=st.booleans(),
    view=st.sampled_from(["centre", "corner"]),
)
def test_boxes_of_all_tiles_surround_their_colour(seed: int, mode: Any, turned: bool, mosaic: bool, view: Any) -> None:
    degrees, shear = (20.0, 6.0) if turned else (0.0, 0.0)
    options = YoloxAugmentation(
        mosaic_prob=float(mosaic), degrees=degrees, shear=shear, translate=0.2, hsv_prob=0, mosaic_view=view
    )
    preprocess = Preprocess(160, 224, mode, "nearest", pad_value=0)
    numbers = count(seed + 1)
    context = TransformContext(np.random.default_rng(seed), lambda: painted(next(numbers)), preprocess)
    made = YoloxRecipe(options)(painted(seed), context)
    # a turned tile that ends at the border of the mosaic is cut before it is turned: only its hull is known
    check(made, 0, colour, exact=not turned, labels=made.labels.tolist() if turned and mosaic else list(range(16)))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 100_000), mode=MODES)
def test_boxes_of_mixup_surround_the_colours_of_both(seed: int, mode: Any) -> None:
    still = {"degrees": 0, "shear": 0, "translate": 0.1, "hsv_prob": 0}
    options = YoloxAugmentation(enable_mixup=True, **still)
    numbers = count(seed + 1)

    def draw() -> Sample:
        number = next(numbers)
        return painted(number, channel=int(number == seed + 4))  # the fourth is the one that is blended over

    preprocess = Preprocess(160, 224, mode, "nearest", pad_value=0)
    made = YoloxRecipe(options)(painted(seed), TransformContext(np.random.default_rng(seed), draw, preprocess))
    mixed = [2 * ((seed + 4) % 8), 2 * ((seed + 4) % 8) + 1]
    others = [label for label in range(16) if label not in mixed]
    if next(numbers) == seed + 4:  # a mosaic without boxes gets no mixup
        check(made, 0, colour, exact=True, labels=others)
        return
    check(made, 0, lambda label: colour(label) / 2, exact=True, labels=others)
    check(made, 1, lambda label: colour(label) / 2, exact=True, labels=mixed)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), mode=MODES)
def test_boxes_of_expanded_cropped_and_mirrored_images_surround_their_colour(seed: int, mode: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd_recipe, "distort", lambda image, rng: image)
        preprocess = Preprocess(300, 300, mode, "nearest", pad_value=0)
        sample = painted(seed)
        made = SsdRecipe()(sample, TransformContext(np.random.default_rng(seed), lambda: sample, preprocess))
    check(made, 0, colour, exact=True, labels=made.labels.tolist())  # objects whose centre is cut off are left out


class Painted(DetectionDataset):
    class_names = tuple("abcdefghijklmnop")

    def __len__(self) -> int:
        return 8

    def annotation(self, index: int) -> Annotation:
        own = painted(index)
        return Annotation(
            index, None, own.height, own.width, own.boxes, own.labels, np.zeros(2, bool), np.ones(2, np.float32)
        )

    def read_image(self, index: int) -> np.ndarray:
        return painted(index).image


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), mode=MODES)
def test_boxes_of_cached_images_surround_their_colour(seed: int, mode: Any) -> None:
    preprocess = Preprocess(96, 128, mode, "nearest", pad_value=0)
    cache = MemoryCache(Painted(), preprocess, 1 << 30)
    numbers = count(seed + 1)
    options = YoloxAugmentation(degrees=0, shear=0, translate=0.2, hsv_prob=0, mosaic_scale=(0.7, 1.5))
    context = TransformContext(np.random.default_rng(seed), lambda: cache.sample(next(numbers) % 8), preprocess)
    check(YoloxRecipe(options)(cache.sample(seed % 8), context), 0, colour, exact=True, labels=list(range(16)))
