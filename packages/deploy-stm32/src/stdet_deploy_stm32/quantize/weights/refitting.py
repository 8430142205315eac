"""Sequential MSE: the stored weights with which a layer's result, from the inputs it really gets, loses least.

Layer after layer, behind the layers that are rounded already. With H the mean of p pᵀ over the patches p that a layer
sees, an error e in the weights of an output channel costs eᵀHe. First each channel gets the scale that costs least under
plain rounding; then one weight after the other takes the step that costs least given all others, in all channels at once
(coordinate descent, as in QuantEase, arXiv 2309.01885). No step raises the cost. AdaRound (arXiv 2004.10568) descends the
same cost by gradient, which takes as much work for a single iteration as this for all weights once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.gradients import one_thread
from stdet_deploy_stm32.onnx_graph.operators import window
from stdet_deploy_stm32.onnx_graph.surgery import dequantized, initializers, producers, prune
from stdet_deploy_stm32.quantize.form.biases import bias_scale, store_bias
from stdet_deploy_stm32.quantize.form.check import channel_axis
from stdet_deploy_stm32.quantize.images import images, subset
from stdet_deploy_stm32.quantize.weights.sweep import SWEEP_IMAGES, Sweep

PASSES = 8
"""Times that each weight is looked at, at most; the first pass wins most."""
POSITIONS = 1024
"""Of each image, drawn by a seeded generator."""
_SHARES = np.linspace(1.0, 0.5, 26)
"""Scales that are tried, as shares of the present one."""
_DAMPING = 0.01
"""Share of its mean diagonal that is added to H: keeps weights near their own value where few patches decide."""
_TINY = 1e-20
_WIDEST = 4608
"""Weights of a channel that H is made for, at most: 81 MiB. Wider layers keep their rounding."""
_BLOCK = 128
"""Weights between two updates of all the others."""
_LARGEST = {TensorProto.INT4: 7, TensorProto.INT8: 127}
"""Largest stored value of symmetric weights by type; 16 bits round too finely to matter."""


@dataclass(frozen=True)
class Layer:
    """A layer whose weights can be refitted. Matrices are (groups, channels of a group, weights of a channel).

    Attributes:
        original, node: in the float model and in its QDQ form.
        dq: the DequantizeLinear behind the stored weight.
        axis: of the output channels in the weight.
        weight: float32 matrix of the float model.
        shape: of the weight as it is stored.
        scale: float32 (groups, channels of a group, 1), or (1, 1, 1) for all.
        least: share of the scale below which the bias wouldn't fit into 32 bits, of the scale's shape.
        largest: stored value.
    """

    original: NodeProto
    node: NodeProto
    dq: NodeProto
    axis: int
    weight: Tensor
    shape: tuple[int, ...]
    scale: Tensor
    least: Tensor
    largest: int

    def patches(self, x: np.ndarray, generator: torch.Generator) -> Tensor:
        """float32 (G, K, P): groups, weights of a channel, up to `POSITIONS` positions, of the layer's input `x`.

        Args:
            x: float32 (1, C, H, W) for a Conv, else (..., K).
        """
        value = torch.from_numpy(x)
        if self.original.op_type != "Conv":
            rows = value.reshape(-1, x.shape[-1])
            return rows[torch.randperm(len(rows), generator=generator)[:POSITIONS]].T[None]
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in self.original.attribute}
        kernel = self.shape[2:]
        padded, strides, dilations = window(value, attributes, list(kernel), 0.0)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        high, wide = ((n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, strides, strict=True))
        chosen = torch.randperm(high * wide, generator=generator)[:POSITIONS]
        inside = torch.cartesian_prod(*(torch.arange(k) * d for k, d in zip(kernel, dilations, strict=True)))
        rows = (chosen // wide * strides[0])[:, None] + inside[:, 0]
        columns = (chosen % wide * strides[1])[:, None] + inside[:, 1]
        seen = padded[0][:, rows, columns]  # (channels, positions, weights of an input channel)
        return seen.transpose(1, 2).reshape(len(self.weight), self.weight.shape[2], -1)


def refit_weights(
    floating: ModelProto,
    quantized: ModelProto,
    data: CalibrationData,
    fixed_scales: Collection[str] = (),
    progress: Progress | None = None,
) -> dict[str, float]:
    """Replace the stored weights of `quantized` and their scales, in place.

    Done for Conv over two axes, Gemm and MatMul with symmetric weights, up to `_WIDEST` a channel; the others keep their
    rounding.

    Args:
        floating: the float model with the same node names.
        quantized: its QDQ form with float inputs and outputs.
        fixed_scales: weights of the float model that keep their scale.
        progress: called after each layer.

    Returns:
        By layer: the cost after, as a share of the cost before.

    Raises:
        QuantizationError: unusable images.
    """
    layers = _layers(floating, quantized)
    sweep = Sweep(quantized, images(floating, subset(data, SWEEP_IMAGES)))
    left = {}
    with one_thread():
        for index, layer in enumerate(layers):
            generator = torch.Generator().manual_seed(index)
            found = sweep.run([layer.node.input[0]], [later.node.input[0] for later in layers[index + 1 :]])
            shares = [1.0] if layer.original.input[1] in fixed_scales else _SHARES
            left[layer.node.name] = _refit(quantized, layer, (layer.patches(x, generator) for (x,) in found), shares)
            if progress is not None:
                progress(index + 1, len(layers))
    prune(quantized)
    return left


def _refit(quantized: ModelProto, layer: Layer, patches: Iterable[Tensor], shares: Iterable[float]) -> float:
    """Replace one layer's weights; the cost after, as a share of the cost before."""
    cost = _Cost(len(layer.weight), layer.weight.shape[2], patches)
    before = cost(_matrix(dequantized(layer.dq, quantized), layer.axis, len(layer.weight)) - layer.weight).sum()
    scale = _best_scale(layer, cost, shares)
    steps = _descend(layer, cost, scale)
    _store(quantized, layer, steps, scale)
    after = cost(steps * scale - layer.weight).sum()
    return float(after / before) if before > 0 else 1.0


