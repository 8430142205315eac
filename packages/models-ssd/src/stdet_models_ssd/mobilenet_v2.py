"""SSD on MobileNetV2 (arXiv 1801.04381): ssd_mobilenetv2_pt and ssdlite_mobilenetv2_pt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stdet.structures import DetectorSpec
from stdet_models_ssd.blocks import Backbone, conv_extra, conv_head, conv_norm, pointwise_head, scaled, separable_head
from stdet_models_ssd.detector import Ssd, width_of

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, out channels, blocks, stride of the first block)."""
TAP = 14
"""The block whose expanded map, before its stride of 2, is the first level."""
SSD_EXTRAS = ((512, 512), (256, 256), (256, 256), (64, 64))
SSDLITE_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 64))
"""(hidden, out channels)."""


class InvertedResidual(nn.Module):
    """1x1 expansion (left out when there is nothing to expand), depthwise 3x3, linear 1x1; skip where shapes allow."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, stride: int) -> None:
        super().__init__()
        expansion = conv_norm(in_channels, hidden, act=nn.ReLU6) if hidden != in_channels else []
        depthwise = conv_norm(hidden, hidden, 3, stride, act=nn.ReLU6, depthwise=True)
        self.conv = nn.Sequential(*expansion, *depthwise, *conv_norm(hidden, out_channels))
        self.skip = stride == 1 and in_channels == out_channels
        self._expansion = len(expansion)

    def expand(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, hidden, H, W): the first half, up to the depthwise convolution."""
        return self.conv[: self._expansion](x)

    def project(self, expanded: Tensor) -> Tensor:
        """(B, hidden, H, W) to (B, out, ceil(H / stride), ceil(W / stride)): the second half, without the skip."""
        return self.conv[self._expansion :](expanded)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        out = self.conv(x)
        return x + out if self.skip else out


class MobileNetV2(Backbone):
    """ReLU6; convolutions start as normal(0, sqrt(2 / (kernel area * out channels)))."""

    def __init__(self, in_channels: int, width_mult: float) -> None:
        channels = scaled(STEM, width_mult)
        layers: list[nn.Module] = [nn.Sequential(*conv_norm(in_channels, channels, 3, 2, act=nn.ReLU6))]
        tapped = 0
        for expansion, out, count, first_stride in STAGES:
            out = scaled(out, width_mult)
            for stride in (first_stride, *[1] * (count - 1)):
                if len(layers) == TAP:
                    tapped = channels * expansion
                layers.append(InvertedResidual(channels, channels * expansion, out, stride))
                channels = out
        last = scaled(LAST, max(1.0, width_mult))
        layers.append(nn.Sequential(*conv_norm(channels, last, act=nn.ReLU6)))
        super().__init__(layers, TAP, (tapped, last))
        _initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        expanded = x = images
        for index, layer in enumerate(self):
            if index == self.tap:
                assert isinstance(layer, InvertedResidual)
                expanded = layer.expand(x)
                x = layer.project(expanded)
            else:
                x = layer(x)
        return expanded, x


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            with torch.no_grad():
                module.weight.normal_(0, math.sqrt(2 / fan_out))


def inverted_extra(in_channels: int, hidden: int, out_channels: int) -> nn.Module:
    """The way to the next level as an inverted residual with stride 2."""
    return InvertedResidual(in_channels, hidden, out_channels, 2)


def build_ssd(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssd_mobilenetv2_pt; its published files hold no priors."""
    width = width_of(spec)
    extras = [(conv_extra, scaled(hidden, width), scaled(out, width)) for hidden, out in SSD_EXTRAS]
    backbone = MobileNetV2(spec.preprocess.channels, width)
    return Ssd(spec, backbone, extras, head=conv_head, last_head=pointwise_head, store_priors=False)


def build_ssdlite(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssdlite_mobilenetv2_pt."""
    width = width_of(spec)
    extras = [(inverted_extra, scaled(hidden, width), scaled(out, width)) for hidden, out in SSDLITE_EXTRAS]
    backbone = MobileNetV2(spec.preprocess.channels, width)
    return Ssd(spec, backbone, extras, head=separable_head, last_head=pointwise_head)
