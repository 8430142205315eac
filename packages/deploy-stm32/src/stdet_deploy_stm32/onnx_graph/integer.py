"""The integer reference of a quantized graph: one answer, the same on every machine, by which other tools are judged.

onnxruntime and compilers sum dequantized floats in orders of their own, so that values halfway between two steps fall to
either side. Here

- the sums of Conv, Gemm and MatMul are sums of integers, bias included, exact, and checked to fit int32;
- every other operator is its formula in double precision, gates (Sigmoid, HardSigmoid, HardSwish, ...) included;
- one rounding: QuantizeLinear rounds to the nearest integer, ties to even, then adds the zero point and saturates. What it
  rounds is `sum * (scale of the sum / output scale)` for sums of integers, `value / output scale` for others, in double.

A graph of 8-bit tensors so becomes integer arithmetic: a sum times one constant a channel, or a table of 256 entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stdet.errors import ModelError
from stdet_deploy_stm32.onnx_graph.integer_operators import LAYOUT, OPERATORS, Value
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs, opset


@dataclass(frozen=True)
class Answer:
    """Attributes:
    outputs: of the graph, by name: float32, or in the type of an integer output.
    stored: what each QuantizeLinear of an activation made, by its output's name, in its type.
    """

    outputs: dict[str, np.ndarray]
    stored: dict[str, np.ndarray] = field(default_factory=dict)


class IntegerReference:
    """Runs one quantized graph, batch 1."""

    def __init__(self, model: ModelProto) -> None:
        """Raises:
        ModelError: operators that the reference doesn't know, each named.
        """
        self._model = model
        self._opset = opset(model)
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.inputs = tuple(value.name for value in graph_inputs(model))
        self.outputs = tuple(value.name for value in model.graph.output)
        self._kept = {"", *self._constants, *self.outputs}
        self._last_use = {name: i for i, node in enumerate(model.graph.node) for name in node.input}
        self._integer_outputs = {
            v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.output
        }
        known = OPERATORS.keys() | LAYOUT | {"QuantizeLinear", "DequantizeLinear", "Constant", "Shape", "Cast"}
        if unknown := [f"{node.op_type} ({node.name})" for node in model.graph.node if node.op_type not in known]:
            raise ModelError(
                f"the integer reference doesn't know {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                "export and quantize the model with stdet; its operators are known",
            )

    def run(self, feeds: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray] | None = None) -> Answer:
        """The answer to one input.

        Args:
            feeds: float32 or integer arrays in the shape of the inputs, by input.
            given: what others have for quantized activations: each layer then computes from these, and `stored` says
                what it makes of them, so that layers can be compared one by one.

        Raises:
            ModelError: a sum that doesn't fit int32.
        """
        values: dict[str, Any] = dict(self._constants)
        for name, array in feeds.items():
            values[name] = array if np.issubdtype(array.dtype, np.integer) else Value(array.astype(np.float64))
        stored: dict[str, np.ndarray] = {}
        for index, node in enumerate(self._model.graph.node):
            inputs = [values[name] if name else None for name in node.input]
            made = self._node(node, inputs)
            values.update(zip(node.output, made, strict=False))
            if node.op_type == "QuantizeLinear" and node.input[0] not in self._constants:
                name = node.output[0]
                stored[name] = values[name]
                if given and name in given:
                    values[name] = given[name]
            for name in set(node.input) - self._kept:
                if self._last_use[name] == index:
                    del values[name]
        return Answer({name: self._exported(values[name]) for name in self.outputs}, stored)

    def _exported(self, value: Any) -> np.ndarray:
        return np.asarray(value.real, np.float32) if isinstance(value, Value) else np.asarray(value)

    def _node(self, node: NodeProto, inputs: list[Any]) -> Iterable[Any]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "DequantizeLinear":
            return (_dequantize(attributes.get("axis", 1), *inputs),)
        if node.op_type == "QuantizeLinear":
            return (_quantize(*inputs),)
        if not any(isinstance(value, Value) for value in inputs):
            return self._evaluated(node, inputs)  # constants and shapes
        if node.op_type == "Shape":
            return (np.array(inputs[0].ints.shape, np.int64),)
        if node.op_type in OPERATORS:
            operands = [v if isinstance(v, Value) or v is None else _constant(v) for v in inputs]
            try:
                made = OPERATORS[node.op_type](attributes, *operands)
            except ValueError as error:
                raise ModelError(f"{node.op_type} {node.name}: {error}", "the integer reference stops here") from error
            if made is not None:
                return (made,)
        return self._moved(node, inputs)

    def _moved(self, node: NodeProto, inputs: list[Any]) -> Iterable[Any]:
        """An operator that moves values: on the integers, if all have the same step; else on what they mean."""
        moved = [value for value in inputs if isinstance(value, Value)]
        alike = all(np.ndim(v.step) == 0 and v.step == moved[0].step for v in moved)
        step = moved[0].step if alike else 1.0
        arrays = [(v.ints if alike else v.real) if isinstance(v, Value) else v for v in inputs]
        return [Value(array, step) for array in self._evaluated(node, arrays)]

    def _evaluated(self, node: NodeProto, inputs: list[Any]) -> list[np.ndarray]:
        """What ONNX's own reference makes of arrays."""
        feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in feeds.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]


def _constant(array: np.ndarray) -> Value | np.ndarray:
    """Floats are values; integers (axes, sizes) stay what they are."""
    return Value(array.astype(np.float64)) if np.issubdtype(array.dtype, np.floating) else array


def _dequantize(axis: int, numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> Value:
    step = np.asarray(scale, np.float64)
    low = np.zeros(1) if zero is None else np.asarray(zero, np.float64)
    if step.size == 1:
        return Value(numbers.astype(np.float64) - low.reshape(-1)[0], float(step.reshape(-1)[0]))
    shape = [-1 if i == axis % numbers.ndim else 1 for i in range(numbers.ndim)]
    return Value(numbers.astype(np.float64) - np.broadcast_to(low, step.shape).reshape(shape), step.reshape(shape))


def _quantize(value: Any, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    """The one rounding."""
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    info = np.iinfo(dtype)
    low = 0.0 if zero is None else float(zero.reshape(-1)[0])
    out = float(np.asarray(scale).reshape(-1)[0])
    if not isinstance(value, Value):
        value = Value(np.asarray(value, np.float64))
    steps = value.real / out if value.is_real else value.ints * (value.step / out)
    return np.clip(np.rint(steps) + low, info.min, info.max).astype(dtype)
