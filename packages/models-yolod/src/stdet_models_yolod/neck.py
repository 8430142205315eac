"""PAFPN neck (PANet, arXiv 1803.01534; YOLOX's variant with depthwise convolutions)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdet_models_yolod.blocks import Activation, ConvBnAct, CspLayer, DepthwiseConv


class Pafpn(nn.Module):
    """Features of strides 8, 16, 32 with (128, 256, 512) channels in, the same strides with `channels` out."""

    def __init__(self, channels: tuple[int, int, int], act: Activation) -> None:
        super().__init__()
        w1, w2, w3 = channels
        self.match_P3 = nn.Conv2d(128, w1, 1)
        self.match_P4 = nn.Conv2d(256, w2, 1)
        self.match_P5 = nn.Conv2d(512, w3, 1)
        self.lateral_conv0 = ConvBnAct(w3, w2, 1, 1, act)
        self.C3_p4 = CspLayer(2 * w2, w2, act)
        self.reduce_conv1 = ConvBnAct(w2, w1, 1, 1, act)
        self.C3_p3 = CspLayer(2 * w1, w1, act)
        self.bu_conv2 = DepthwiseConv(w1, w1, 3, 2, act)
        self.C3_n3 = CspLayer(2 * w1, w2, act)
        self.bu_conv1 = DepthwiseConv(w2, w2, 3, 2, act)
        self.C3_n4 = CspLayer(2 * w2, w3, act)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 128, H / 8, W / 8), (B, 256, H / 16, W / 16) and (B, 512, H / 32, W / 32), to `channels`."""
        p3, p4, p5 = self.match_P3(features[0]), self.match_P4(features[1]), self.match_P5(features[2])
        top = self.lateral_conv0(p5)
        middle = self.reduce_conv1(self.C3_p4(torch.cat((_upsample(top), p4), dim=1)))
        out3 = self.C3_p3(torch.cat((_upsample(middle), p3), dim=1))
        out4 = self.C3_n3(torch.cat((self.bu_conv2(out3), middle), dim=1))
        out5 = self.C3_n4(torch.cat((self.bu_conv1(out4), top), dim=1))
        return out3, out4, out5


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
