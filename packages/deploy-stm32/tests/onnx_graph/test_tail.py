"""Joins of unlike tensors at the outputs stay in float, and only those."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from onnx import ModelProto, TensorProto, helper

from stdet_deploy_stm32.onnx_graph.tail import unlike_joins

RANGES = {"boxes": (-10.0, 10.0), "scores": (0.0, 1.0), "more": (0.0, 1.2)}


def tail(*nodes: tuple[str, Sequence[str], str]) -> ModelProto:
    """Nodes of (operator, inputs, output), named for their output; `y` leaves the graph."""
    made = [helper.make_node(kind, inputs, [output], name=output) for kind, inputs, output in nodes]
    return helper.make_model(
        helper.make_graph(made, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (tail(("Concat", ["boxes", "scores"], "y")), ("y",)),
        (tail(("Concat", ["scores", "more"], "y")), ()),
        (
            tail(("Concat", ["boxes", "scores"], "c"), ("Reshape", ["c"], "r"), ("Transpose", ["r"], "y")),
            ("c", "r", "y"),
        ),
        (tail(("Concat", ["scores", "more"], "inner"), ("Concat", ["boxes", "inner"], "y")), ()),
        (tail(("Concat", ["boxes", "scores"], "c"), ("Conv", ["c"], "y")), ()),
    ],
    ids=["unlike", "alike", "with what follows", "range of the inner join unknown", "not at the output"],
)
def test_only_unlike_joins_at_the_outputs_are_found(model: ModelProto, expected: tuple[str, ...]) -> None:
    assert unlike_joins(model, RANGES) == expected


def test_an_inner_join_of_alike_tensors_stays_quantized() -> None:
    model = tail(("Concat", ["scores", "more"], "inner"), ("Concat", ["boxes", "inner"], "y"))
    assert unlike_joins(model, RANGES | {"inner": (0.0, 1.2)}) == ("y",)
