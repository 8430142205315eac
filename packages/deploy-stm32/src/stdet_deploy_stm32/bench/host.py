"""Latency of a model on this computer, through onnxruntime."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime

from stdet.artifacts import sha256_file
from stdet.interfaces.deploy import BenchReport, Progress
from stdet_deploy_stm32.onnx_graph.session import THREADS, new_session, random_inputs
from stdet_deploy_stm32.onnx_graph.surgery import own_constants
from stdet_deploy_stm32.onnx_graph.view import QDQ, load_model

WARM_UP = 5
RUNS = 60


def processor_name() -> str:
    """The CPU's marketing name where the system tells, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def bench_host(path: Path, progress: Progress | None = None, runs: int = RUNS, threads: int = THREADS) -> BenchReport:
    """Median, 10th and 90th percentile of `runs` inferences of one image after a warm-up.

    Raises:
        ArtifactError: not a model that onnxruntime runs.
    """
    model = load_model(path)
    quantized = any(node.op_type in QDQ for node in model.graph.node)
    if quantized:
        own_constants(model)
    session = new_session(model.SerializeToString() if quantized else path, threads)
    feeds = random_inputs(session)
    times_ms = []
    for index in range(WARM_UP + runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times_ms.append((time.perf_counter() - start) * 1e3)
        if progress is not None:
            progress(index + 1, WARM_UP + runs)
    p10, median, p90 = np.percentile(times_ms[WARM_UP:], [10, 50, 90])
    notes = [f"{runs} runs after {WARM_UP} to warm up, batch 1, {threads} thread(s)"]
    if quantized:
        notes.append(
            "onnxruntime's int8 kernels on a PC are often slower than float: this is not the speed on the device"
        )
    return BenchReport(
        model=path.name,
        sha256=sha256_file(path),
        backend="host",
        tool="onnxruntime",
        version=onnxruntime.__version__,
        latency_ms=float(median),
        latency_p10_ms=float(p10),
        latency_p90_ms=float(p90),
        latency_kind="measured",
        device=f"host CPU ({processor_name()})",
        threads=threads,
        notes=tuple(notes),
        details={"runs": runs, "warm_up": WARM_UP},
    )
