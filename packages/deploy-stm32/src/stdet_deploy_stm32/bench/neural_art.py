"""The NPU of STM32N6 (Neural-ART): what its compiler stores, where activations find room, what takes time.

The rules are ours; they explain published figures of ST Edge AI Core 4.0.0 for the STM32N6570-DK (see docs/boards.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stdet_deploy_stm32.bench.kernels import CONVOLUTIONS, Kernel
from stdet_deploy_stm32.bench.liveness import Moment, moments
from stdet_deploy_stm32.bench.macc import products_of, stored_constants
from stdet_deploy_stm32.onnx_graph.view import Graph

LINE_VALUES = 1024
"""Values of one image line that a depthwise unit takes; a wider line is cut into stripes, each with weights of its own."""
CHANNEL_BYTES = 1
"""Stored for each output channel beside the weights."""
SLICE_ROWS, SLICE_COLUMNS, SLICE_COLUMNS_STRIDED = 3, 6, 12
"""The largest kernel that a convolution unit takes at once; a larger one is computed in slices and summed up."""
PARTIAL_SUM_BYTES = 2
"""An element of a slice's result."""


def stored_weights(graph: Graph, kernel: Kernel) -> int:
    """Bytes of flash for what a kernel reads of constants: depthwise weights once for each stripe, biases not at all."""
    shape = kernel.weight_shape(graph)
    if shape is None:
        return sum(graph.size(name) for _, name in stored_constants(graph, kernel))
    elements = math.prod(shape)
    layer = kernel.layers[0]
    size = math.ceil(elements * graph.bits.get(layer.inputs[1], 8) / 8)
    channels = graph.shapes[kernel.outputs[0]][1] if kernel.op_type in CONVOLUTIONS else shape[-1]
    copies = 0
    if kernel.is_depthwise(graph):
        height, width = shape[2], math.prod(shape[3:])
        _, depth, *plane = graph.shapes[kernel.inputs[0]]
        stripes = math.ceil(depth * plane[-1] / LINE_VALUES)
        copies = size * (stripes - 1) * min(9, height * width) // (height * width)
    return size + copies + CHANNEL_BYTES * channels


def slices(graph: Graph, kernel: Kernel) -> int:
    """In how many slices the kernel of a dense convolution is computed; 1 for all else."""
    shape = kernel.weight_shape(graph)
    if kernel.op_type not in CONVOLUTIONS or kernel.is_depthwise(graph) or shape is None or len(shape) != 4:
        return 1
    strided = max(kernel.attributes.get("strides", [1])) > 1
    columns = SLICE_COLUMNS_STRIDED if strided else SLICE_COLUMNS
    return math.ceil(shape[2] / SLICE_ROWS) * math.ceil(shape[3] / columns)


def streamed(graph: Graph, steps: Sequence[Kernel]) -> frozenset[str]:
    """Results of dense convolutions that one MaxPool alone reads: they go through it without being stored."""
    readers: dict[str, list[Kernel]] = {}
    for kernel in steps:
        for name in dict.fromkeys(kernel.inputs):
            readers.setdefault(name, []).append(kernel)
    return frozenset(
        kernel.outputs[0]
        for kernel in steps
        if kernel.op_type == "Conv"
        and not kernel.is_depthwise(graph)
        and [reader.op_type for reader in readers.get(kernel.outputs[0], [])] == ["MaxPool"]
        and kernel.outputs[0] not in graph.outputs
    )


@dataclass(frozen=True)
class Use:
    """RAM while one kernel runs.

    Attributes:
        inside: bytes in each region of internal RAM.
        outside: bytes in external RAM.
        slow_elements: elements of the kernel's that are read from there.
    """

    inside: tuple[int, ...]
    outside: int
    slow_elements: int


@dataclass(frozen=True)
class Placement:
    """Attributes:
    uses: of each kernel, then of the end.
    outside: the activations that find no room inside.
    """

    uses: tuple[Use, ...]
    outside: frozenset[str]

    @property
    def inside_bytes(self) -> int:
        """Most that is in internal RAM at once."""
        return max(sum(use.inside) for use in self.uses)

    @property
    def outside_bytes(self) -> int:
        """Most that is in external RAM at once."""
        return max(use.outside for use in self.uses)

    @property
    def slow_elements(self) -> int:
        """Elements that an inference reads from external RAM."""
        return sum(use.slow_elements for use in self.uses)


