"""SSD on MobileNetV3 (arXiv 1905.02244) as published: ssdlite_mobilenetv3small_pt and ssdlite_mobilenetv3large_pt.

Unlike the paper, squeeze-and-excitation acts on the projected map and has BatchNorm, a block with stride 1 that changes
its channels has a projection on its shortcut, and the large network takes its last stride one block later.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from stdet.structures import DetectorSpec
from stdet_models_ssd.blocks import Activation, Backbone, conv_norm, pointwise_head, scaled, separable_head
from stdet_models_ssd.detector import Ssd, width_of

STEM = 16
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 64))
"""(hidden, out channels)."""


@dataclass(frozen=True)
class Row:
    """One block of the table: kernel, hidden and out channels, activation, squeeze-and-excitation, stride."""

    kernel: int
    hidden: int
    out: int
    act: Activation
    se: bool
    stride: int = 1


LARGE = (
    Row(3, 16, 16, nn.ReLU, False),
    Row(3, 64, 24, nn.ReLU, False, 2),
    Row(3, 72, 24, nn.ReLU, False),
    Row(5, 72, 40, nn.ReLU, True, 2),
    Row(5, 120, 40, nn.ReLU, True),
    Row(5, 120, 40, nn.ReLU, True),
    Row(3, 240, 80, nn.Hardswish, False, 2),
    Row(3, 200, 80, nn.Hardswish, False),
    Row(3, 184, 80, nn.Hardswish, False),
    Row(3, 184, 80, nn.Hardswish, False),
    Row(3, 480, 112, nn.Hardswish, True),
    Row(3, 672, 112, nn.Hardswish, True),
    Row(5, 672, 160, nn.Hardswish, True),
    Row(5, 672, 160, nn.Hardswish, True, 2),
    Row(5, 960, 160, nn.Hardswish, True),
)
SMALL = (
    Row(3, 16, 16, nn.ReLU, True, 2),
    Row(3, 72, 24, nn.ReLU, False, 2),
    Row(3, 88, 24, nn.ReLU, False),
    Row(5, 96, 40, nn.Hardswish, True, 2),
    Row(5, 240, 40, nn.Hardswish, True),
    Row(5, 240, 40, nn.Hardswish, True),
    Row(5, 120, 48, nn.Hardswish, True),
    Row(5, 144, 48, nn.Hardswish, True),
    Row(5, 288, 96, nn.Hardswish, True, 2),
    Row(5, 576, 96, nn.Hardswish, True),
    Row(5, 576, 96, nn.Hardswish, True),
)


class SqueezeExcitation(nn.Module):
    """Channel weights from the global mean: 1x1 to a quarter, BatchNorm, ReLU, 1x1 back, BatchNorm, hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeeze = conv_norm(channels, channels // 4, act=nn.ReLU)
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *squeeze, *conv_norm(channels // 4, channels, act=nn.Hardsigmoid)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, each channel times its weight, 0..1."""
        return x * self.se(x)


class V3Block(nn.Module):
    """Expand, depthwise, project; then squeeze-and-excitation; then the shortcut, at stride 1 only."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        self.se = SqueezeExcitation(row.out) if row.se else nn.Identity()
        self.conv1, self.bn1, self.act1 = conv_norm(in_channels, row.hidden, act=row.act)
        self.conv2, self.bn2, self.act2 = conv_norm(
            row.hidden, row.hidden, row.kernel, row.stride, act=row.act, depthwise=True
        )
        self.conv3, self.bn3 = conv_norm(row.hidden, row.out)
        self.skip = row.stride == 1
        projected = self.skip and in_channels != row.out
        self.shortcut = nn.Sequential(*conv_norm(in_channels, row.out) if projected else [])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return out + self.shortcut(x) if self.skip else out


def mobilenet_v3(in_channels: int, rows: tuple[Row, ...], tap: int, last: int, width_mult: float) -> Backbone:
    """Stem (layers 0, 1, 2), blocks, 1x1 tail of `last` channels; Kaiming-normal convolutions (fan out)."""
    channels = scaled(STEM, width_mult)
    layers = conv_norm(in_channels, channels, 3, 2, act=nn.Hardswish)
    tapped = 0
    for row in rows:
        row = _scaled_row(row, width_mult)
        if len(layers) == tap:
            tapped = row.out
        layers.append(V3Block(channels, row))
        channels = row.out
    last = scaled(last, width_mult)
    layers += conv_norm(channels, last, act=nn.Hardswish)
    backbone = Backbone(layers, tap, (tapped, last))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return backbone


def _scaled_row(row: Row, width_mult: float) -> Row:
    hidden, out = scaled(row.hidden, width_mult), scaled(row.out, width_mult)
    return Row(row.kernel, hidden, out, row.act, row.se, row.stride)


def v3_extra(in_channels: int, hidden: int, out_channels: int) -> nn.Module:
    """The way to the next level as a block with stride 2."""
    return V3Block(in_channels, Row(3, hidden, out_channels, nn.Hardswish, False, 2))


def _ssdlite(spec: DetectorSpec, rows: tuple[Row, ...], tap: int, last: int) -> Ssd:
    width = width_of(spec)
    extras = [(v3_extra, scaled(hidden, width), scaled(out, width)) for hidden, out in EXTRAS]
    backbone = mobilenet_v3(spec.preprocess.channels, rows, tap, last, width)
    return Ssd(spec, backbone, extras, head=separable_head, last_head=pointwise_head)


def build_small(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssdlite_mobilenetv3small_pt."""
    return _ssdlite(spec, SMALL, tap=10, last=576)


def build_large(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssdlite_mobilenetv3large_pt."""
    return _ssdlite(spec, LARGE, tap=14, last=960)
