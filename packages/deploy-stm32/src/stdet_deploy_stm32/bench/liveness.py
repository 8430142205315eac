"""Which activations are alive at each kernel: what every statement about RAM is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stdet.errors import ModelError
from stdet_deploy_stm32.bench.kernels import Kernel
from stdet_deploy_stm32.onnx_graph.view import Graph

FLOAT_BYTES = 4
AS_FLOAT = " as float"
"""Stands behind the name of an output in its second form, which is made at the end."""
MAX_WORK = 20_000_000
"""Kernels times activations alive at them; no network that a board can hold comes near it."""


@dataclass(frozen=True)
class Moment:
    """What is alive while one kernel runs.

    Attributes:
        kernel: the kernel; None after the last one, when only the outputs are left.
        alive: bytes of each activation, the kernel's inputs and outputs among them.
        dies: which of them no later kernel and no caller reads.
    """

    kernel: Kernel | None
    alive: dict[str, int]
    dies: frozenset[str]


def moments(graph: Graph, steps: Sequence[Kernel], *, unbuffered: frozenset[str] = frozenset(),
            inputs_stay: bool = False) -> Iterator[Moment]:  # fmt: skip
    """The moments of an inference, in order; at the end, outputs that leave as floats are there in both forms.

    Args:
        unbuffered: activations that are never in memory as a whole.
        inputs_stay: model inputs live to the end, as where a camera's buffer isn't given away.

    Raises:
        ModelError: so many activations are alive at so many layers that the count would take minutes.
    """
    last = {name: (len(steps) if inputs_stay else -1) for name in graph.inputs}
    for index, kernel in enumerate(steps):
        for name in kernel.outputs:
            last[name] = index
        for name in kernel.inputs:
            last[name] = max(index, last.get(name, index))
    last |= {name: len(steps) for name in graph.outputs if name in last}
    alive = {name: graph.size(name) for name in graph.inputs}
    work = 0
    for index, current in enumerate((*steps, None)):
        if current is not None:
            alive |= {name: graph.size(name) for name in current.outputs if name not in unbuffered}
        else:
            alive |= {f"{name}{AS_FLOAT}": FLOAT_BYTES * graph.elements(name) for name in graph.float_outputs}
        dies = frozenset(name for name in alive if last.get(name, index) <= index)
        work += len(alive)
        if work > MAX_WORK:
            raise ModelError(f"{len(alive)} activations are alive at layer {index + 1}; this is no network for a board")
        yield Moment(current, dict(alive), dies)
        for name in dies:
            del alive[name]
