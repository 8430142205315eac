"""Runs ONNX graphs on this computer, through onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, ValueInfoProto

from stdet.errors import ArtifactError
from stdet_deploy_stm32.process_memory import return_memory

THREADS = 1
_ROUNDS_FLOAT_WEIGHTS = "WeightBiasQuantization"
"""Optimizer that makes float weights beside quantized activations 8-bit ones: another model than the one that is written."""
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
        session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], disabled_optimizers=[_ROUNDS_FLOAT_WEIGHTS]
        )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        name = "the model" if isinstance(model, bytes) else str(model)
        raise ArtifactError(f"onnxruntime cannot load {name}: {error}") from error
    return_memory()  # of the file as it was parsed
    return session


@contextmanager
def running(model: Path) -> Iterator[None]:
    """What onnxruntime raises while `model` is worked on is that model's fault, not ours.

    Raises:
        ArtifactError: onnxruntime refused a graph or failed on it.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):  # its exceptions share no public base class
            raise
        raise ArtifactError(
            f"{model} can't be run: {error}", "look at the node that is named, and export the model again"
        ) from error


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


def watching(model: ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session whose outputs are the tensors `names`; it computes what is written, node by node, on all cores."""
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return new_session(watched.SerializeToString(), os.cpu_count() or 1, optimize=False)
