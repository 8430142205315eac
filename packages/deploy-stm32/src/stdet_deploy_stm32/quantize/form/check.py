"""The checker of the QDQ form that ST's compiler takes.

Static shapes and batch 1; int8 activations with one scale a tensor; weights stored as int8 behind one DequantizeLinear,
symmetric and per output channel; int32 biases with the scale input x weight; Q/DQ of the standard domain and nothing from
another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from stdet_deploy_stm32.onnx_graph.surgery import consumers, graph_inputs, initializers, producers
from stdet_deploy_stm32.onnx_graph.view import FUSED, QDQ, VIEWS, dynamic_dimensions

CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
"""Axis of the weight that gets one scale a channel; Gemm and MatMul depend on their transposition."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply with weights."""
_FREE = QDQ | VIEWS | FUSED | {"Constant"}


@dataclass(frozen=True)
class Finding:
    """A place where a graph leaves the form.

    Attributes:
        rule: short name of what is broken.
        where: node, tensor or domain.
        message: what was found.
        level: `error` breaks the form; `advice` is legal but runs in float on the CPU.
    """

    rule: str
    where: str
    message: str
    level: Literal["error", "advice"] = "error"


def check_form(model: ModelProto) -> list[Finding]:
    """All places where `model` leaves the form, empty when there is none."""
    return _Checker(model).findings()


