"""The operators of the integer reference: sums of integers where both sides are integers, else double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INT32 = 2**31


@dataclass(frozen=True)
class Value:
    """What a float tensor of the graph means: `ints * step`.

    Attributes:
        ints: float64, whole numbers; any numbers when `step` is 1.
        step: float, or an array that broadcasts against `ints`.
    """

    ints: np.ndarray
    step: Any = 1.0

    @property
    def is_real(self) -> bool:
        """Whether the numbers are the values themselves."""
        return np.ndim(self.step) == 0 and self.step == 1.0

    @property
    def real(self) -> np.ndarray:
        """float64, in the shape of `ints`: the values."""
        return self.ints if self.is_real else self.ints * self.step


Attributes = Mapping[str, Any]
LAYOUT = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that move values (a Resize that interpolates makes new ones, on what they mean)."""


def _checked(sums: np.ndarray) -> np.ndarray:
    """Raises ValueError for sums beyond int32."""
    if sums.size and np.abs(sums).max() >= INT32:
        raise ValueError(f"a sum of {np.abs(sums).max():.0f} doesn't fit int32")
    return sums


def conv(attributes: Attributes, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """(B, C, H, W) by (O, C / groups, kh, kw) to (B, O, H', W'). Padding is the value 0.

    An integer bias (O,) has the step of the sums.

    Raises:
        ValueError: `auto_pad` is set, or a sum doesn't fit int32.
    """
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise ValueError("auto_pad is not supported; export with explicit pads")
    outs, _, rows, columns = weight.ints.shape
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(x.ints, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spread = attributes.get("dilations", (1, 1))
    strides = attributes.get("strides", (1, 1))
    windows = _windows(padded, (rows, columns), strides, spread)
    sums = _products(windows, weight.ints, attributes.get("group", 1))
    step = x.step * (np.reshape(weight.step, (1, outs, 1, 1)) if np.ndim(weight.step) else weight.step)
    return _biased(sums, step, bias, (1, outs, 1, 1))


def _windows(padded: np.ndarray, kernel: tuple[int, int], strides: Any, spread: Any) -> np.ndarray:
    """A view (B, C, out rows, out columns, kernel rows, kernel columns)."""
    reach = ((kernel[0] - 1) * spread[0] + 1, (kernel[1] - 1) * spread[1] + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))  # type: ignore[call-overload]
    return np.asarray(view[:, :, :: strides[0], :: strides[1], :: spread[0], :: spread[1]])


def _products(windows: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    batch, channels, rows, columns = windows.shape[:4]
    if groups == channels and weight.shape[1] == 1:  # depthwise
        spread = np.repeat(windows, weight.shape[0] // channels, axis=1)
        return np.einsum("bchwij,cij->bchw", spread, weight[:, 0], optimize=False)
    parts = []
    per_group = channels // groups
    for group, own in enumerate(np.split(weight, groups)):
        taken = windows[:, group * per_group : (group + 1) * per_group]
        patches = taken.transpose(0, 2, 3, 1, 4, 5).reshape(batch * rows * columns, -1)
        sums = patches @ own.reshape(len(own), -1).T
        parts.append(sums.reshape(batch, rows, columns, len(own)).transpose(0, 3, 1, 2))
    return np.concatenate(parts, 1)


def _biased(sums: np.ndarray, step: Any, bias: Value | None, shape: tuple[int, ...]) -> Value:
    integer = not (np.ndim(step) == 0 and step == 1.0)
    if bias is None:
        return Value(_checked(sums) if integer else sums, step)
    if integer and not bias.is_real:
        return Value(_checked(sums + bias.ints.reshape(shape)), step)
    return Value(sums * step + bias.real.reshape(shape))


def gemm(attributes: Attributes, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """(M, K) by (K, N), or (N, K) with `transB`, to (M, N); the bias is (N,).

    Raises:
        ValueError: another option is set, or a sum doesn't fit int32.
    """
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise ValueError("transA, alpha and beta are not supported")
    matrix, step = weight.ints, weight.step
    if attributes.get("transB"):
        matrix, step = matrix.T, step.T if np.ndim(step) else step
    return _biased(x.ints @ matrix, x.step * step, bias, (1, -1))


def matmul(attributes: Attributes, x: Value, other: Value) -> Value:
    return _biased(x.ints @ other.ints, x.step * other.step, None, ())


def add(attributes: Attributes, one: Value, other: Value) -> Value:
    return Value(one.real + other.real)


def subtract(attributes: Attributes, one: Value, other: Value) -> Value:
    return Value(one.real - other.real)


def multiply(attributes: Attributes, one: Value, other: Value) -> Value:
    return Value(one.ints * other.ints, one.step * other.step)


def divide(attributes: Attributes, one: Value, other: Value) -> Value:
    return Value(one.real / other.real)


def relu(attributes: Attributes, x: Value) -> Value:
    return Value(np.maximum(x.ints, 0), x.step)


def clip(attributes: Attributes, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    least = -math.inf if low is None else float(low.real)
    return Value(np.clip(x.real, least, math.inf if high is None else float(high.real)))


def sigmoid(attributes: Attributes, x: Value) -> Value:
    small = np.exp(-np.abs(x.real))  # never overflows
    return Value(np.where(x.real >= 0, 1 / (1 + small), small / (1 + small)))


def hard_sigmoid(attributes: Attributes, x: Value) -> Value:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return Value(np.clip(alpha * x.real + beta, 0, 1))


def hard_swish(attributes: Attributes, x: Value) -> Value:
    return Value(x.real * np.clip(x.real / 6 + 0.5, 0, 1))


def leaky_relu(attributes: Attributes, x: Value) -> Value:
    return Value(np.where(x.real >= 0, x.real, attributes.get("alpha", 0.01) * x.real))


def tanh(attributes: Attributes, x: Value) -> Value:
    return Value(np.tanh(x.real))


def exponential(attributes: Attributes, x: Value) -> Value:
    return Value(np.exp(x.real))


def softmax(attributes: Attributes, x: Value) -> Value:
    axis = attributes.get("axis", -1)
    powers = np.exp(x.real - x.real.max(axis, keepdims=True))
    return Value(powers / powers.sum(axis, keepdims=True))


def max_pool(attributes: Attributes, x: Value) -> Value:
    _plain_pool(attributes)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(x.ints, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    kernel, spread = attributes["kernel_shape"], attributes.get("dilations", (1, 1))
    windows = _windows(padded, (kernel[0], kernel[1]), attributes.get("strides", (1, 1)), spread)
    return Value(windows.max((4, 5)), x.step)


def average_pool(attributes: Attributes, x: Value) -> Value:
    _plain_pool(attributes)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    margins = ((0, 0), (0, 0), (top, bottom), (left, right))
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", (1, 1))
    sums = _windows(np.pad(x.ints, margins), (kernel[0], kernel[1]), strides, (1, 1)).sum((4, 5))
    inside = np.full(x.ints[:1, :1].shape, 1.0)
    counted = np.pad(inside, margins, constant_values=float(bool(attributes.get("count_include_pad"))))
    counts = _windows(counted, (kernel[0], kernel[1]), strides, (1, 1)).sum((4, 5))
    return Value(_checked(sums), x.step / counts)


def _plain_pool(attributes: Attributes) -> None:
    if attributes.get("ceil_mode") or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise ValueError("ceil_mode and auto_pad are not supported; export with explicit pads")


def global_average_pool(attributes: Attributes, x: Value) -> Value:
    return Value(_checked(x.ints.sum((2, 3), keepdims=True)), x.step / math.prod(x.ints.shape[2:]))


def reduce_mean(attributes: Attributes, x: Value, axes: np.ndarray | None = None) -> Value:
    """Means over `axes`, int64 (K,), or over the attribute's, or over all.

    Raises:
        ValueError: a sum doesn't fit int32.
    """
    chosen = axes.tolist() if axes is not None else attributes.get("axes", range(x.ints.ndim))
    keep = bool(attributes.get("keepdims", 1))
    count = math.prod(x.ints.shape[axis] for axis in chosen)
    return Value(_checked(x.ints.sum(tuple(chosen), keepdims=keep)), x.step / count)


def resize(attributes: Attributes, x: Value, *settings: Any) -> Value | None:
    """Nearest by whole factors, in which all conventions agree; None for others, which ONNX's reference does."""
    scales = next((s.real for s in settings[1:2] if isinstance(s, Value) and s.ints.size), None)
    if scales is None and len(settings) > 2 and isinstance(settings[2], np.ndarray):
        scales = settings[2] / np.array(x.ints.shape)
    if attributes.get("mode", b"nearest") != b"nearest" or scales is None:
        return None
    factors = [int(scale) for scale in scales]
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    if any(f != s for f, s in zip(factors, scales, strict=True)) or mode not in (b"half_pixel", b"asymmetric"):
        return None
    if mode == b"asymmetric" and attributes.get("nearest_mode", b"round_prefer_floor") != b"floor":
        return None
    ints = x.ints
    for axis, factor in enumerate(factors):
        ints = np.repeat(ints, factor, axis)
    return Value(ints, x.step) if np.ndim(x.step) == 0 else None


OPERATORS: dict[str, Callable[..., Value | None]] = {
    "Add": add,
    "AveragePool": average_pool,
    "Clip": clip,
    "Conv": conv,
    "Div": divide,
    "Exp": exponential,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mul": multiply,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Resize": resize,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Sub": subtract,
    "Tanh": tanh,
}
