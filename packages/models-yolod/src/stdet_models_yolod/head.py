"""Decoupled anchor-free head (YOLOX, arXiv 2107.08430)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from stdet_models_yolod.blocks import Activation, ConvBnAct, DepthwiseConv

PRIOR_PROBABILITY = 0.01
"""Score that a fresh head gives everywhere (RetinaNet, arXiv 1708.02002), so that background doesn't swamp the loss."""


class DecoupledHead(nn.Module):
    """One branch for classes, one for box and objectness, at each of three levels."""

    def __init__(self, num_classes: int, in_channels: tuple[int, int, int], hidden: int, act: Activation) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(DepthwiseConv(hidden, hidden, 3, 1, act), DepthwiseConv(hidden, hidden, 3, 1, act))

        self.cls_convs = nn.ModuleList(branch() for _ in in_channels)
        self.reg_convs = nn.ModuleList(branch() for _ in in_channels)
        self.cls_preds = nn.ModuleList(nn.Conv2d(hidden, num_classes, 1) for _ in in_channels)
        self.reg_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in in_channels)
        self.obj_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in in_channels)
        self.stems = nn.ModuleList(ConvBnAct(channels, hidden, 1, 1, act) for channels in in_channels)
        bias = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for prediction in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(prediction.bias, bias)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Per level box (B, 4, h, w), objectness logit (B, 1, h, w), class logits (B, num_classes, h, w): nine tensors."""
        outputs: list[Tensor] = []
        for level, feature in enumerate(features):
            x = self.stems[level](feature)
            regression = self.reg_convs[level](x)
            outputs += [
                self.reg_preds[level](regression),
                self.obj_preds[level](regression),
                self.cls_preds[level](self.cls_convs[level](x)),
            ]
        return tuple(outputs)
