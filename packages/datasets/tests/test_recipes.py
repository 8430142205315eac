"""Augmentation: boxes stay with the pixels they were painted on, every key does what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.data.preprocess import resize
from stdet.interfaces.transform import TransformContext
from stdet.structures import Preprocess, Sample
from stdet_datasets import ssd_recipe
from stdet_datasets.geometry import paste, random_affine, shift, warp_boxes
from stdet_datasets.options import SsdAugmentation, YoloxAugmentation
from stdet_datasets.ssd_recipe import SsdRecipe, _ious, distort, expansion, iou_crop
from stdet_datasets.yolox_recipe import YoloxRecipe, change_hsv

PREPROCESS = Preprocess(160, 160, "letterbox", pad_value=0)
PLAIN = {"hsv_prob": 0.0, "flip_prob": 0.0, "degrees": 0.0, "translate": 0.0, "shear": 0.0, "mosaic_scale": (1.0, 1.0)}


def painted(seed: int = 0, value: int = 255, size: tuple[int, int] = (120, 200)) -> Sample:
    """A black image with one filled box."""
    rng = np.random.default_rng(seed)
    y1, x1 = int(rng.integers(10, 40)), int(rng.integers(10, 60))
    y2, x2 = y1 + int(rng.integers(30, 70)), x1 + int(rng.integers(40, 120))
    image = np.zeros((*size, 3), np.uint8)
    image[y1:y2, x1:x2] = value
    return Sample(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([seed % 3]))


def context(
    seed: int = 0, draw: Callable[[], Sample] | None = None, strong: bool = True, preprocess: Preprocess = PREPROCESS
) -> TransformContext:
    empty = Sample(np.zeros((50, 50, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return TransformContext(np.random.default_rng(seed), draw or (lambda: empty), preprocess, strong)


def extent(image: np.ndarray, threshold: int = 100) -> np.ndarray | None:
    bright = image.max(2) > threshold
    if not bright.any():
        return None
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def assert_painted(sample: Sample, slack: float = 2.0) -> None:
    """The one box surrounds exactly the bright pixels."""
    seen = extent(sample.image)
    if len(sample.boxes) == 0:
        assert seen is None or (seen[2:] - seen[:2]).min() <= 3
        return
    assert seen is not None
    np.testing.assert_allclose(sample.boxes[0], seen, atol=slack)


MODES = st.sampled_from(["fit", "letterbox", "crop"])


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10_000), mosaic=st.booleans(), strong=st.booleans(), mode=MODES)
def test_boxes_follow_the_pixels_through_the_yolox_recipe(seed: int, mosaic: bool, strong: bool, mode: str) -> None:
    options = YoloxAugmentation(mosaic_prob=float(mosaic), degrees=0, shear=0, translate=0.2, hsv_prob=0)
    preprocess = Preprocess(160, 130, mode, pad_value=0)  # type: ignore[arg-type]
    made = YoloxRecipe(options)(painted(seed), context(seed, strong=strong, preprocess=preprocess))
    assert made.image.shape == (160, 130, 3)
    assert_painted(made)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_turned_box_surrounds_the_turned_pixels(seed: int) -> None:
    turn = random_affine(
        np.random.default_rng(seed), degrees=45, scale=(0.5, 1.2), shear=8, translate=0.1, size=(160, 160)
    )
    matrix = shift(80, 80) @ turn @ shift(-100, -60)
    sample = painted(seed)
    canvas = np.zeros((160, 160, 3), np.uint8)
    paste(sample, canvas, matrix)
    hull = np.clip(warp_boxes(sample.boxes, matrix)[0], 0, 160)
    seen = extent(canvas)
    if seen is None:
        assert (hull[2:] - hull[:2]).min() <= 6
        return
    # The hull of a clipped turned box may be larger than what is left of it, never smaller.
    assert np.all(seen[:2] >= hull[:2] - 2)
    assert np.all(seen[2:] <= hull[2:] + 2)
    whole = warp_boxes(sample.boxes, matrix)[0]
    if whole.min() > 1 and whole.max() < 159:
        np.testing.assert_allclose(seen, whole, atol=2.5)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["fit", "letterbox", "crop"]))
def test_boxes_follow_the_pixels_through_the_ssd_recipe(seed: int, mode: str) -> None:
    def undistorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image

    preprocess = Preprocess(160, 130, mode, pad_value=0)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd_recipe, "distort", undistorted)
        made = SsdRecipe()(painted(seed), context(seed, preprocess=preprocess))
    assert made.image.shape == (160, 130, 3)
    # a crop that is enlarged three times blurs the edge over as many pixels
    assert_painted(made, slack=4)


def test_without_randomness_the_ssd_recipe_is_the_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_recipe, "distort", lambda image, rng: image)
    monkeypatch.setattr(ssd_recipe, "CROP_MIN_IOUS", (None,))

    class Never:
        def random(self) -> float:
            return 1.0

        def integers(self, high: int) -> int:
            return 0

    sample = painted()
    for mode in ("fit", "letterbox", "crop"):
        preprocess = Preprocess(100, 130, mode, pad_value=9)  # type: ignore[arg-type]
        made = SsdRecipe()(sample, TransformContext(Never(), lambda: sample, preprocess))  # type: ignore[arg-type]
        expected, geometry = resize(sample.image, preprocess)
        assert np.array_equal(made.image, expected)
        np.testing.assert_allclose(made.boxes, np.clip(geometry.to_input(sample.boxes), 0, [130, 100] * 2), atol=0.7)


def test_expansion_keeps_the_image_on_its_canvas() -> None:
    rng = np.random.default_rng(0)
    seen = [expansion((50, 80), rng) for _ in range(200)]
    for (height, width), (x, y) in seen:
        assert 0 <= x <= width - 80
        assert 0 <= y <= height - 50
        assert height <= 200
    assert max(height for (height, _), _ in seen) > 180


@pytest.mark.parametrize(("probability", "least", "most"), [(None, 8, 22), (0.0, 0, 0), (1.0, 26, 30)])
def test_the_colours_of_fill_are_not_distorted(probability: float | None, least: int, most: int) -> None:
    preprocess = Preprocess(160, 160, pad_value=114)
    sample = Sample(np.full((60, 60, 3), 30, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    recipe = SsdRecipe(None if probability is None else SsdAugmentation(expand_prob=probability))
    corners = [recipe(sample, context(seed, preprocess=preprocess)).image[::159, ::159] for seed in range(30)]
    filled = sum((c == 114).all(2).any() for c in corners)
    assert least <= filled <= most  # by default half are expanded, and hardly one of those reaches all four corners


def filled(value: int) -> Sample:
    """A square image of one grey, with a box around all of it."""
    return Sample(
        np.full((160, 160, 3), value, np.uint8), np.array([[0, 0, 160, 160]], np.float32), np.zeros(1, np.int64)
    )


def test_a_mosaic_joins_four_images_that_meet_between_a_quarter_and_three_quarters() -> None:
    recipe = YoloxRecipe(YoloxAugmentation(**PLAIN | {"mosaic_scale": (0.5, 0.5)}))  # the whole of its canvas in view
    meets = []
    for seed in range(40):
        values = iter([80, 120, 200])
        made = recipe(filled(255), context(seed, lambda values=values: filled(next(values))))  # type: ignore[misc]
        assert len(made.labels) == 4
        for value, box in zip((255, 80, 120, 200), made.boxes, strict=True):
            exact = np.array([np.flatnonzero((made.image[..., 0] == value).any(axis))[[0, -1]] for axis in (0, 1)])
            np.testing.assert_allclose(box, [exact[0, 0], exact[1, 0], exact[0, 1] + 1, exact[1, 1] + 1], atol=1.5)
        meets.append(made.boxes[0, 2:])
    assert 40 <= np.min(meets) < 50
    assert 110 < np.max(meets) <= 120


def test_at_full_scale_a_mosaic_shows_its_middle_or_like_the_reference_its_top_left() -> None:
    def made(view: str, scale: float, seed: int) -> Sample:
        options = PLAIN | {"mosaic_scale": (scale, scale), "mosaic_view": view}
        return YoloxRecipe(YoloxAugmentation(**options))(filled(255), context(seed, lambda: filled(90)))  # type: ignore[arg-type]

    for seed in range(20):
        whole = made("centre", 0.5, seed)
        assert np.array_equal(whole.boxes, made("corner", 0.5, seed).boxes)
        for view, offset in (("centre", 80), ("corner", 0)):
            shown = whole.boxes * 2 - offset
            sides = np.clip(shown, 0, 160)[:, 2:] - np.clip(shown, 0, 160)[:, :2]
            np.testing.assert_allclose(made(view, 1.0, seed).boxes, np.clip(shown, 0, 160)[sides.min(1) > 1], atol=0.01)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("key", ["mosaic_prob", "flip_prob", "hsv_prob", "mixup_prob"])
def test_probabilities_are_kept(key: str, probability: float) -> None:
    options = PLAIN | {
        "mosaic_prob": 1.0 if key == "mixup_prob" else 0.0,
        "enable_mixup": key == "mixup_prob",
        key: probability,
    }
    recipe = YoloxRecipe(YoloxAugmentation(**options))
    base = YoloxRecipe(YoloxAugmentation(**options | {key: 0.0}))
    sample = Sample(
        np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (120, 1, 3)) // 2 + 60, painted().boxes, painted().labels
    )
    draws = []

    def partner() -> Sample:
        draws.append(1)
        return painted(2)

    changed = 0
    for seed in range(60):
        draws.clear()
        made = recipe(sample, context(seed, partner))
        if key == "mosaic_prob":
            changed += len(draws) == 3
        elif key == "mixup_prob":
            changed += len(draws) == 4
        else:
            changed += not np.array_equal(made.image, base(sample, context(seed, partner)).image)
    # hue, saturation and value are each left alone half of the time, so one in eight changes nothing; grey hides hue
    expected = probability * (0.45 if key == "hsv_prob" else 1.0)
    assert abs(changed / 60 - expected) <= 0.25 if 0 < probability < 1 else changed == 0 or probability == 1.0
    assert changed > 15 or probability < 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("degrees", 30.0), ("shear", 15.0), ("translate", 0.3), ("mosaic_scale", (0.3, 0.4))],
)
def test_each_geometric_key_changes_the_picture(key: str, value: object) -> None:
    options = PLAIN | {"mosaic_prob": 1.0}
    plain = YoloxRecipe(YoloxAugmentation(**options))(painted(), context(5))
    changed = YoloxRecipe(YoloxAugmentation(**options | {key: value}))(painted(), context(5))
    assert not np.array_equal(plain.image, changed.image)


@pytest.mark.parametrize("mode", ["fit", "letterbox", "crop"])
def test_a_single_image_without_turning_is_where_the_preprocessing_puts_it(mode: str) -> None:
    preprocess = Preprocess(160, 130, mode, pad_value=7)  # type: ignore[arg-type]
    sample = painted()
    made = YoloxRecipe(YoloxAugmentation(**PLAIN | {"mosaic_prob": 0.0}))(sample, context(preprocess=preprocess))
    expected, geometry = resize(sample.image, preprocess)
    np.testing.assert_allclose(made.boxes, np.clip(geometry.to_input(sample.boxes), 0, [130, 160] * 2), atol=1)
    assert np.abs(made.image.astype(int) - expected).mean() < 3


def test_mixup_looks_for_a_partner_with_boxes_and_keeps_all_boxes() -> None:
    empty = Sample(np.zeros((50, 50, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    tiles = [painted(1)] * 3
    options = PLAIN | {"enable_mixup": True, "mixup_scale": (1.0, 1.0)}
    recipe = YoloxRecipe(YoloxAugmentation(**options))
    mosaic = YoloxRecipe(YoloxAugmentation(**options | {"enable_mixup": False}))(
        painted(), context(1, iter(tiles).__next__)
    )
    made = recipe(painted(), context(1, iter([*tiles, empty, empty, painted(2, value=90)]).__next__))
    assert made.labels.tolist() == [*mosaic.labels.tolist(), 2]
    blend = made.image.astype(int) - mosaic.image.astype(int) / 2
    assert set(np.rint(np.unique(blend))) >= {0.0, 45.0}
    assert abs(blend).max() <= 46
    # When no image of the set has boxes, the mosaic stays as it is.
    alone = recipe(painted(), context(1, iter([*tiles, *[empty] * 50]).__next__))
    assert np.array_equal(alone.image, mosaic.image)


def test_closing_the_strong_augmentation_leaves_one_whole_image() -> None:
    drawn = []
    recipe = YoloxRecipe(YoloxAugmentation(enable_mixup=True, hsv_prob=0, flip_prob=0))
    made = recipe(painted(), context(1, lambda: drawn.append(1) or painted(1), strong=False))  # type: ignore[func-returns-value]
    assert not drawn
    np.testing.assert_allclose(made.boxes, painted().boxes * 0.8, atol=1e-3)


def test_tiles_out_of_view_are_never_decoded() -> None:
    decoded = []

    def partner() -> Sample:
        def read() -> np.ndarray:
            decoded.append(1)
            return np.zeros((100, 100, 3), np.uint8)

        return Sample(read, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (100, 100))

    recipe = YoloxRecipe(YoloxAugmentation(mosaic_scale=(2.0, 2.5), translate=0.4))
    for seed in range(40):
        recipe(painted(), context(seed, partner))
    assert 0 < len(decoded) < 40 * 3 * 0.8
    decoded.clear()
    canvas = np.zeros((160, 160, 3), np.uint8)
    assert not paste(partner(), canvas, shift(160, 0))
    assert not paste(partner(), canvas, shift(0, -100))
    assert not decoded
    assert paste(partner(), canvas, shift(159, 159))
    assert decoded


def test_the_same_generator_makes_the_same_sample_and_another_one_another() -> None:
    recipe = YoloxRecipe(YoloxAugmentation(enable_mixup=True))
    one, same, other = (recipe(painted(), context(seed, lambda: painted(3))) for seed in (1, 1, 2))
    assert np.array_equal(one.image, same.image)
    assert not np.array_equal(one.image, other.image)


def test_the_argument_is_not_modified() -> None:
    for recipe in (YoloxRecipe(), SsdRecipe()):
        sample = painted()
        image, boxes = sample.image.copy(), sample.boxes.copy()
        for seed in range(5):
            recipe(sample, context(seed, lambda: painted(1)))
        assert np.array_equal(sample.image, image)
        assert np.array_equal(sample.boxes, boxes)


def test_images_without_boxes_are_fine() -> None:
    empty = Sample(painted().image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for recipe in (YoloxRecipe(YoloxAugmentation(enable_mixup=True)), SsdRecipe()):
        for seed in range(8):
            made = recipe(empty, context(seed))
            assert made.boxes.shape == (0, 4)
            assert made.image.shape == (160, 160, 3)


def test_shrinking_a_lot_does_not_alias() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    canvas = np.zeros((80, 80, 3), np.uint8)
    paste(Sample(stripes, painted().boxes[:0], painted().labels[:0]), canvas, np.diag([0.2, 0.2, 1.0]))
    assert abs(float(canvas[10:70, 10:70].mean()) - 127.5) < 4
    naive = stripes[2::5, 2::5]
    assert canvas[10:70, 10:70].std() < naive.std() / 4


def test_hsv_moves_hue_around_the_circle_and_clips_the_rest() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 250  # red: hue 0, which a negative change wraps to the other end
    outcomes = {tuple(change_hsv(image, np.random.default_rng(seed))[0, 0]) for seed in range(40)}
    assert len(outcomes) > 10
    assert all(r > 180 for r, _, _ in outcomes)


def test_padding_beside_a_plain_image_keeps_its_value() -> None:
    preprocess = Preprocess(160, 160, "letterbox", pad_value=114)
    sample = Sample(np.full((80, 160, 3), (200, 40, 90), np.uint8), painted().boxes[:0], painted().labels[:0])
    made = [YoloxRecipe()(sample, context(seed, strong=False, preprocess=preprocess)).image for seed in range(10)]
    assert all((image[80:] == 114).all() for image in made)
    assert len({image[:80].tobytes() for image in made}) > 5


def test_the_iou_crop_enforces_what_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdet_datasets.ssd_recipe.CROP_MIN_IOUS", (0.5,))
    box = np.array([20, 20, 120, 90], np.float32)
    cut = 0
    for seed in range(30):
        crop, kept = iou_crop((120, 160), box[None], np.random.default_rng(seed))
        assert kept.tolist() == [True]
        x, y = np.minimum(crop[2:], box[2:]) - np.maximum(crop[:2], box[:2])
        assert x * y / (np.prod(crop[2:] - crop[:2]) + 100 * 70 - x * y) >= 0.5
        cut += crop.tolist() != [0, 0, 160, 120]
    assert cut == 30
    assert _ious(np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0]]))[0, 0] == pytest.approx(1 / 3)


def test_the_photometric_part_stays_in_range_and_changes_colours() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    outs = [distort(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(o.dtype == np.uint8 for o in outs)
    assert sum(not np.array_equal(o, image) for o in outs) > 15


@pytest.mark.parametrize(
    "bad", [{"mosaic_prob": 1.5}, {"mosaic_scale": (2, 1)}, {"random_size": (0, 3)}, {"degrees": -1}, {"shear": 90}]
)
def test_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        YoloxAugmentation(**bad)
