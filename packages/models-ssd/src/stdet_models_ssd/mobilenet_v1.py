"""SSD on MobileNetV1 (arXiv 1704.04861): ssd_mobilenetv1_pt and ssdlite_mobilenetv1_pt."""

from __future__ import annotations

from torch import nn

from stdet.nn.layers import DepthwiseConv2d
from stdet.structures import DetectorSpec
from stdet_models_ssd.blocks import Backbone, conv_extra, conv_head, conv_norm, pointwise_head, scaled
from stdet_models_ssd.detector import Ssd, width_of

STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""(out channels, stride) of the depthwise-separable blocks."""
TAP = 11
EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))
"""(hidden, out channels)."""


def mobilenet_v1(in_channels: int, width_mult: float) -> Backbone:
    """BatchNorm and ReLU after every convolution; torch's own initialisation."""
    channels = scaled(STEM, width_mult)
    layers: list[nn.Module] = [nn.Sequential(*conv_norm(in_channels, channels, 3, 2, act=nn.ReLU))]
    widths = [channels]
    for out, stride in BLOCKS:
        out = scaled(out, width_mult)
        depthwise = conv_norm(channels, channels, 3, stride, act=nn.ReLU, depthwise=True)
        layers.append(nn.Sequential(*depthwise, *conv_norm(channels, out, act=nn.ReLU)))
        channels = out
        widths.append(out)
    return Backbone(layers, TAP, (widths[TAP], channels))


def separable_extra(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """1x1, ReLU, depthwise 3x3 with stride 2, ReLU, 1x1: all with bias, no BatchNorm, nothing after the last."""
    depthwise = DepthwiseConv2d(hidden, 3, 2, bias=True)
    separable = nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(hidden, out_channels, 1))
    return nn.Sequential(nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), separable)


def separable_head(in_channels: int, out_channels: int) -> nn.Module:
    """Depthwise 3x3, ReLU, 1x1, without BatchNorm: MobileNetV1's own."""
    depthwise = DepthwiseConv2d(in_channels, 3, bias=True)
    return nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1))


def build_ssd(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssd_mobilenetv1_pt."""
    width = width_of(spec)
    backbone = mobilenet_v1(spec.preprocess.channels, width)
    extras = [(conv_extra, scaled(hidden, width), scaled(out, width)) for hidden, out in EXTRAS]
    return Ssd(spec, backbone, extras, head=conv_head, last_head=conv_head)


def build_ssdlite(spec: DetectorSpec) -> Ssd:
    """A freshly initialised ssdlite_mobilenetv1_pt."""
    width = width_of(spec)
    backbone = mobilenet_v1(spec.preprocess.channels, width)
    extras = [(separable_extra, scaled(hidden, width), scaled(out, width)) for hidden, out in EXTRAS]
    return Ssd(spec, backbone, extras, head=separable_head, last_head=pointwise_head)
