"""Curves and pictures as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdet.interfaces.tracker import Outcome

PICTURES = (".png", ".jpg")


class TensorBoardTracker:
    """Curves, pictures and the config as event files in `folder`. Needs the `tensorboard` extra of stdet-core."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def params(self, params: Mapping[str, Any]) -> None:
        lines = (f"| {key} | {value} |" for key, value in params.items())
        self._writer.add_text("config", "\n".join(["| key | value |", "|---|---|", *lines]))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def file(self, path: Path) -> None:
        """Pictures (curves, detections beside the truth) are shown; other files have no place here."""
        if path.suffix in PICTURES:
            import cv2

            pixels = cv2.imread(str(path))
            if pixels is not None:
                self._writer.add_image(path.stem, pixels[..., ::-1].copy(), dataformats="HWC")

    def close(self, outcome: Outcome) -> None:
        self._writer.close()