def place(graph: Graph, steps: Sequence[Kernel], regions: Sequence[int]) -> Placement:
    """Find room for all activations.

    At each kernel what is alive goes, largest first, into the region with the least room that suffices; partial sums come
    after it. An activation that finds no room is outside for its whole life.

    Args:
        regions: bytes of each contiguous piece of internal RAM.

    Raises:
        ModelError: see `liveness.moments`.
    """
    unbuffered = streamed(graph, steps)
    alive = list(moments(graph, steps, unbuffered=unbuffered, inputs_stay=True))
    outside: set[str] = set()
    for moment in alive:
        outside |= _fill(moment.alive, outside, regions)[1]
    uses = [_use(graph, moment, outside, regions) for moment in alive]
    return Placement(tuple(uses), frozenset(outside))


def _fill(alive: dict[str, int], outside: set[str], regions: Sequence[int]) -> tuple[list[int], set[str]]:
    """(room left in each region, names that found none) when the tensors that aren't `outside` are placed."""
    room = list(regions)
    spilled = set()
    for name in sorted(alive.keys() - outside, key=lambda n: (-alive[n], n)):
        if not _take(room, alive[name]):
            spilled.add(name)
    return room, spilled


def _take(room: list[int], size: int) -> bool:
    fitting = [index for index, left in enumerate(room) if size <= left]
    if fitting:
        room[min(fitting, key=room.__getitem__)] -= size
    return bool(fitting)


def _use(graph: Graph, moment: Moment, outside: set[str], regions: Sequence[int]) -> Use:
    room, _ = _fill(moment.alive, outside, regions)
    spilled = sum(moment.alive[name] for name in outside & moment.alive.keys())
    slow = 0
    if moment.kernel is not None:
        slow = sum(graph.elements(name) for name in moment.kernel.inputs if name in outside)
        parts = slices(graph, moment.kernel)
        elements = graph.elements(moment.kernel.outputs[0])
        lost = sum(not _take(room, PARTIAL_SUM_BYTES * elements) for _ in range(parts)) if parts > 1 else 0
        spilled += lost * PARTIAL_SUM_BYTES * elements
        slow += (parts - 1) * elements if lost else 0
    return Use(tuple(size - left for size, left in zip(regions, room, strict=True)), spilled, slow)


COUNTS = ("weight_bytes", "pointwise_products", "spatial_products", "depthwise_elements", "convolution_input_bytes",
          "other_bytes", "kernels", "slow_elements")  # fmt: skip
"""What takes time, in the order of `counts`."""


def counts(graph: Graph, kernel: Kernel, slow_elements: int) -> tuple[float, ...]:
    """How much of each of `COUNTS` a kernel has.

    Products of kernels larger than 1 x 1 are counted at the input's resolution: a stride saves no time. The elements that a
    depthwise layer reads count once for each slice of 3 x 6 taps.
    """
    shape = kernel.weight_shape(graph)
    read = sum(graph.size(name) for name in kernel.inputs)
    weights = float(stored_weights(graph, kernel))
    if shape is None:
        moved = read + sum(graph.size(name) for name in kernel.outputs)
        return (weights, 0.0, 0.0, 0.0, 0.0, float(moved), 1.0, float(slow_elements))
    pointwise = spatial = depthwise = 0.0
    products = products_of(graph, kernel.layers[0])
    if kernel.is_depthwise(graph):
        taps = math.ceil(shape[2] / SLICE_ROWS) * math.ceil(math.prod(shape[3:]) / SLICE_COLUMNS)
        depthwise = float(graph.elements(kernel.inputs[0]) * taps)
    elif kernel.op_type in CONVOLUTIONS and math.prod(shape[2:]) > 1:
        area_in = math.prod(graph.shapes[kernel.inputs[0]][2:])
        spatial = products * max(1.0, area_in / math.prod(graph.shapes[kernel.outputs[0]][2:]))
    else:
        pointwise = float(products)
    return (weights, pointwise, spatial, depthwise, float(read), 0.0, 1.0, float(slow_elements))
