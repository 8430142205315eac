"""STResNet backbones: a residual network whose larger convolutions are factorised (arXiv 2601.05364).

A "chain" is the Tucker-2 factorisation of one convolution into 1x1, kxk, 1x1 without norm or activation in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from stdet.nn.layers import BatchNorm

Rank = int | None
"""Inner channels of a chain; None for a plain convolution."""


@dataclass(frozen=True)
class BlockRanks:
    """The ranks of a residual block's two 3x3 convolutions and of its shortcut."""

    conv1: Rank = None
    conv2: Rank = None
    shortcut: Rank = None


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, rank: Rank = None) -> nn.Module:
    """A convolution without bias, or its chain with `rank` inner channels."""
    padding = kernel // 2
    if rank is None:
        return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_channels, rank, 1, bias=False),
        nn.Conv2d(rank, rank, kernel, stride, padding, bias=False),
        nn.Conv2d(rank, out_channels, 1, bias=False),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, ReLU (ResNet, arXiv 1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, ranks: BlockRanks) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride, ranks.conv1)
        self.bn1 = BatchNorm(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(out_channels, out_channels, 3, 1, ranks.conv2)
        self.bn2 = BatchNorm(out_channels)
        self.act2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            shortcut = _conv(in_channels, out_channels, 1, stride, ranks.shortcut)
            self.downsample = nn.Sequential(shortcut, BatchNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.downsample(x))


class StResNet(nn.Module):
    """Stem, then four stages of two residual blocks with 64, 128, 256 and 512 channels.

    `forward` returns the outputs of stages 2, 3 and 4: strides 8, 16, 32 with 128, 256, 512 channels.
    """

    CHANNELS = (64, 128, 256, 512)

    def __init__(self, in_channels: int, stem_channels: int, ranks: Sequence[tuple[BlockRanks, BlockRanks]]) -> None:
        """Args:
        in_channels: of the images; the first convolution makes three of them.
        stem_channels: channels after the stem; a projection follows when they aren't 64.
        ranks: of the two blocks of each of the four stages.
        """
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 3, 1, bias=False),
            nn.Conv2d(3, 16, 7, 2, 3, bias=False),
            nn.Conv2d(16, stem_channels, 1, bias=False),
        )
        self.bn1 = BatchNorm(stem_channels)
        self.act1 = nn.ReLU()
        needs_projection = stem_channels != self.CHANNELS[0]
        self.proj = nn.Conv2d(stem_channels, self.CHANNELS[0], 1, bias=False) if needs_projection else nn.Identity()
        in_channels = self.CHANNELS[0]
        for stage, (out_channels, (first, second)) in enumerate(zip(self.CHANNELS, ranks, strict=True), 1):
            stride = 1 if stage == 1 else 2
            blocks = nn.Sequential(
                ResidualBlock(in_channels, out_channels, stride, first),
                ResidualBlock(out_channels, out_channels, 1, second),
            )
            self.add_module(f"layer{stage}", blocks)
            in_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) to (B, 128, H / 8, W / 8), (B, 256, H / 16, W / 16) and (B, 512, H / 32, W / 32)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.proj(F.max_pool2d(x, 3, 2, 1))
        x = self.get_submodule("layer1")(x)
        stage2 = self.get_submodule("layer2")(x)
        stage3 = self.get_submodule("layer3")(stage2)
        return stage2, stage3, self.get_submodule("layer4")(stage3)
