"""A float ONNX graph run in torch, for the one thing that onnxruntime can't do: gradients of inner tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph.operators import OPERATORS
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs

Visit = Callable[[str, Tensor, Tensor], None]
"""Takes a tensor's name, its value and its gradient."""

_PIECE_BYTES = 1 << 24


class TorchGraph:
    """Computes tensors of a prepared float graph, and gradients; agrees with onnxruntime up to rounding."""

    def __init__(self, model: ModelProto) -> None:
        """Raises:
        QuantizationError: an operator that isn't known here.
        """
        unknown = sorted({node.op_type for node in model.graph.node} - OPERATORS.keys())
        if unknown:
            raise QuantizationError(
                f"no gradient is known here for the operators {', '.join(unknown)}",
                "set onnx_quant_parameters.calibrate_method: Percentile, which needs none",
            )
        self.input = graph_inputs(model)[0].name
        self._model = model  # owns the constants' memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that this memory can't be written to; nothing here does
            self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self._nodes = [
            (node, {a.name: helper.get_attribute_value(a) for a in node.attribute} | {"outputs": len(node.output)})
            for node in model.graph.node
        ]
        self._last_reader = {name: i for i, (node, _) in enumerate(self._nodes) for name in node.input}

    def values(self, image: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors `names`; the others are dropped when nobody needs them any more.

        Args:
            image: float32 (1, C, H, W).

        Raises:
            QuantizationError: a form of an operator that isn't known here.
        """
        wanted = set(names)
        found: dict[str, Tensor] = {}
        known = {self.input: image}
        with torch.no_grad():
            for index, (node, _) in enumerate(self._nodes):
                self._step(index, known)
                found |= {name: known[name] for name in wanted.intersection(node.output)}
                self._drop(index, known)
        return found

    def gradients(self, image: Tensor, seeds: Mapping[str, Tensor], visit: Visit) -> None:
        """Call `visit` once for each tensor that the seeded ones depend on, themselves and the input included.

        The graph is differentiated piece by piece from its end, each piece computed again from the tensors that enter
        it, so that only one piece's activations are held at a time (Chen et al., "Training deep nets with sublinear
        memory cost", 2016).

        Args:
            image: float32 (1, C, H, W).
            seeds: gradient by tensor to start from.

        Raises:
            QuantizationError: a form of an operator that isn't known here.
        """
        gradients, end = dict(seeds), len(self._nodes)
        for start, entering in reversed(self._pieces(image)):
            read = {name for node, _ in self._nodes[start:end] for name in node.input}
            leaves = {n: t.detach().requires_grad_(t.is_floating_point()) for n, t in entering.items() if n in read}
            roots = self._rerun(start, end, leaves, gradients, visit)
            torch.autograd.backward([value for value, _ in roots], [gradient for _, gradient in roots])
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    gradients[name] = gradients[name] + leaf.grad if name in gradients else leaf.grad
            end = start
        if self.input in gradients:
            visit(self.input, image, gradients[self.input])

    def _rerun(
        self, start: int, end: int, leaves: dict[str, Tensor], gradients: dict[str, Tensor], visit: Visit
    ) -> list[tuple[Tensor, Tensor]]:
        """Compute nodes start..end-1 from `leaves` with visits prepared; the results whose gradients are known."""
        known = dict(leaves)
        roots = []
        for index in range(start, end):
            self._step(index, known)
            for name in self._nodes[index][0].output:
                if name in known and known[name].requires_grad:
                    known[name].register_hook(_visit_once(visit, name, known[name].detach()))
                    if name in gradients:
                        roots.append((known[name], gradients.pop(name)))
        return roots

    def _pieces(self, image: Tensor) -> list[tuple[int, dict[str, Tensor]]]:
        """Where each piece of the graph starts, and the tensors that are alive there."""
        known = {self.input: image}
        pieces, held = [(0, dict(known))], 0
        with torch.no_grad():
            for index, (node, _) in enumerate(self._nodes):
                if held > _PIECE_BYTES:
                    pieces.append((index, dict(known)))
                    held = 0
                self._step(index, known)
                held += sum(known[name].nbytes for name in node.output if name in known)
                self._drop(index, known)
        return pieces

    def _step(self, index: int, known: dict[str, Tensor]) -> None:
        """Compute one node."""
        node, attributes = self._nodes[index]
        inputs = [known[n] if n in known else self.constants[n] if n else None for n in node.input]
        results = OPERATORS[node.op_type](inputs, attributes)
        known.update(zip(node.output, results if isinstance(results, tuple) else (results,), strict=False))

    def _drop(self, index: int, known: dict[str, Tensor]) -> None:
        """Forget what no later node reads."""
        node, _ = self._nodes[index]
        for name in {*node.input, *node.output}:
            if self._last_reader.get(name, -1) <= index:
                known.pop(name, None)


def no_gradient(model: ModelProto) -> str:
    """Why the gradients of a prepared float graph can't be taken here; empty when they can. Runs it once, on zeros."""
    try:
        graph = TorchGraph(model)
        shape = [dim.dim_value for dim in graph_inputs(model)[0].type.tensor_type.shape.dim]
        graph.values(torch.zeros(shape), [])
    except QuantizationError as error:
        return error.message
    return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in the same order on every machine, and no threads that spin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _visit_once(visit: Visit, name: str, value: Tensor) -> Callable[[Tensor], None]:
    """A hook that lets go of the value when it has been used."""
    held = [value]
    return lambda gradient: visit(name, held.pop(), gradient)
