"""The stages of a run: each reads a model file, writes a file or a report, and knows nothing of the others."""

from __future__ import annotations

from stdet.nn.distributed import from_main, is_main
from stdet.stages.bench import bench
from stdet.stages.evaluate import evaluate
from stdet.stages.export import export
from stdet.stages.predict import predict
from stdet.stages.quantize import quantize
from stdet.stages.run import Run
from stdet.stages.train import train

STAGES = {stage.__name__: stage for stage in (train, export, evaluate, quantize, predict, bench)}
SHARED = frozenset({"train", "evaluate"})
"""Stages that several processes do together; the others are the main process's alone."""


def do(name: str, run: Run) -> None:
    """Do the stage `name`; every process ends up with the main process's model file."""
    run.reporter.stage(name)
    if is_main() or name in SHARED:
        STAGES[name](run)
    run.model, run.float_onnx = from_main(lambda: (run.model, run.float_onnx))
