"""The convolution blocks that neck and head are built from (YOLOX, arXiv 2107.08430), with the published key names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stdet.nn.layers import BatchNorm, DepthwiseConv2d

Activation = Callable[[], nn.Module]
"""Makes a new activation module: one for each place, so that hooks and quantization can tell them apart."""

ACTIVATIONS: dict[str, Activation] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "lrelu": lambda: nn.LeakyReLU(0.1),
    "hardswish": nn.Hardswish,
}


class ConvBnAct(nn.Module):
    """Convolution without bias, BatchNorm, activation; padding keeps the size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, act: Activation, *, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.conv = (
            DepthwiseConv2d(in_channels, kernel, stride)
            if depthwise
            else nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        )
        self.bn = BatchNorm(out_channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        return self.act(self.bn(self.conv(x)))


class DepthwiseConv(nn.Module):
    """Depthwise `ConvBnAct`, then a pointwise one."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, act: Activation) -> None:
        super().__init__()
        self.dconv = ConvBnAct(in_channels, in_channels, kernel, stride, act, depthwise=True)
        self.pconv = ConvBnAct(in_channels, out_channels, 1, 1, act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        return self.pconv(self.dconv(x))


class Bottleneck(nn.Module):
    """1x1, then depthwise 3x3; without a shortcut, as the neck uses it."""

    def __init__(self, channels: int, act: Activation) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(channels, channels, 1, 1, act)
        self.conv2 = DepthwiseConv(channels, channels, 3, 1, act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.conv2(self.conv1(x))


class CspLayer(nn.Module):
    """Cross-stage partial block (CSPNet, arXiv 1911.11929): one half through a bottleneck, one half past it."""

    def __init__(self, in_channels: int, out_channels: int, act: Activation) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = ConvBnAct(in_channels, hidden, 1, 1, act)
        self.conv2 = ConvBnAct(in_channels, hidden, 1, 1, act)
        self.conv3 = ConvBnAct(2 * hidden, out_channels, 1, 1, act)
        self.m = nn.Sequential(Bottleneck(hidden, act))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))
