"""Latency of a model on this computer, through onnxruntime."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime

from stdet.artifacts import sha256_file
from stdet.errors import ArtifactError
from stdet.interfaces.deploy import BenchReport, Progress
from stdet_deploy_stm32.graph import QDQ, load_model
from stdet_deploy_stm32.memory import return_memory

WARM_UP = 5
RUNS = 60
THREADS = 1
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def new_session(model: Path | bytes, threads: int = THREADS, optimize: bool = True) -> onnxruntime.InferenceSession:
    """A CPU session that doesn't spin while it waits, so that others on the machine aren't slowed down.

    Raises:
        ArtifactError: onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # without it, int8 products saturate at 16 bits on x86 processors that lack VNNI: wrong by dozens of steps
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False  # it grows by doubling; whoever looks at every tensor counts the bytes
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        name = "the model" if isinstance(model, bytes) else str(model)
        raise ArtifactError(f"onnxruntime cannot load {name}: {error}") from error
    return_memory()  # of the file as it was parsed
    return session


def random_inputs(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """The same noise each time, in the type and shape of the session's inputs; a dynamic dimension becomes 1.

    Raises:
        ArtifactError: an input type that images don't have.
    """
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        if value.type not in _DTYPES:
            raise ArtifactError(f"model input `{value.name}` is {value.type}; allowed: {', '.join(_DTYPES)}")
        shape = [dim if isinstance(dim, int) else 1 for dim in value.shape]
        noise = rng.integers(0, 127, shape)
        feeds[value.name] = noise.astype(_DTYPES[value.type])
    return feeds


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
    quantized = any(node.op_type in QDQ for node in load_model(path).graph.node)
    session = new_session(path, threads)
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
