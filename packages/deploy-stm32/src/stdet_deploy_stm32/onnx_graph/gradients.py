"""A float ONNX graph run in torch, for the one thing that onnxruntime can't do: gradients of inner tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs

Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Any]
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


def _ints(value: Any) -> list[int]:
    return [int(v) for v in torch.as_tensor(value).reshape(-1)]


def window(x: Tensor, attributes: Attributes, kernel: list[int], fill: float) -> tuple[Tensor, list[int], list[int]]:
    """`x` with its padding, strides and dilations of a convolution or pool over two axes."""
    if len(kernel) != 2:
        raise QuantizationError(f"a window over {len(kernel)} axes has no gradient here", "use calibrate_method: MSE")
    strides, dilations = list(attributes.get("strides", [1, 1])), list(attributes.get("dilations", [1, 1]))
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode.startswith("SAME"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        needed = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(x.shape[2:], strides, reach, strict=True)]
        small, large = [n // 2 for n in needed], [n - n // 2 for n in needed]
        pads = small + large if mode == "SAME_UPPER" else large + small
    padded = F.pad(x, [pads[1], pads[3], pads[0], pads[2]], value=fill) if any(pads) else x
    return padded, strides, dilations


def _conv(inputs: list[Any], a: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    x, strides, dilations = window(x, a, list(weight.shape[2:]), 0.0)
    return F.conv2d(x, weight, bias, strides, 0, dilations, a.get("group", 1))


def _conv_transpose(inputs: list[Any], a: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    pads = list(a.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:] or "output_shape" in a or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise QuantizationError("ConvTranspose with uneven padding has no gradient here", "use calibrate_method: MSE")
    strides, extra, dilations = (list(a.get(k, [d, d])) for k, d in
                                 (("strides", 1), ("output_padding", 0), ("dilations", 1)))  # fmt: skip
    return F.conv_transpose2d(x, weight, bias, strides, pads[:2], extra, a.get("group", 1), dilations)


def _max_pool(inputs: list[Any], a: Attributes) -> Tensor:
    kernel = list(a["kernel_shape"])
    x, strides, dilations = window(inputs[0], a, kernel, -torch.inf)
    return F.max_pool2d(x, kernel, strides, 0, dilations, bool(a.get("ceil_mode", 0)))


def _average_pool(inputs: list[Any], a: Attributes) -> Tensor:
    kernel, ceil = list(a["kernel_shape"]), bool(a.get("ceil_mode", 0))
    x, strides, _ = window(inputs[0], a, kernel, 0.0)
    mean = F.avg_pool2d(x, kernel, strides, 0, ceil)
    if a.get("count_include_pad", 0):
        return mean
    inside, _, _ = window(torch.ones_like(inputs[0]), a, kernel, 0.0)
    return mean / F.avg_pool2d(inside, kernel, strides, 0, ceil)


def _gemm(inputs: list[Any], a: Attributes) -> Tensor:
    x, weight = (t.T if a.get(k, 0) else t for t, k in zip(inputs[:2], ("transA", "transB"), strict=True))
    product = a.get("alpha", 1.0) * (x @ weight)
    return product + a.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else product


def _clip(inputs: list[Any], a: Attributes) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    return torch.clamp(inputs[0], low, high)


def _reshape(inputs: list[Any], a: Attributes) -> Tensor:
    x, shape = inputs[0], _ints(inputs[1])
    return x.reshape([x.shape[i] if n == 0 and not a.get("allowzero", 0) else n for i, n in enumerate(shape)])


def _flatten(inputs: list[Any], a: Attributes) -> Tensor:
    axis = a.get("axis", 1) % (inputs[0].ndim + 1)
    return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)


def _axes(inputs: list[Any], a: Attributes) -> list[int]:
    return _ints(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else list(a.get("axes", []))


def _squeeze(inputs: list[Any], a: Attributes) -> Tensor:
    axes = _axes(inputs, a)
    return inputs[0].squeeze(tuple(axes)) if axes else inputs[0].squeeze()


def _unsqueeze(inputs: list[Any], a: Attributes) -> Tensor:
    x, axes = inputs[0], _axes(inputs, a)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _slice(inputs: list[Any], a: Attributes) -> Tensor:
    x, starts, ends = inputs[0], _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            kept = list(range(x.shape[axis]))[start:end:step]
        else:  # ONNX counts a start or end beyond the first element as before it
            kept = list(range(x.shape[axis]))[start : None if end < -x.shape[axis] else end : step]
        x = x.index_select(axis, torch.tensor(kept))
    return x


def _split(inputs: list[Any], a: Attributes) -> tuple[Tensor, ...]:
    x, axis = inputs[0], a.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return x.split(_ints(inputs[1]), axis)
    return x.split(-(-x.shape[axis] // a["outputs"]), axis)


def _resize(inputs: list[Any], a: Attributes) -> Tensor:
    x = inputs[0]
    size = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
    size = size or [int(n * float(s)) for n, s in zip(x.shape, inputs[2], strict=True)]
    mode, place = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode", b"half_pixel")
    grows = all(n % o == 0 for n, o in zip(size[2:], x.shape[2:], strict=True))
    if mode == b"nearest" and grows:  # whole factors: all the roundings agree
        return F.interpolate(x, size=size[2:], mode="nearest")
    if mode == b"linear" and grows and place in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        return F.interpolate(x, size=size[2:], mode="bilinear", align_corners=place == b"align_corners")
    raise QuantizationError(
        f"Resize ({mode.decode()}, {place.decode()}, to {size[2:]}) has no gradient here", "use calibrate_method: MSE"
    )


def _space_to_depth(inputs: list[Any], a: Attributes) -> Tensor:
    block, (n, c, h, w) = a["blocksize"], inputs[0].shape
    split = inputs[0].reshape(n, c, h // block, block, w // block, block)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _pad(inputs: list[Any], a: Attributes) -> Tensor:
    x, pads = inputs[0], _ints(inputs[1])
    if a.get("mode", b"constant") != b"constant" or (len(inputs) > 3 and inputs[3] is not None):
        raise QuantizationError("only constant padding of all axes has a gradient here", "use calibrate_method: MSE")
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return F.pad(x, [n for i in reversed(range(x.ndim)) for n in (pads[i], pads[i + x.ndim])], value=value)


def _reduce_mean(inputs: list[Any], a: Attributes) -> Tensor:
    axes = _axes(inputs, a) or list(range(inputs[0].ndim))
    return inputs[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))


def _batch_norm(inputs: list[Any], a: Attributes) -> Tensor:
    x, gain, shift, mean, variance = inputs
    return F.batch_norm(x, mean, variance, gain, shift, False, 0.0, a.get("epsilon", 1e-5))


def _hard_sigmoid(inputs: list[Any], a: Attributes) -> Tensor:
    return torch.clamp(a.get("alpha", 0.2) * inputs[0] + a.get("beta", 0.5), 0.0, 1.0)


def _prelu(inputs: list[Any], a: Attributes) -> Tensor:
    return torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0])


OPERATORS: dict[str, Operator] = {
    "Abs": lambda i, a: i[0].abs(),
    "Add": lambda i, a: i[0] + i[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(i, a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": lambda i, a: i[0] / i[1],
    "Dropout": lambda i, a: i[0],
    "Exp": lambda i, a: i[0].exp(),
    "Flatten": _flatten,
    "Gather": lambda i, a: (
        i[0].index_select(a.get("axis", 0), i[1].reshape(-1).long())
        if i[1].ndim == 1
        else i[0].select(a.get("axis", 0), int(i[1]))
    ),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda i, a: i[0].amax((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda i, a: F.hardswish(i[0]),
    "Identity": lambda i, a: i[0],
    "LeakyRelu": lambda i, a: F.leaky_relu(i[0], a.get("alpha", 0.01)),
    "MatMul": lambda i, a: i[0] @ i[1],
    "Max": lambda i, a: torch.amax(torch.stack(torch.broadcast_tensors(*i)), 0),
    "MaxPool": _max_pool,
    "Min": lambda i, a: torch.amin(torch.stack(torch.broadcast_tensors(*i)), 0),
    "Mul": lambda i, a: i[0] * i[1],
    "Neg": lambda i, a: -i[0],
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda i, a: F.relu(i[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": _slice,
    "Softmax": lambda i, a: i[0].softmax(a.get("axis", -1)),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": lambda i, a: i[0] - i[1],
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "Transpose": lambda i, a: i[0].permute(*a.get("perm", range(i[0].ndim)[::-1])),
    "Unsqueeze": _unsqueeze,
}
"""What each operator of the standard domain computes (opset 13 to 21)."""
