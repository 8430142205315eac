"""Predictors for the evaluator that aren't onnxruntime: the integer reference, and the network's C code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor as TorchTensor

from stdet.interfaces.detector import Candidates, Detector
from stdet_deploy_stm32.bench.emulator import CNetwork, Program
from stdet_deploy_stm32.firmware.facts import Tensor, tensors_of
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.view import load_model

Run = Callable[[Sequence[np.ndarray]], Sequence[Sequence[np.ndarray]]]
"""Inputs in the network's type to its outputs, for each."""


class RawPredictor:
    """Candidates from something that takes and gives a network's own numbers."""

    def __init__(self, run: Run, input: Tensor, outputs: Sequence[Tensor], decoder: Detector) -> None:
        """Args:
        decoder: knows how to decode the outputs; its weights aren't used.
        """
        self._run, self._input, self._outputs, self._decoder = run, input, outputs, decoder
        names = [output.name for output in outputs]
        same = set(names) == set(decoder.output_names)
        self._order = [names.index(name) for name in decoder.output_names] if same else range(len(names))

    def __call__(self, images: TorchTensor) -> Candidates:
        """Candidates of float32 (B, C, H, W) images that are preprocessed already."""
        answers = self._run([self._input.quantize(image[None]) for image in images.numpy()])
        outputs = [
            torch.from_numpy(np.concatenate([self._outputs[i].dequantize(answer[i]) for answer in answers]))
            for i in self._order
        ]
        return self._decoder.decode(outputs, (images.shape[2], images.shape[3]))


def reference_predictor(model: Path, decoder: Detector) -> RawPredictor:
    """The integer reference of a quantized ONNX file."""
    loaded = load_model(model)
    reference = IntegerReference(loaded)
    inputs, outputs = tensors_of(loaded)

    def run(images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        answers = [reference.run({inputs[0].name: image}).outputs for image in images]
        return [[answer[output.name] for output in outputs] for answer in answers]

    return RawPredictor(run, inputs[0], outputs, decoder)


def c_predictor(network: CNetwork, program: Program, decoder: Detector) -> RawPredictor:
    """The C code of a network, on this computer or on an emulated core."""
    return RawPredictor(lambda images: network.run(program, images).outputs, network.input, network.outputs, decoder)
