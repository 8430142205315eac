"""The stages of a run: each reads a model file, writes a file or a report, and knows nothing of the others."""

from __future__ import annotations

import time
from collections.abc import Callable

from stdet.nn.distributed import from_main, is_main
from stdet.runs.results import StageResult
from stdet.stages import bench, deploy, evaluate, export, predict, quantize, train
from stdet.stages.run import Run
from stdet.stages.track import track

WORK: dict[str, Callable[[Run], None]] = {
    "train": train.train,
    "export": export.export,
    "evaluate": evaluate.evaluate,
    "quantize": quantize.quantize,
    "predict": predict.predict,
    "bench": bench.bench,
    "deploy": deploy.deploy,
}
"""What each stage does, by the name that modes call it."""
SHARED = frozenset({"train", "evaluate"})
"""Stages that several processes do together; the others are the main process's alone."""


def do(name: str, run: Run) -> None:
    """Do the stage `name`; every process ends up with the main process's model file."""
    run.reporter.stage(name)
    begun = time.monotonic()
    known = set(map(id, run.record.results.values()))
    new: list[StageResult] = []
    try:
        if is_main() or name in SHARED:
            WORK[name](run)
    finally:
        new += [result for result in run.record.results.values() if id(result) not in known]
        for result in new:
            track(run.tracker, result, run.folder)
    run.model, run.float_onnx = from_main(lambda: (run.model, run.float_onnx))
    names = [result.name for result in new]
    run.record.finish(name, names, time.monotonic() - begun, run.model, run.float_onnx)