def channel_axis(node: NodeProto) -> int:
    """Axis of the output channels in the weight of a Conv, ConvTranspose, Gemm or MatMul node."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return CHANNEL_AXIS.get(node.op_type, -1)


class _Checker:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.constants: Mapping[str, TensorProto] = initializers(model)
        self.writers = producers(model)
        self.readers = consumers(model)
        self.outputs = {value.name for value in model.graph.output}
        self.inputs = {value.name for value in graph_inputs(model)}

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: numpy_helper.to_array(tensor) for name, tensor in self.constants.items()}

    def findings(self) -> list[Finding]:
        found = [*self.check_domains(), *self.check_shapes()]
        for node in self.model.graph.node:
            if node.op_type in QDQ:
                found += self.check_activation_type(node)
            elif node.op_type in WEIGHTED and self.has_weight(node):
                found += [*self.check_weight(node), *self.check_bias(node), *self.check_float(node)]
            elif node.op_type not in _FREE:
                found += self.check_float(node)
        return found

    def check_domains(self) -> list[Finding]:
        found = [
            Finding("domain", entry.domain, f"operator set `{entry.domain}` is imported")
            for entry in self.model.opset_import
            if entry.domain not in ("", "ai.onnx")
        ]
        return found + [
            Finding("domain", node.name, f"{node.op_type} belongs to `{node.domain}`")
            for node in self.model.graph.node
            if node.domain not in ("", "ai.onnx")
        ]

    def check_shapes(self) -> list[Finding]:
        found = [Finding("shape", text.split("[")[0], f"dynamic: {text}") for text in dynamic_dimensions(self.model)]
        for value in graph_inputs(self.model):
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].HasField("dim_value") and dims[0].dim_value != 1:
                found.append(Finding("shape", value.name, f"batch size {dims[0].dim_value}"))
        return found

    def check_activation_type(self, node: NodeProto) -> list[Finding]:
        """int8 inside, one scale a tensor; a uint8 input or output of the model is converted by its own Q or DQ."""
        if node.input[0] in self.constants:  # a stored constant; weights are judged with their operator
            return []
        if len(node.input) < 3 or node.input[2] not in self.constants:
            return [Finding("zero-point", node.name, "has no constant zero point")]
        if self.arrays[node.input[2]].size > 1:
            return [Finding("activation-per-channel", node.name, "has a scale for each channel of an activation")]
        kind = self.arrays[node.input[2]].dtype
        dequantizes = node.op_type == "DequantizeLinear"
        border = node.input[0] in self.inputs if dequantizes else node.output[0] in self.outputs
        if kind == np.int8 or (kind == np.uint8 and border and not self.feeds_operator(node)):
            return []
        return [Finding("activation-type", node.name, f"quantizes to {kind}, not int8")]

    def feeds_operator(self, node: NodeProto) -> bool:
        """Whether a DQ's value is used by anything but the Q that makes it int8."""
        return node.op_type == "DequantizeLinear" and any(
            reader.op_type != "QuantizeLinear" for reader in self.readers.get(node.output[0], [])
        )

    def has_weight(self, node: NodeProto) -> bool:
        """Whether the second operand is constant, behind whatever Q and DQ."""
        name = node.input[1]
        while name in self.writers and self.writers[name].op_type in QDQ:
            name = self.writers[name].input[0]
        return name in self.constants

    def check_weight(self, node: NodeProto) -> list[Finding]:
        dq = self.writers.get(node.input[1])
        if dq is None or dq.op_type != "DequantizeLinear" or dq.input[0] not in self.constants:
            return [Finding("weight-float", node.name, "weight isn't stored as int8 behind a DequantizeLinear")]
        found = []
        stored = self.arrays[dq.input[0]]
        if stored.dtype != np.int8:
            found.append(Finding("weight-type", node.name, f"weight is stored as {stored.dtype}, not int8"))
        if len(dq.input) > 2 and np.any(self.arrays[dq.input[2]]):
            found.append(Finding("weight-asymmetric", node.name, "weight has zero points that aren't 0"))
        axis = next((a.i for a in dq.attribute if a.name == "axis"), 1)
        scales = self.arrays[dq.input[1]]
        wanted = channel_axis(node)
        if scales.ndim == 0 or axis % stored.ndim != wanted % stored.ndim:
            found.append(
                Finding("weight-per-tensor", node.name, f"weight has no scale for each channel (axis {wanted})")
            )
        return found

    def check_bias(self, node: NodeProto) -> list[Finding]:
        if node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2]:
            return []
        dq = self.writers.get(node.input[2])
        if dq is None or dq.op_type != "DequantizeLinear" or dq.input[0] not in self.constants:
            return [Finding("bias", node.name, "bias isn't int32 behind a DequantizeLinear")]
        kind = self.arrays[dq.input[0]].dtype
        if kind != np.int32:
            return [Finding("bias", node.name, f"bias is stored as {kind}, not int32")]
        sources = [self.writers.get(name) for name in node.input[:2]]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            return []  # reported with the input or the weight
        scales = [self.arrays[source.input[1]] for source in sources if source is not None]
        product = scales[0] * scales[1]
        if not np.allclose(self.arrays[dq.input[1]], product, rtol=1e-4, atol=0):
            return [Finding("bias", node.name, "bias scale isn't input scale x weight scale")]
        return []

    def check_float(self, node: NodeProto) -> list[Finding]:
        """Operators that compute on float tensors run on the CPU."""
        floats = [n for n in node.input if n and not self.is_dequantized(n)]
        loose = [n for n in node.output if n and not self.gets_quantized(n)]
        if not floats and not loose:
            return []
        side = f"reads float `{floats[0]}`" if floats else f"leaves `{loose[0]}` in float"
        return [Finding("float", node.name, f"{node.op_type} {side}", "advice")]

    def is_dequantized(self, name: str) -> bool:
        """Also true for integer constants, such as axes and sizes, and for activations and views of such values."""
        if name in self.constants:
            return self.constants[name].data_type != TensorProto.FLOAT or name in self.setting_constants
        writer = self.writers.get(name)
        if writer is None:
            return False
        return writer.op_type == "DequantizeLinear" or (
            writer.op_type in VIEWS | FUSED and self.is_dequantized(writer.input[0])
        )

    @cached_property
    def setting_constants(self) -> set[str]:
        """Float constants that are settings, not operands: the scales of a Resize, the limits of a Clip."""
        return {n for node in self.model.graph.node if node.op_type in ("Resize", "Clip") for n in node.input[1:]}

    def gets_quantized(self, name: str) -> bool:
        readers = self.readers.get(name, [])
        if not readers or name in self.outputs:
            return False
        return all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in VIEWS | FUSED and self.gets_quantized(reader.output[0]))
            for reader in readers
        )
