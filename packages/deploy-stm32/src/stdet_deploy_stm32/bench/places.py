"""Where a model can run instead of in onnxruntime, to be scored: the integer reference, and the network's C code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from stdet.errors import ModelError
from stdet.interfaces.deploy import PlacedNetwork
from stdet_deploy_stm32.bench.emulator import CNetwork, Program
from stdet_deploy_stm32.firmware.facts import Tensor, tensors_of
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.surgery import is_quantized
from stdet_deploy_stm32.onnx_graph.view import load_model

Answers = Callable[[Sequence[np.ndarray]], Sequence[Sequence[np.ndarray]]]
"""Inputs in the network's own type to its outputs in theirs, for each input."""


def reference(model: Path, folder: Path) -> PlacedNetwork:
    """The integer reference of a quantized ONNX file; it leaves nothing in `folder`.

    Raises:
        ModelError: the file isn't quantized, or has something that the reference doesn't know.
    """
    loaded = load_model(model)
    if not is_quantized(loaded):
        raise ModelError(
            f"{model} isn't quantized; the integer reference computes int8 files", "quantize it, or use target: host"
        )
    integers = IntegerReference(loaded)
    inputs, outputs = tensors_of(loaded)

    def run(images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        answers = [integers.run({inputs[0].name: image}).outputs for image in images]
        return [[answer[output.name] for output in outputs] for answer in answers]

    return _placed(run, inputs[0], outputs)


def c_host(model: Path, folder: Path) -> PlacedNetwork:
    """The C code of an ONNX file, built for this computer in `folder`.

    Raises:
        StdetError: a tool is missing, or the code doesn't build.
        ModelError: the model can't be translated.
    """
    network = CNetwork(model, folder)
    return of_program(network, network.build(None))


def of_program(network: CNetwork, program: Program) -> PlacedNetwork:
    """The C code of a network, built for this computer or for an emulated core."""
    return _placed(lambda images: network.run(program, images).outputs, network.input, network.outputs)


PLACES: Mapping[str, Callable[[Path, Path], PlacedNetwork]] = {"reference": reference, "c_host": c_host}
"""By the value of `evaluation.target` and `prediction.target`."""


def _placed(run: Answers, input: Tensor, outputs: Sequence[Tensor]) -> PlacedNetwork:
    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        answers = run([input.quantize(image[None]) for image in images])
        return {
            output.name: np.concatenate([output.dequantize(each[i]) for each in answers])
            for i, output in enumerate(outputs)
        }

    return answer
