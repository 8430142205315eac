"""Mixed precision by what the device can really do: bfloat16 on processors that have it, float16 with a scaler on CUDA."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Processor features without which bfloat16 is emulated and slower than float32."""


@dataclass(frozen=True)
class Precision:
    """How a training step computes.

    Attributes:
        device_type: `cpu` or `cuda`.
        dtype: of the autocast region, or None for plain float32.
        scaler: scales the loss under float16; does nothing otherwise.
        description: for people: what was chosen and why.
    """

    device_type: str
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler
    description: str

    def autocast(self) -> AbstractContextManager[None]:
        """The context of the forward pass."""
        return torch.autocast(self.device_type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def choose_precision(device: str, mixed: bool) -> Precision:
    """The precision for `device` when the config asks (`mixed`, key `training.fp16`) for faster arithmetic."""
    kind = torch.device(device).type
    dtype = None
    description = "float32"
    if mixed and kind == "cuda":
        dtype, description = torch.float16, "float16 autocast with gradient scaling"
    elif mixed and cpu_has_bfloat16():
        dtype, description = torch.bfloat16, "bfloat16 autocast"
    elif mixed:
        description = f"float32 (fp16 asked for, but this processor has none of {', '.join(BF16_FLAGS)})"
    scaler = torch.amp.GradScaler(kind, enabled=dtype is torch.float16)
    return Precision(kind, dtype, scaler, description)


def cpu_has_bfloat16() -> bool:
    """True if the processor computes bfloat16 in hardware; False also where the system doesn't tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return any(flag in flags.split() for flag in BF16_FLAGS)
