"""What each operator of the standard domain computes, in torch, so that it can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from stdet.errors import QuantizationError

Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Any]
"""Takes the inputs (None where one is left out) and the attributes; a tuple of tensors where there are several outputs."""

_CASTS = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64, TensorProto.BOOL: torch.bool,
}  # fmt: skip
_OTHERWISE = "set onnx_quant_parameters.calibrate_method: Percentile, which needs none"


def _ints(value: Any) -> list[int]:
    return [int(v) for v in torch.as_tensor(value).reshape(-1)]


def window(x: Tensor, attributes: Attributes, kernel: list[int], fill: float) -> tuple[Tensor, list[int], list[int]]:
    """What a convolution or pool over two axes sees: floating (B, C, H, W) with its padding, filled with `fill`.

    Returns:
        The padded `x`, strides and dilations, each of two for rows and columns.

    Raises:
        QuantizationError: the kernel has more or fewer axes than two.
    """
    if len(kernel) != 2:
        raise QuantizationError(f"a window over {len(kernel)} axes has no gradient here", _OTHERWISE)
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
        raise QuantizationError("ConvTranspose with uneven padding has no gradient here", _OTHERWISE)
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
        f"Resize ({mode.decode()}, {place.decode()}, to {size[2:]}) has no gradient here", _OTHERWISE
    )


def _space_to_depth(inputs: list[Any], a: Attributes) -> Tensor:
    block, (n, c, h, w) = a["blocksize"], inputs[0].shape
    split = inputs[0].reshape(n, c, h // block, block, w // block, block)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _pad(inputs: list[Any], a: Attributes) -> Tensor:
    x, pads = inputs[0], _ints(inputs[1])
    if a.get("mode", b"constant") != b"constant" or (len(inputs) > 3 and inputs[3] is not None):
        raise QuantizationError("only constant padding of all axes has a gradient here", _OTHERWISE)
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return F.pad(x, [n for i in reversed(range(x.ndim)) for n in (pads[i], pads[i + x.ndim])], value=value)


def _depth_to_space(inputs: list[Any], a: Attributes) -> Tensor:
    block, (n, c, h, w) = a["blocksize"], inputs[0].shape
    if a.get("mode", b"DCR") == b"CRD":  # PixelShuffle
        return F.pixel_shuffle(inputs[0], block)
    split = inputs[0].reshape(n, block, block, c // block**2, h, w)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _reduced(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(inputs: list[Any], a: Attributes) -> Tensor:
        axes = _axes(inputs, a)
        if not axes and a.get("noop_with_empty_axes", 0):
            return inputs[0]
        return reduce(inputs[0], axes or list(range(inputs[0].ndim)), bool(a.get("keepdims", 1)))

    return operator


def _layer_norm(inputs: list[Any], a: Attributes) -> Tensor:
    x, gain, shift = (*inputs, None)[:3]
    if a["outputs"] > 1:
        raise QuantizationError("LayerNormalization has a gradient here for its first output only", _OTHERWISE)
    shape = x.shape[a.get("axis", -1) % x.ndim :]
    normed = F.layer_norm(x, shape, None, None, a.get("epsilon", 1e-5)) * gain
    return normed if shift is None else normed + shift


def _instance_norm(inputs: list[Any], a: Attributes) -> Tensor:
    x, gain, shift = inputs
    return F.group_norm(x, x.shape[1], gain, shift, a.get("epsilon", 1e-5))


def _group_norm(inputs: list[Any], a: Attributes) -> Tensor:
    x, gain, shift = inputs
    each = x.shape[1] // len(gain)  # below opset 21 there is one value a group, not one a channel
    gain, shift = (part.repeat_interleave(each) for part in (gain, shift))
    return F.group_norm(x, a["num_groups"], gain, shift, a.get("epsilon", 1e-5))


def _elu(inputs: list[Any], a: Attributes) -> Tensor:
    return F.elu(inputs[0], a.get("alpha", 1.0))


def _selu(inputs: list[Any], a: Attributes) -> Tensor:
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)
    return F.elu(inputs[0], alpha) * gamma


def _cast(inputs: list[Any], a: Attributes) -> Tensor:
    if a["to"] not in _CASTS:
        raise QuantizationError(f"Cast to {TensorProto.DataType.Name(a['to'])} has no gradient here", _OTHERWISE)
    return inputs[0].to(_CASTS[a["to"]])


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
    "Cast": _cast,
    "Celu": lambda i, a: F.celu(i[0], a.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(i, a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": lambda i, a: i[0] / i[1],
    "Dropout": lambda i, a: i[0],
    "Elu": _elu,
    "Erf": lambda i, a: torch.erf(i[0]),
    "Exp": lambda i, a: i[0].exp(),
    "Expand": lambda i, a: i[0].expand(torch.broadcast_shapes(i[0].shape, _ints(i[1]))),
    "Flatten": _flatten,
    "Gather": lambda i, a: (
        i[0].index_select(a.get("axis", 0), i[1].reshape(-1).long())
        if i[1].ndim == 1
        else i[0].select(a.get("axis", 0), int(i[1]))
    ),
    "Gelu": lambda i, a: F.gelu(i[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda i, a: i[0].amax((2, 3), keepdim=True),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda i, a: F.hardswish(i[0]),
    "Identity": lambda i, a: i[0],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda i, a: F.leaky_relu(i[0], a.get("alpha", 0.01)),
    "Log": lambda i, a: i[0].log(),
    "LogSoftmax": lambda i, a: i[0].log_softmax(a.get("axis", -1)),
    "MatMul": lambda i, a: i[0] @ i[1],
    "Max": lambda i, a: torch.amax(torch.stack(torch.broadcast_tensors(*i)), 0),
    "MaxPool": _max_pool,
    "Mean": lambda i, a: torch.stack(torch.broadcast_tensors(*i)).mean(0),
    "Min": lambda i, a: torch.amin(torch.stack(torch.broadcast_tensors(*i)), 0),
    "Mish": lambda i, a: F.mish(i[0]),
    "Mul": lambda i, a: i[0] * i[1],
    "Neg": lambda i, a: -i[0],
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": lambda i, a: i[0] ** i[1],
    "Reciprocal": lambda i, a: i[0].reciprocal(),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": lambda i, a: F.relu(i[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Selu": _selu,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": _slice,
    "Softmax": lambda i, a: i[0].softmax(a.get("axis", -1)),
    "Softplus": lambda i, a: F.softplus(i[0]),
    "Softsign": lambda i, a: F.softsign(i[0]),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": lambda i, a: i[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda i, a: i[0] - i[1],
    "Sum": lambda i, a: torch.stack(torch.broadcast_tensors(*i)).sum(0),
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "Tile": lambda i, a: i[0].repeat(_ints(i[1])),
    "Transpose": lambda i, a: i[0].permute(*a.get("perm", range(i[0].ndim)[::-1])),
    "Unsqueeze": _unsqueeze,
}
"""What each operator of the standard domain computes (opset 13 to 21)."""
