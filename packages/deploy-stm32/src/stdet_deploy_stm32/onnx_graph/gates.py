"""SiLU and HardSwish in a graph: a tensor times its own gate."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from stdet_deploy_stm32.onnx_graph.surgery import consumers


def activation(name: str, uses: dict[str, list[NodeProto]]) -> tuple[NodeProto | None, tuple[str, ...]]:
    """The gate behind tensor `name` and the tensors up to the activation's result; `name` alone when it has none."""
    readers = uses.get(name, [])
    types = sorted(r.op_type for r in readers)
    if types == ["Relu"]:
        return None, (name, readers[0].output[0])
    if types == ["HardSwish"]:
        return readers[0], (name, readers[0].output[0])
    if types in (["Mul", "Sigmoid"], ["HardSigmoid", "Mul"]):
        gate, product = sorted(readers, key=lambda r: r.op_type == "Mul")
        if sorted(product.input) == sorted([name, gate.output[0]]) and len(uses[gate.output[0]]) == 1:
            return gate, (name, product.output[0])
    return None, (name,)


def floors(model: ModelProto) -> dict[str, float]:
    """Inputs of SiLU and HardSwish, and the value below which the result is 0 or next to it: -8 and -3."""
    uses = consumers(model)
    found = {}
    for node in model.graph.node:
        for name in node.output:
            gate, _ = activation(name, uses)
            if gate is not None:
                found[name] = -8.0 if gate.op_type == "Sigmoid" else -3.0
    return found
