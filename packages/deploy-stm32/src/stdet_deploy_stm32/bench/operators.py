"""Where Neural-ART runs each operator: on the NPU, on the CPU, or it depends; why, and what to change in the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stdet_deploy_stm32.bench.kernels import CONVOLUTIONS, DENSE, GATE, Kernel
from stdet_deploy_stm32.onnx_graph.view import Graph

Processor = Literal["NPU", "CPU", "depends"]

OPERATORS_PAGE = "https://stedgeai-dc.st.com/assets/embedded-docs/stneuralart_operator_support.html"
"""ST Neural-ART NPU: supported operators and limitations (ST Edge AI Core 3.0.0, r1.2)."""
PUBLISHED_ROWS = "docs/boards.md, from published latencies of ST Edge AI Core 4.0.0"

LANES = 8
"""Channels that move together between NPU and memory."""
SMALL = 4096
"""Elements; what the CPU does to fewer isn't seen in the latency of a network."""

_HARDWARE = {
    "Conv", "ConvTranspose", "Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", GATE,
    "Add", "Sub", "Mul", "Min", "Max", "Abs", "Ceil", "Concat", "Pad", "Split", "Slice", "SpaceToDepth", "AveragePool",
    "MaxPool", "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Where a kernel runs.

    Attributes:
        processor: as far as ST's documentation and published figures tell.
        reason: why; empty for what the NPU simply does.
        advice: what to change in the model.
        source: where that can be looked up.
        timed: whether the latency formula holds for it.
    """

    processor: Processor
    reason: str = ""
    advice: str = ""
    source: str = OPERATORS_PAGE
    timed: bool = True


@dataclass(frozen=True)
class Rule:
    """The `verdict` on every kernel that it `applies` to."""

    applies: Callable[[Graph, Kernel, frozenset[str]], bool]
    verdict: Verdict


def is_layout_only(graph: Graph, kernel: Kernel) -> bool:
    """Whether a Transpose only moves the channels to the end, where the NPU's memory has them anyway."""
    if kernel.op_type != "Transpose":
        return False
    order = list(kernel.attributes.get("perm", []))
    return len(order) > 2 and order == [0, *range(2, len(order)), 1]


def _channels(graph: Graph, name: str) -> int:
    shape = graph.shapes[name]
    return shape[1] if len(shape) > 1 else shape[0]


def _odd_cut(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    """A Slice or Split along the channels of a map, at a count that isn't a multiple of 8."""
    source = graph.shapes[kernel.inputs[0]]
    return (
        kernel.op_type in ("Slice", "Split")
        and len(source) > 3
        and any(_channels(graph, name) % LANES for name in (*kernel.inputs, *kernel.outputs))
        and any(math.prod(graph.shapes[name][2:]) > 1 for name in kernel.outputs)
    )


def _odd_join(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    """A Concat along the channels, of counts that aren't multiples of 8."""
    along_channels = kernel.op_type == "Concat" and kernel.attributes.get("axis", 1) in (1, -3)
    maps = len(graph.shapes[kernel.outputs[0]]) == 4
    odd = any(_channels(graph, name) % LANES for name in kernel.inputs)
    return along_channels and maps and odd and graph.elements(kernel.outputs[0]) > SMALL


def _copying_join(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    """Such a Concat of parts that others read too, so that they can't be written where they belong in the first place."""
    uneven = any(_channels(graph, name) % (LANES // 2) for name in kernel.inputs)
    return _odd_join(graph, kernel, shared) and uneven and any(name in shared for name in kernel.inputs)


def _float_island(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    """In a quantized model, a kernel whose input, weight or result is not quantized."""
    if not graph.quantized or is_layout_only(graph, kernel):
        return False
    tensors = [*kernel.inputs, *kernel.outputs]
    if kernel.op_type in CONVOLUTIONS + DENSE:
        tensors += [name for name in kernel.layers[0].inputs[1:2] if name in graph.constants]
    return not graph.quantized.issuperset(tensors)


def _wide(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    return any(graph.bits.get(name, 8) > 8 for name in (*kernel.inputs, *kernel.outputs))


def _interpolating_resize(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    mode = kernel.attributes.get("mode", b"nearest")
    return kernel.op_type in ("Resize", "Upsample") and mode not in (b"nearest", "nearest")


def _partial_reduction(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    shape = graph.shapes[kernel.inputs[0]]
    kept = graph.elements(kernel.outputs[0])
    return kernel.op_type.startswith("Reduce") and not (len(shape) == 4 and kept == math.prod(shape[:2]))


def _moving_product(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    return kernel.op_type in DENSE and kernel.weight_shape(graph) is None


def _shuffle(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    return kernel.op_type == "Transpose" and not is_layout_only(graph, kernel)


def _odd_shuffle(graph: Graph, kernel: Kernel, shared: frozenset[str]) -> bool:
    odd = any(_channels(graph, name) % LANES for name in (*kernel.inputs, *kernel.outputs))
    return _shuffle(graph, kernel, shared) and odd


def _is(*operators: str) -> Callable[[Graph, Kernel, frozenset[str]], bool]:
    return lambda graph, kernel, shared: kernel.op_type in operators


RULES: tuple[Rule, ...] = (
    Rule(_float_island, Verdict(
        "CPU", "not quantized on all sides: it is computed in floats",
        "put QuantizeLinear and DequantizeLinear around it, its weight and its result; `stdet quantize` does", timed=False)),
    Rule(_wide, Verdict(
        "CPU", "activations of more than 8 bits; the NPU takes 8-bit activations and weights",
        "quantize to int8 activations (leave Int16Share and ActivationType out)", timed=False)),
    Rule(_interpolating_resize, Verdict(
        "CPU", "an interpolating Resize is computed in floats", "use mode nearest, or a ConvTranspose", timed=False)),
    Rule(_is("Softmax", "LogSoftmax"), Verdict(
        "CPU", "Softmax is an integer operator of the CPU",
        "end the network before it and compute it on the few boxes that pass the threshold", timed=False)),
    Rule(_partial_reduction, Verdict(
        "CPU", "a reduction other than over all pixels is computed in floats", "use a global pool", timed=False)),
    Rule(_moving_product, Verdict(
        "CPU", "a product of two activations; the NPU multiplies with stored weights",
        "use layers with fixed weights", timed=False)),
    Rule(_odd_cut, Verdict(
        "CPU", "cuts channels at a count that is no multiple of 8", "make the channel counts multiples of 8",
        PUBLISHED_ROWS, timed=False)),
    Rule(_copying_join, Verdict(
        "CPU", "joins channel counts that are no multiples of 8, of tensors that are read elsewhere too",
        "make the channel counts multiples of 8", PUBLISHED_ROWS, timed=False)),
    Rule(_odd_join, Verdict(
        "depends", "joins channel counts that are no multiples of 8, which may have to be copied by the CPU",
        "make the channel counts multiples of 8", PUBLISHED_ROWS)),
    Rule(_odd_shuffle, Verdict(
        "depends", "moves channels whose count is no multiple of 8: the compiler may leave it to the CPU",
        "make the channel counts multiples of 8, or end the network before it", timed=False)),
    Rule(_shuffle, Verdict(
        "depends", "versions of the compiler differ in whether the CPU moves the data",
        "end the network before it, or keep the channels where they are")),
    Rule(lambda graph, kernel, shared: is_layout_only(graph, kernel), Verdict(
        "NPU", "moves nothing: in the NPU's memory the channels are last already")),
    Rule(_is("Resize", "Upsample"), Verdict("NPU")),
    Rule(_is("Gather", "GatherND", "GatherElements", "TopK", "NonMaxSuppression", "ArgMax", "ArgMin"), Verdict(
        "CPU", "picks elements by index, which the NPU doesn't",
        "end the network before it; box decoding and NMS belong to the application", timed=False)),
    Rule(_is("Div", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Erf", "Gelu", "Softplus", "Mish", "Elu"), Verdict(
        "CPU", "computed in floats", "use ReLU, hard-swish or SiLU, or end the network before it", timed=False)),
    Rule(_is("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
             "LpNormalization"), Verdict(
        "CPU", "a normalisation of its own is computed in floats",
        "use BatchNorm right behind a convolution, where it folds into the weights", timed=False)),
    Rule(_is("DepthToSpace"), Verdict(
        "CPU", "moved by the CPU", "use Resize with mode nearest, or a ConvTranspose", timed=False)),
    Rule(lambda graph, kernel, shared: kernel.op_type in (*_HARDWARE, *DENSE) or kernel.op_type.startswith("Reduce"),
         Verdict("NPU")),
)  # fmt: skip
"""The first that applies decides."""
_UNKNOWN = Verdict(
    "depends", "not known to this lint", "compile it with ST Edge AI Core and look at the list of epochs", timed=False
)


def lint(graph: Graph, steps: Sequence[Kernel]) -> list[Verdict]:
    """The verdict on each kernel."""
    readers: dict[str, int] = {}
    for kernel in steps:
        for name in dict.fromkeys(kernel.inputs):
            readers[name] = readers.get(name, 0) + 1
    shared = frozenset(name for name, count in readers.items() if count > 1)
    return [next((rule.verdict for rule in RULES if rule.applies(graph, kernel, shared)), _UNKNOWN) for kernel in steps]


def untimed(graph: Graph, steps: Sequence[Kernel], verdicts: Sequence[Verdict]) -> list[tuple[Kernel, Verdict]]:
    """The kernels for which no latency formula holds, when together they are more than a trifle."""
    found = [(kernel, verdict) for kernel, verdict in zip(steps, verdicts, strict=True) if not verdict.timed]
    moved = sum(graph.elements(name) for kernel, _ in found for name in kernel.outputs)
    return found if moved > SMALL else []
