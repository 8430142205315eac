"""The end of the graph where unlike tensors are joined only to leave it together."""

from __future__ import annotations

from onnx import ModelProto

from stdet_deploy_stm32.onnx_graph.surgery import producers

LAYOUT = frozenset({"Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that only move values."""
UNLIKE = 2.0
"""Tensors whose spans differ by more than this factor lose a bit or more of the narrower one under one scale."""


def moved_to(model: ModelProto, output: str) -> list[str]:
    """`output` and the tensors whose values reach it unchanged, its first part's first."""
    made = producers(model)
    found, waiting = [], [output]
    while waiting:
        name = waiting.pop()
        found.append(name)
        node = made.get(name)
        if node is not None and node.op_type in LAYOUT:
            waiting += reversed(node.input if node.op_type == "Concat" else node.input[:1])
    return found


def unlike_joins(model: ModelProto, ranges: dict[str, tuple[float, float]]) -> tuple[str, ...]:
    """Names of the nodes at the outputs that would force one scale on unlike tensors, in graph order.

    A YOLOX-style head joins raw box values (span about 10) and scores (span 1) in its last Concat: one int8 scale leaves
    the scores five bits. Left in float, these nodes only copy, outside the NPU's part of the graph, and every tensor
    keeps a scale of its own.

    Args:
        ranges: (low, high) by tensor.
    """
    made = producers(model)
    found: set[str] = set()

    def walk(name: str, after: tuple[str, ...]) -> None:
        node = made.get(name)
        if node is None or node.op_type not in LAYOUT:
            return
        path = (*after, node.name)
        if node.op_type == "Concat":
            spans = [high - low for low, high in (ranges[i] for i in node.input if i in ranges)]
            if spans and max(spans) > UNLIKE * min(spans):
                found.update(path)
        for source in node.input if node.op_type == "Concat" else node.input[:1]:
            walk(source, path)

    for output in model.graph.output:
        walk(output.name, ())
    return tuple(node.name for node in model.graph.node if node.name in found)
