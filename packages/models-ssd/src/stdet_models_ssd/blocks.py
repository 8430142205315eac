"""The pieces that the MobileNet backbones, extras and heads share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from stdet.nn.layers import BatchNorm, DepthwiseConv2d

Activation = Callable[[], nn.Module]


class Backbone(nn.Sequential):
    """Layers in a row that return two maps: what layer `tap` gives (stride 16), and the last one (stride 32).

    Attributes:
        out_channels: of the two maps.
    """

    def __init__(self, layers: list[nn.Module], tap: int, out_channels: tuple[int, int]) -> None:
        super().__init__(*layers)
        self.tap = tap
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """float (B, C, H, W) to (B, C0, ceil(H / 16), ceil(W / 16)) and (B, C1, ceil(H / 32), ceil(W / 32))."""
        tapped = x = images
        for index, layer in enumerate(self):
            x = layer(x)
            if index == self.tap:
                tapped = x
        return tapped, x


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    act: Activation | None = None,
    depthwise: bool = False,
) -> list[nn.Module]:
    """Convolution without bias, BatchNorm and, if given, an activation; sides become ceil(side / stride)."""
    conv = (
        DepthwiseConv2d(in_channels, kernel, stride)
        if depthwise
        else nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    )
    return [conv, BatchNorm(out_channels), *([act()] if act else [])]


def conv_extra(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """The `ssd` models' way to the next level: 1x1, then 3x3 with stride 2, both with bias and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out_channels, 3, 2, 1), nn.ReLU()
    )


def conv_head(in_channels: int, out_channels: int) -> nn.Module:
    """A 3x3 predictor."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def pointwise_head(in_channels: int, out_channels: int) -> nn.Module:
    """A 1x1 predictor, for the level that is a single pixel."""
    return nn.Conv2d(in_channels, out_channels, 1)


def separable_head(in_channels: int, out_channels: int) -> nn.Module:
    """Depthwise 3x3, BatchNorm, ReLU6, 1x1. The bias before BatchNorm does nothing, but published files hold it."""
    return nn.Sequential(
        DepthwiseConv2d(in_channels, 3, bias=True),
        BatchNorm(in_channels),
        nn.ReLU6(),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def scaled(channels: int, width_mult: float) -> int:
    """`channels * width_mult` as the MobileNets round it: to a multiple of 8, at least 8, never down by more than 10 %.

    `scaled(c, 1.0)` is c for every channel count of the six models.
    """
    exact = channels * width_mult
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded
