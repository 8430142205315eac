"""Shared values: they survive JSON, refuse nonsense, and import no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdet.structures import (
    COLOR_CHANNELS,
    ColorMode,
    Detections,
    DetectorSpec,
    Interpolation,
    Preprocess,
    ResizeMode,
    Sample,
    Thresholds,
)

number = st.floats(-1e3, 1e3, allow_nan=False)


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    color = draw(st.sampled_from(get_args(ColorMode)))
    per_channel = st.tuples(*[number] * COLOR_CHANNELS[color])
    return Preprocess(
        draw(st.integers(1, 2000)),
        draw(st.integers(1, 2000)),
        draw(st.sampled_from(get_args(ResizeMode))),
        draw(st.sampled_from(get_args(Interpolation))),
        draw(st.integers(0, 255)),
        color,
        draw(number),
        draw(number),
        draw(per_channel),
        draw(per_channel),
    )


@given(preprocesses(), st.lists(st.text(min_size=1), max_size=4), st.dictionaries(st.text(), number, max_size=3))
def test_a_spec_survives_json(preprocess: Preprocess, names: list[str], options: dict[str, float]) -> None:
    spec = DetectorSpec("model", "family", tuple(names), preprocess, "coding", (8, 16), dict(options))
    back = DetectorSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert isinstance(back.class_names, tuple)
    assert back.num_classes == len(names)


@pytest.mark.parametrize("wrong", [{"resize_mode": "stretch"}, {"interpolation": "magic"}, {"color_mode": "cmyk"}])
def test_a_word_that_is_not_in_the_list_is_refused_with_the_list(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        Preprocess(8, 8, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"mean": (0.0,)}, {"std": (1.0, 1.0)}, {"color_mode": "grayscale"}])
def test_mean_and_std_need_a_value_for_each_channel(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mean and std need"):
        Preprocess(8, 8, **wrong)  # type: ignore[arg-type]


def test_another_size_changes_nothing_else() -> None:
    one = Preprocess(8, 16, "letterbox", pad_value=3)
    assert one.size == (8, 16)
    assert one.with_size(32, 64) == Preprocess(32, 64, "letterbox", pad_value=3)


def test_a_sample_reads_its_image_once_and_only_when_asked() -> None:
    reads: list[int] = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.zeros((3, 5, 3), np.uint8)

    sample = Sample(read, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (3, 5))
    assert (sample.height, sample.width, reads) == (3, 5, [])
    assert sample.image is sample.image
    assert reads == [1]
    with pytest.raises(ValueError, match="needs its size"):
        Sample(read, sample.boxes, sample.labels)
    known = Sample(sample.image, sample.boxes, sample.labels)
    assert (known.height, known.width) == (3, 5)


def test_detections_count_their_scores() -> None:
    assert len(Detections(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64))) == 2


def test_thresholds_are_spelt_one_way_and_read_in_the_ways_of_older_reports() -> None:
    one = Thresholds(0.1, 0.6, 7)
    assert one.to_dict() == {"confidence": 0.1, "nms_iou": 0.6, "max_detections": 7}
    for spelling in (("confidence", "nms_iou"), ("confidence", "nms"), ("confidence_thresh", "nms_thresh")):
        assert Thresholds.from_dict(dict(zip((*spelling, "max_detections"), (0.1, 0.6, 7), strict=True))) == one
    with pytest.raises(TypeError, match="nms_iou"):
        Thresholds.from_dict({"confidence": 0.1})


def test_the_shared_values_import_no_torch() -> None:
    code = "import sys, stdet.structures, stdet.artifacts, stdet.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
