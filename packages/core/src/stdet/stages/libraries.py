"""Which extras a run needs: told before its first stage, not after hours of training."""

from __future__ import annotations

from collections.abc import Collection

from stdet.config import Config
from stdet.extras import command, has, need


def check_libraries(config: Config, stages: Collection[str]) -> list[str]:
    """Look for what `stages` need.

    Returns:
        What is left out for want of a library that only adds to the results, a sentence each.

    Raises:
        MissingExtraError: a stage can't do without a library.
    """
    if "export" in stages:
        need("onnxruntime", "exporting to ONNX")
    notes = []
    if "train" in stages and config.general.logger == "tensorboard" and not has("tensorboard"):
        notes.append(f"no TensorBoard curves: tensorboard is not installed ({command('tensorboard')})")
    if {"train", "evaluate"} & set(stages) and not has("matplotlib"):
        notes.append(f"curves are not drawn: matplotlib is not installed ({command('matplotlib')})")
    return notes