class _Cost:
    """What errors in a layer's weights cost, by channel.

    Attributes:
        matrix: float32 (groups, weights of a channel, weights of a channel), positive definite.
    """

    def __init__(self, groups: int, size: int, patches: Iterable[Tensor]) -> None:
        self.matrix = torch.zeros(groups, size, size)
        for p in patches:
            self.matrix.baddbmm_(p, p.transpose(1, 2))
        diagonal = self.matrix.diagonal(dim1=1, dim2=2)
        diagonal += _DAMPING * diagonal.mean(1, keepdim=True) + _TINY

    def __call__(self, error: Tensor) -> Tensor:
        """float32 (groups, channels of a group, 1)."""
        return ((error @ self.matrix) * error).sum(2, keepdim=True)


def _rounded(layer: Layer, scale: Tensor) -> Tensor:
    return (layer.weight / scale).round().clamp(-layer.largest, layer.largest)


def _best_scale(layer: Layer, cost: _Cost, shares: Iterable[float]) -> Tensor:
    """Of the layer's scale times each of `shares`, the one that costs least under plain rounding."""
    best, least = layer.scale, torch.full_like(layer.scale, torch.inf)
    for share in shares:
        scale = layer.scale * layer.least.clamp_min(share)
        loss = cost(_rounded(layer, scale) * scale - layer.weight)
        loss = loss if scale.shape == loss.shape else loss.sum().reshape(1, 1, 1)
        best, least = torch.where(loss < least, scale, best), torch.minimum(loss, least)
    return best


def _descend(layer: Layer, cost: _Cost, scale: Tensor) -> Tensor:
    """The stored values, float32 matrix, that no change of a single one makes cheaper, or nearly."""
    steps = _rounded(layer, scale)
    slope = (steps * scale - layer.weight) @ cost.matrix  # half the gradient
    for _ in range(PASSES):
        before = steps.clone()
        for start in range(0, steps.shape[2], _BLOCK):
            part = slice(start, start + _BLOCK)
            matrix, near, block = cost.matrix[:, part, part], slope[..., part].clone(), steps[..., part].clone()
            for k in range(block.shape[2]):
                row, one = matrix[:, k : k + 1], slice(k, k + 1)
                best = block[..., one] - near[..., one] / (row[..., one] * scale)
                change = best.round().clamp(-layer.largest, layer.largest) - block[..., one]
                block[..., one] += change
                near += (change * scale) * row
            slope += ((block - steps[..., part]) * scale) @ cost.matrix[:, part]
            steps[..., part] = block
        if torch.equal(steps, before):
            break
    return steps


