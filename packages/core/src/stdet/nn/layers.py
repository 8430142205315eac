"""Layers that train where torch's own don't: on maps of a single pixel, and in bfloat16 on a CPU. Same keys, same values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that also trains on a single value a channel.

    Six levels down an input of 300 px is one pixel, and so is what squeeze-and-excitation sees: with a batch of one there
    is no variance to take, and torch refuses. Such a call normalises with the running statistics, as in evaluation, and
    leaves them as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """float (B, C, H, W) to the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution that stays in float32 where bfloat16 is slower or wrong.

    On CPUs, oneDNN has no fast bfloat16 kernel for 5 x 5 windows, nor for channels that don't fill its blocks of 16: they
    take two to three times as long as in float32, and most of a MobileNetV3's training step. And on maps smaller than the
    window, as the last levels of small inputs are, taps that see nothing but padding now and then get a gradient that is
    not 0 but anything, up to 1e26 (seen with torch 2.14): it becomes NaN in the weights, and torch never reads them.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, bias: bool = False) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias)
        self._slow_in_bfloat16 = kernel > 3 or channels % 16 != 0

    def forward(self, input: Tensor) -> Tensor:
        """float (B, C, H, W) to (B, O, H', W'); float32 where bfloat16 is unfit, else as autocast says."""
        unfit = self._slow_in_bfloat16 or min(input.shape[2:]) < self.kernel_size[0]
        if unfit and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)
