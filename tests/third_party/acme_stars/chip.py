"""A deploy target with a number format of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from acme_stars.facts import ChipBenchmarking, ChipQuantization
from stdet.artifacts import atomic_path, sha256_file
from stdet.errors import QuantizationError, StdetError
from stdet.export.metadata import QUANTIZATION_KEY
from stdet.interfaces.deploy import (
    BenchReport,
    CalibrationData,
    DeployTarget,
    Evaluator,
    Progress,
    QuantizationResult,
)
from stdet.interfaces.target import Quantization, TargetSections


class Chip(DeployTarget):
    """Rounds weights to `bits`; a weight costs `cycles_per_weight`."""

    name = "acme_chip"

    def __init__(self, sections: TargetSections) -> None:
        assert isinstance(sections.benchmarking, ChipBenchmarking)
        self._benchmarking = sections.benchmarking

    def quantize(
        self,
        model: Path,
        output: Path,
        calibration: CalibrationData | None,
        config: Quantization,
        progress: Progress | None = None,
        evaluator: Evaluator | None = None,
    ) -> QuantizationResult:
        assert isinstance(config, ChipQuantization)
        if calibration is None or not calibration.count:
            raise QuantizationError("no images to calibrate on")
        try:
            graph = onnx.load(model)
        except Exception as error:  # protobuf's own classes
            raise QuantizationError(f"{model} can't be read: {error}") from error
        for tensor in graph.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.size > 1:
                step = np.float32(max(np.abs(values).max(), 1e-9) / (2 ** (config.bits - 1) - 1))
                tensor.CopyFrom(numpy_helper.from_array(np.round(values / step) * step, tensor.name))
        fit = calibration.source != "random"
        record = {"bits": config.bits, "calibration": {"images": calibration.count, "fit_for_accuracy": fit}}
        kept = {p.key: p.value for p in graph.metadata_props}
        onnx.helper.set_model_props(graph, kept | {QUANTIZATION_KEY: json.dumps(record)})
        with atomic_path(output) as temporary:
            onnx.save(graph, temporary)
        return QuantizationResult(record)

    def bench(self, model: Path, backend: str, progress: Progress | None = None) -> BenchReport:
        if backend != "cycles":
            raise StdetError(f"no backend {backend}", "use cycles")
        weights = sum(int(np.prod(t.dims)) for t in onnx.load(model).graph.initializer)
        milliseconds = weights * self._benchmarking.cycles_per_weight / (self._benchmarking.clock_mhz * 1e3)
        return BenchReport(
            model=model.name,
            sha256=sha256_file(model),
            backend=backend,
            tool="acme",
            version="1.0",
            parameters=weights,
            latency_ms=milliseconds,
            latency_kind="model",
            device="acme chip",
        )
