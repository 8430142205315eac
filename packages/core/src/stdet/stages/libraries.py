"""Which extras and tools a run needs: told before its first stage, not after hours of training."""

from __future__ import annotations

from collections.abc import Collection

from stdet.build import Builder
from stdet.config import Config
from stdet.extras import command, has, need
from stdet.interfaces.target import HOST


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


def check_tools(builder: Builder) -> None:
    """Look for the external tools that the stages of the builder's config drive.

    Raises:
        StdetError: one is missing; the hint says what to install.
    """
    config, mode = builder.config, builder.config.mode
    backends = (config.benchmarking.backends or ()) if mode.benches else ()
    places = {config.evaluation.target} if mode.evaluates else set()
    places |= {config.prediction.target} if mode.predicts else set()
    if backends or places - {HOST}:
        builder.target().check_tools(backends, places - {HOST})
