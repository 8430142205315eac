"""The ranges of an SSD's outputs: cut to what detections need, and no prior becomes one by it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from stdet.export.metadata import write_metadata
from stdet.interfaces.deploy import CalibrationData
from stdet.structures import DetectorSpec, Preprocess
from stdet_deploy_stm32.quantize.inspection import NO_NOISE_DB, SqnrMeter
from stdet_deploy_stm32.quantize.ranges.ssd_priors import answer_ranges, is_ssd, possible

PRIORS = 5
OBJECT, BACKGROUND = (0.0, 3.0, -2.0), (80.0, -60.0, -70.0)


def ssd() -> ModelProto:
    """Its image holds, for each prior, three logits and four offsets, which reach the outputs through other tensors."""
    nodes = [
        helper.make_node("Split", ["image", "parts"], ["l", "o"], axis=2),
        helper.make_node("Identity", ["l"], ["output"]),
        helper.make_node("Transpose", ["o"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["turned"], ["boxes"], perm=[0, 2, 1]),
    ]
    shapes = {"image": 7, "output": 3, "boxes": 4}
    image, output, boxes = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, PRIORS, k]) for n, k in shapes.items()
    )
    parts = helper.make_tensor("parts", TensorProto.INT64, [2], [3, 4])
    graph = helper.make_graph(nodes, "ssd", [image], [output, boxes], [parts])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cut(logits: np.ndarray, offsets: np.ndarray) -> dict[str, tuple[float, float]]:
    """The ranges for one image, from those that hold all its values."""
    image = np.concatenate([logits, offsets], 1)[None].astype(np.float32)
    whole = {n: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for n, v in (("l", logits), ("o", offsets))}
    ranges = {"image": (-1.0, 1.0)} | dict.fromkeys(("l", "output"), whole["l"])
    ranges |= dict.fromkeys(("o", "turned", "boxes"), whole["o"])
    return answer_ranges(ssd(), ranges, CalibrationData(lambda index: image, 1, "", "test"))


def test_values_of_sure_background_are_cut_off() -> None:
    logits = np.array([OBJECT] + [BACKGROUND] * 4, np.float32)
    offsets = np.array([[2.0, -3, 1, 0]] + [[117.0, -98, 0, 0]] * 4, np.float32)
    found = cut(logits, offsets)
    assert found["boxes"] == found["turned"] == found["o"] == (-3.0, 2.0)
    low, high = found["output"]
    assert found["l"] == (low, high)
    assert -7 < low < high < 7
    assert "image" not in found


def test_signal_and_noise_are_those_of_possible_detections() -> None:
    model = ssd()
    clipped = ssd()
    clipped.graph.node[1].input[0] = "shorter"
    clipped.graph.node.insert(1, helper.make_node("Clip", ["l", "least", "most"], ["shorter"]))
    for name, value in (("least", -10.0), ("most", 10.0)):
        clipped.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    logits = np.array([OBJECT] + [BACKGROUND] * 4, np.float32)
    image = np.concatenate([logits, np.ones((PRIORS, 4), np.float32)], 1)[None]
    data = CalibrationData(lambda index: image, 1, "", "test")
    assert not is_ssd(model)
    assert SqnrMeter(model, data, 1)(clipped)["output"] < 5
    write_metadata(model, DetectorSpec("m", "ssd", ("a", "b"), Preprocess(8, 8), "ssd", (8,), {}), {})
    assert is_ssd(model)
    assert SqnrMeter(model, data, 1)(clipped)["output"] == NO_NOISE_DB


def test_what_all_logits_of_a_prior_share_is_kept() -> None:
    logits = np.array([OBJECT] + [(50.0, 41.0, 40.0)] * 4, np.float32)
    found = cut(logits, np.ones((PRIORS, 4), np.float32))
    assert found["output"][1] == 50.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 60))
def test_a_cut_makes_no_detection_and_changes_none(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((PRIORS, 3)) * spread + rng.normal(0, spread)).astype(np.float32)
    offsets = (rng.standard_normal((PRIORS, 4)) * spread).astype(np.float32)
    found = cut(logits, offsets)
    matters = possible(logits)
    after = logits.clip(*np.float32(found["output"])), offsets.clip(*np.float32(found["boxes"]))
    assert np.array_equal(after[0][matters], logits[matters])
    assert np.array_equal(after[1][matters], offsets[matters])
    lifted = ~matters & possible(after[0])
    assert not lifted.any()
