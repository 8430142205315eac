"""Peak activation memory: who is alive when, and where a planner would put it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stdet_deploy_stm32.onnx_graph.view import Graph


@dataclass(frozen=True)
class Buffer:
    """An activation in memory.

    Attributes:
        name: tensor.
        size: bytes.
        first, last: index of the layer that writes it (-1 for a model input) and of the last that needs it.
    """

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at some layer; a layer's inputs and outputs are alive together."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """A placement of all activations.

    Attributes:
        size: bytes of RAM that the placement needs.
        lower_bound: bytes alive at once in the worst layer; no placement needs less.
        offsets: byte offset by tensor.
        worst_layer: name of the layer at which most is alive.
    """

    size: int
    lower_bound: int
    offsets: dict[str, int]
    worst_layer: str


def live_ranges(graph: Graph) -> list[Buffer]:
    """One buffer an activation. Model inputs are alive from the start, model outputs to the end."""
    first = dict.fromkeys(graph.inputs, -1)
    last = dict.fromkeys(graph.inputs, -1)
    for index, layer in enumerate(graph.layers):
        for name in layer.outputs:
            first[name] = last[name] = index
        for name in layer.inputs:
            if name and name not in graph.constants:
                last[name] = index
    for name in graph.outputs:
        if name in first:
            last[name] = len(graph.layers)
    return [Buffer(name, graph.size(name), first[name], last[name]) for name in first]


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size, b.first),
    lambda b: (b.first - b.last, -b.size),
    lambda b: (b.size * (b.first - b.last), b.first),
    lambda b: (b.first, -b.size),
)
"""Orders to place buffers in: largest first, longest-lived first, both together, first written first."""


def plan(graph: Graph) -> Arena:
    """The best of a few greedy placements; each buffer goes into the tightest gap left by those it meets.

    Greedy by size is from Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).
    """
    buffers = live_ranges(graph)
    alive = [sum(b.size for b in buffers if b.first <= step <= b.last) for step in range(-1, len(graph.layers))]
    worst = max(range(len(alive)), key=alive.__getitem__)
    placements = [_place(buffers, order) for order in _ORDERS]
    size, offsets = min(placements, key=lambda placement: placement[0])
    return Arena(size, alive[worst], offsets, graph.layers[worst - 1].name if worst else "model input")


def _place(buffers: list[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> tuple[int, dict[str, int]]:
    """(size of the arena, offset by tensor) when `buffers` are placed in this order."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda b: (*order(b), b.name)):
        taken = sorted((offset, other.size) for offset, other in placed if other.meets(buffer))
        placed.append((_tightest_gap(taken, buffer.size), buffer))
    return max((offset + b.size for offset, b in placed), default=0), {b.name: offset for offset, b in placed}


def _tightest_gap(taken: list[tuple[int, int]], size: int) -> int:
    """Offset of the smallest gap between the `taken` (offset, size) ranges that holds `size`, else behind them."""
    best: tuple[int, int] | None = None
    end = 0
    for offset, length in taken:
        gap = offset - end
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, offset + length)
    return best[1] if best else end