def _layers(floating: ModelProto, quantized: ModelProto) -> list[Layer]:
    originals = {node.name: node for node in floating.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    weights, constants, writers = initializers(floating), initializers(quantized), producers(quantized)
    found = []
    for node in quantized.graph.node:
        original = originals.get(node.name)
        dq = writers.get(node.input[1]) if original is not None else None
        if original is None or dq is None or original.input[1] not in weights or not _fits(original, dq, constants):
            continue
        weight = numpy_helper.to_array(weights[original.input[1]])
        groups = next((a.i for a in original.attribute if a.name == "group"), 1)
        axis = channel_axis(original) % max(weight.ndim, 1)
        if weight.ndim != (4 if original.op_type == "Conv" else 2) or weight.size > _WIDEST * weight.shape[axis]:
            continue
        scale = torch.from_numpy(numpy_helper.to_array(constants[dq.input[1]]).copy())
        matrix = _matrix(weight, axis, groups)
        scale = scale.reshape(*matrix.shape[:2], 1) if scale.ndim else scale.reshape(1, 1, 1)
        largest = _LARGEST[constants[dq.input[0]].data_type]
        least = _bias_use(node, quantized).expand(matrix.shape[0] * matrix.shape[1])
        least = least.reshape(scale.shape) if scale.numel() > 1 else least.max().reshape(1, 1, 1)
        found.append(Layer(original, node, dq, axis, matrix, weight.shape, scale, least, largest))
    return found


def _fits(original: NodeProto, dq: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether the weight is symmetric, with one scale or one for each output channel."""
    if dq.op_type != "DequantizeLinear" or dq.input[0] not in constants:
        return False
    stored, scale = constants[dq.input[0]], constants[dq.input[1]]
    zero = numpy_helper.to_array(constants[dq.input[2]]) if len(dq.input) > 2 else np.zeros(())
    axis = next((a.i for a in dq.attribute if a.name == "axis"), 1)
    rank = len(stored.dims)
    return (
        stored.data_type in _LARGEST
        and not np.any(zero.astype(np.int32))
        and (not scale.dims or axis % rank == channel_axis(original) % rank)
        and not any(a.name == "transA" and a.i for a in original.attribute)
    )


def _bias_use(node: NodeProto, model: ModelProto) -> Tensor:
    """Share of 31 bits that the int32 bias of each channel takes, float32 (C,) or (1,); 0 without such a bias."""
    dq = producers(model).get(node.input[2]) if len(node.input) > 2 else None
    stored = initializers(model).get(dq.input[0]) if dq is not None else None
    if stored is None or stored.data_type != TensorProto.INT32:
        return torch.zeros(1)
    values = numpy_helper.to_array(stored).reshape(-1).astype(np.float64)
    return torch.from_numpy((np.abs(values) / np.iinfo(np.int32).max).astype(np.float32))


def _matrix(weight: np.ndarray, axis: int, groups: int) -> Tensor:
    """`weight` as a matrix of `Layer`."""
    return torch.from_numpy(np.moveaxis(weight, axis, 0).reshape(groups, weight.shape[axis] // groups, -1).copy())


def _store(model: ModelProto, layer: Layer, steps: Tensor, scale: Tensor) -> None:
    """Write stored values and scale; the bias gets the scale that goes with them."""
    constants, writers = initializers(model), producers(model)
    moved = [layer.shape[layer.axis], *(n for i, n in enumerate(layer.shape) if i != layer.axis)]
    values = np.moveaxis(steps.numpy().reshape(moved), 0, layer.axis)
    stored, given = constants[layer.dq.input[0]], constants[layer.dq.input[1]]
    kind = helper.tensor_dtype_to_np_dtype(stored.data_type)
    stored.CopyFrom(numpy_helper.from_array(values.astype(np.int32).astype(kind), stored.name))
    given.CopyFrom(numpy_helper.from_array(scale.numpy().reshape(tuple(given.dims)), given.name))
    product = bias_scale(model, layer.node)
    dq = writers.get(layer.node.input[2]) if len(layer.node.input) > 2 else None
    if dq is not None and product is not None and constants[dq.input[0]].data_type == TensorProto.INT32:
        store_bias(model, layer.node, dequantized(dq, model).astype(np.float64) / product, product, dq.input[0])
