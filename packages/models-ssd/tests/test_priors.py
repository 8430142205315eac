"""Priors against the reference's check rows, and the box coding against itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdet_models_ssd.family import SSD
from stdet_models_ssd.mobilenet_v2 import build_ssdlite
from stdet_models_ssd.priors import corners, decode, encode, make_priors, priors_in_pixels

STRIDES = SSD.strides


def test_the_table_at_300_has_the_reference_sum_and_rows() -> None:
    priors = make_priors(300, 300, STRIDES)
    assert priors.shape == (3000, 4)
    assert priors.dtype == np.float32
    assert priors.astype(np.float64).sum() == pytest.approx(4802.778, abs=5e-4)
    for row, wanted in {
        0: (0.026667, 0.026667, 0.2, 0.2),
        1: (0.026667, 0.026667, 0.264575, 0.264575),
        4: (0.026667, 0.026667, 0.346410, 0.115470),
        6: (0.08, 0.026667, 0.2, 0.2),
        2166: (0.053333, 0.053333, 0.35, 0.35),
        2765: (1.0, 1.0, 0.202073, 0.606218),
        2916: (0.166667, 0.166667, 0.65, 0.65),
        2995: (0.5, 0.5, 1.0, 1.0),
        2999: (0.5, 0.5, 0.548483, 1.0),
    }.items():
        assert priors[row] == pytest.approx(wanted, abs=1e-6), row


@pytest.mark.parametrize(
    ("side", "rows"),
    [
        (192, 1170),
        (224, 1602),
        (256, 2052),
        (288, 2664),
        (289, 3000),
        (304, 3000),
        (305, 3234),
        (416, 5490),
        (512, 8190),
    ],
)
def test_the_number_of_rows_follows_the_feature_maps(side: int, rows: int) -> None:
    assert len(make_priors(side, side, STRIDES)) == rows


@given(st.integers(96, 700), st.integers(96, 700))
def test_priors_of_any_size_cover_it_and_are_never_empty(height: int, width: int) -> None:
    priors = make_priors(height, width, STRIDES)
    assert len(priors) == 6 * sum(math.ceil(height / s) * math.ceil(width / s) for s in STRIDES)
    assert priors.min() > 0
    assert priors.max() <= 1
    boxes = corners(torch.from_numpy(priors))
    assert float(boxes[:, :2].min()) <= 0
    assert float(boxes[:, 2:].amin(0).max()) <= 0.2 + 1e-6
    assert float(boxes[:, 2:].amax(0).min()) >= 1


def test_a_non_square_input_stretches_the_sizes_and_keeps_the_strides_in_pixels() -> None:
    priors = priors_in_pixels(160, 320, STRIDES, torch.device("cpu"))
    assert priors[0].tolist() == pytest.approx([8, 8, 64, 32])
    assert priors[6].tolist() == pytest.approx([24, 8, 64, 32])
    assert priors[20 * 6].tolist() == pytest.approx([8, 24, 64, 32])


box = st.tuples(*[st.floats(-50, 350)] * 2, *[st.floats(0.5, 300)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@given(box, st.integers(0, 2999))
def test_decoding_undoes_encoding(wanted: list[float], row: int) -> None:
    prior = priors_in_pixels(300, 300, STRIDES, torch.device("cpu"))[row].double()
    boxes = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(decode(encode(boxes, prior), prior), boxes, rtol=1e-6, atol=1e-4)


def test_encoding_has_the_published_variances() -> None:
    prior = torch.tensor([50.0, 60, 20, 40])
    assert encode(corners(prior), prior).tolist() == [0, 0, 0, 0]
    moved = torch.tensor([42.0, 44, 62, 84])  # 2 px right, 4 px down
    assert encode(moved, prior).tolist() == pytest.approx([1.0, 1.0, 0, 0], abs=1e-5)
    doubled = torch.tensor([30.0, 20, 70, 100])
    assert encode(doubled, prior).tolist() == pytest.approx([0, 0, math.log(2) / 0.2, math.log(2) / 0.2], abs=1e-5)


def test_a_box_without_extent_encodes_to_finite_numbers() -> None:
    assert torch.isfinite(encode(torch.zeros(4), torch.tensor([50.0, 60, 20, 40]))).all()


def test_what_firmware_is_told_of_the_coding_decodes_as_the_model_does() -> None:
    """The formula of the paper with `box_coding`'s numbers, against `decode`, on a size that isn't square."""
    preprocess = SSD.preprocess.with_size(128, 192)
    model = build_ssdlite(SSD.spec("ssdlite_mobilenetv2_pt", ("a", "b"), preprocess))
    coding = model.box_coding()
    assert coding.name == "ssd"
    assert coding.output_names == ("output", "boxes")
    assert coding.priors is not None
    assert coding.center_variance is not None
    assert coding.size_variance is not None
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 1, (1, len(coding.priors), 4)).astype(np.float32)
    priors = coding.priors * np.array([192, 128, 192, 128])
    centre = offsets[0, :, :2] * coding.center_variance * priors[:, 2:] + priors[:, :2]
    size = np.exp(offsets[0, :, 2:] * coding.size_variance) * priors[:, 2:]
    logits = torch.zeros(1, len(priors), 3)
    found = model.decode((logits, torch.from_numpy(offsets))).boxes[0].numpy()
    np.testing.assert_allclose(found, np.concatenate([centre - size / 2, centre + size / 2], 1), rtol=1e-4, atol=1e-3)
