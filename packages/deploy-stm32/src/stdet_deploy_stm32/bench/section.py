"""The `benchmarking` section of STM32 targets. No torch here, and nothing of ONNX: it is imported to check a config."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from stdet.interfaces import target


class Benchmarking(target.Benchmarking):
    """With what STM32 boards know of it."""

    memory_pool: Path | None = Field(
        None, description=".mpool file whose pools of internal RAM replace those of the board's profile"
    )
