"""Layers for maps of a single pixel and for bfloat16."""

from __future__ import annotations

import pytest
import torch

from stdet.nn.layers import BatchNorm, DepthwiseConv2d


@pytest.mark.parametrize(
    ("channels", "kernel", "side", "dtype"),
    [(64, 3, 7, "bfloat16"), (64, 3, 3, "bfloat16"), (72, 3, 7, "float32"), (64, 5, 7, "float32")]
    + [(64, 3, side, "float32") for side in (1, 2)],
)
def test_depthwise_convolutions_that_bfloat16_slows_down_or_spoils_stay_in_float32(
    channels: int, kernel: int, side: int, dtype: str
) -> None:
    conv, x = DepthwiseConv2d(channels, kernel, 2), torch.randn(2, channels, 9, side)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = conv(x.bfloat16())
    assert mixed.dtype == getattr(torch, dtype)
    torch.testing.assert_close(mixed.float(), conv(x), atol=0.02, rtol=0.02)


def test_batch_norm_of_a_single_value_a_channel_is_that_of_evaluation() -> None:
    norm = BatchNorm(3).train()
    norm(torch.randn(4, 3, 2, 2))
    before, x = norm.running_var.clone(), torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), norm.eval()(x))
    assert torch.equal(norm.running_var, before)
