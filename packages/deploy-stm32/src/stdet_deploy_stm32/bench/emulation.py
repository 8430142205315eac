"""The backend `emulator`: instructions of a network's C code on an emulated core, and whose answers it gives."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdet.artifacts import sha256_file
from stdet.data.folder import ImageFolder
from stdet.data.preprocess import normalize, prepare
from stdet.errors import DataError, ModelError, StdetError
from stdet.export.metadata import read_spec
from stdet.interfaces.dataset import DatasetRequest
from stdet.interfaces.deploy import BenchReport, Progress
from stdet_deploy_stm32.bench.emulator import MACHINES, CNetwork, Machine
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.firmware.facts import Tensor
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.onnx_graph.surgery import is_quantized
from stdet_deploy_stm32.onnx_graph.view import load_model

IMAGES = 2
STEPS = 5
"""Of work, for the progress: translate, build here, build for the core, run on both."""
Answers = Sequence[Sequence[np.ndarray]]


def machine_of(board: Board) -> Machine:
    """The machine that stands for a board's core; the Cortex-M55 for the board without a core of its own.

    Raises:
        StdetError: no emulated machine has that core.
    """
    core = "Cortex-M55" if board.cpu == "Cortex-M" else board.cpu
    if core not in MACHINES:
        raise StdetError(
            f"the emulator has no {core}, the core of {board.name}",
            f"boards with {', '.join(MACHINES)} can be emulated",
        )
    return MACHINES[core]


def bench_emulator(
    path: Path, board: Board, progress: Progress | None = None, folder: Path | None = None
) -> BenchReport:
    """Instructions, code and data size on the board's core; how many output values differ from those of others.

    Args:
        folder: of the images to feed; None feeds noise: the count depends on the network, hardly on what it sees.

    Raises:
        StdetError: a tool is missing, the board's core has no machine, or the code doesn't build or run.
        DataError: `folder` has no image.
        ModelError: the model can't be translated.
    """
    machine, model = machine_of(board), load_model(path)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, STEPS)

    with tempfile.TemporaryDirectory(prefix="stdet-emulator-") as scratch:
        network = CNetwork(path, Path(scratch))
        tell(1)
        images = noise(network.input, IMAGES) if folder is None else photographs(path, network.input, folder)
        host = network.build(None)
        tell(2)
        program = network.build(machine)
        tell(3)
        here = network.run(host, images).outputs
        tell(4)
        ran = network.run(program, images)
        tell(5)
    session = new_session(path, optimize=False)
    names = [output.name for output in network.outputs]
    theirs = [session.run(names, {network.input.name: image}) for image in images]
    details: dict[str, Any] = {
        "core": machine.core,
        "machine": machine.name,
        "images": "noise" if folder is None else str(folder),
        "instructions_per_image": list(ran.network),
        "code_bytes": program.code_bytes,
        "data_bytes": program.data_bytes,
        "differs_from_host_build": compare(ran.outputs, here, network.outputs),
        "differs_from_onnxruntime": compare(ran.outputs, theirs, network.outputs),
    }
    if is_quantized(model):
        reference = IntegerReference(model)
        answers = [[reference.run({network.input.name: i}).outputs[n] for n in names] for i in images]
        details["differs_from_reference"] = compare(ran.outputs, answers, network.outputs)
    return BenchReport(
        model=path.name,
        sha256=sha256_file(path),
        backend="emulator",
        tool="emx-onnx-cgen, GCC, QEMU",
        version=network.emx_version,
        instructions=max(ran.network),
        device=f"emulated {machine.core} ({machine.name})",
        latency_reason="an emulator counts instructions and knows nothing of time",
        provenance="counted by the core's timer in QEMU, one instruction a nanosecond; portable C of emx-onnx-cgen, -O2",
        notes=(_said(details["differs_from_host_build"]),),
        details=details,
    )


def noise(tensor: Tensor, count: int) -> list[np.ndarray]:
    """The same pixels each time, 0..127, in a tensor's shape and type."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 128, tensor.shape).astype(tensor.dtype) for _ in range(count)]


def open_folder(folder: Path, alpha: bool = False) -> ImageFolder:
    """The images of `benchmarking.images`.

    Raises:
        DataError: the folder isn't there or has no image, or one can't be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"benchmarking.images: no folder at {folder}", "paths are relative to the folder you run stdet in"
        )
    found = ImageFolder(DatasetRequest("prediction", images_path=folder, keep_alpha=alpha))
    if not len(found):
        raise DataError(f"benchmarking.images: {folder} holds no image", "name a folder with images")
    return found


def photographs(model: Path, tensor: Tensor, folder: Path, count: int = IMAGES) -> list[np.ndarray]:
    """The first images of a folder as the network is fed them: in a tensor's shape and type.

    Raises:
        ModelError: the file doesn't say its preprocessing, so nobody knows what it is fed.
        DataError: the folder isn't there or has no image, or one can't be read.
    """
    spec = read_spec(model)
    if spec is None:
        raise ModelError(
            f"{model.name} doesn't say its preprocessing", "leave out benchmarking.images: noise is fed then"
        )
    found = open_folder(folder, spec.preprocess.color_mode == "rgba")
    pixels = (prepare(found.read_image(i), spec.preprocess)[0] for i in range(min(count, len(found))))
    return [tensor.quantize(normalize(p[None], spec.preprocess)) for p in pixels]


def compare(one: Answers, other: Answers, tensors: Sequence[Tensor]) -> dict[str, float | int]:
    """How many output values differ, and by how much at most, in the tensors' values (not steps).

    Args:
        one, other: for each image the outputs, in the shapes and types that `tensors` say.
    """
    values = differing = 0
    largest = 0.0
    for mine, yours in zip(one, other, strict=True):
        for a, b, tensor in zip(mine, yours, tensors, strict=True):
            off = np.abs(tensor.dequantize(a) - tensor.dequantize(b))
            values += off.size
            differing += int(np.count_nonzero(off))
            largest = max(largest, float(off.max()))
    return {"values": values, "differing": differing, "largest": largest}


def _said(difference: dict[str, float | int]) -> str:
    if difference["differing"] == 0:
        return f"all {difference['values']} output values equal the host build's, bit for bit"
    return f"{difference['differing']} of {difference['values']} output values differ from the host build's"
