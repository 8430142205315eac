"""Things that turn preprocessed images into candidates: a torch model, or an ONNX file of any kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from stdet.errors import ArtifactError
from stdet.interfaces.detector import Candidates, Detector


class Predictor(Protocol):
    """Decoded candidates for float32 (B, C, H, W) images that are preprocessed already."""

    def __call__(self, images: Tensor) -> Candidates: ...


class TorchPredictor:
    """A torch model in eval mode; its own mode is put back after each call."""

    def __init__(self, detector: Detector, device: str = "cpu") -> None:
        self._detector = detector
        self._device = device

    def __call__(self, images: Tensor) -> Candidates:
        training = self._detector.training
        self._detector.eval()
        try:
            with torch.no_grad():
                raw = self._detector(images.to(self._device))
                outputs = self._detector.export_outputs(raw)
                return self._detector.decode(outputs, (images.shape[2], images.shape[3]))
        finally:
            self._detector.train(training)


@dataclass(frozen=True)
class _Quantizer:
    """Affine quantization of a graph's own input or output: real = (integer - zero_point) * scale."""

    scale: float
    zero_point: int
    dtype: Any

    def quantize(self, values: np.ndarray) -> np.ndarray:
        info = np.iinfo(self.dtype)
        return np.clip(np.rint(values / self.scale) + self.zero_point, info.min, info.max).astype(self.dtype)

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        return ((values.astype(np.float32) - self.zero_point) * self.scale).astype(np.float32)


class OnnxPredictor:
    """An ONNX file run by onnxruntime: float, QDQ, or with integer inputs and outputs.

    Integer inputs and outputs are converted by the scale and zero point of the (De)QuantizeLinear node at the border.
    """

    def __init__(self, path: Path, decoder: Detector, threads: int | None = None) -> None:
        """Args:
        decoder: knows how to decode the outputs; its weights aren't used.
        threads: of onnxruntime; None lets it choose.

        Raises:
            ArtifactError: not a readable ONNX file, or one with an integer border without quantization.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public base class for its load errors
            raise ArtifactError(
                f"onnxruntime can't load {path}: {error}", "check that the file is a complete ONNX model"
            ) from error
        self._decoder = decoder
        self._input = self._session.get_inputs()[0]
        self._batched = not isinstance(self._input.shape[0], int)
        self._borders = _integer_borders(path)

    def __call__(self, images: Tensor) -> Candidates:
        values = images.numpy()
        parts = [values] if self._batched else [values[i : i + 1] for i in range(len(values))]
        runs = [self._run(part) for part in parts]
        outputs = [torch.from_numpy(np.concatenate(column)) for column in zip(*runs, strict=True)]
        return self._decoder.decode(outputs, (images.shape[2], images.shape[3]))

    def _run(self, values: np.ndarray) -> list[np.ndarray]:
        border = self._borders.get(self._input.name)
        fed = border.quantize(values) if border else values
        found = self._session.run(None, {self._input.name: fed})
        names = [output.name for output in self._session.get_outputs()]
        return [
            self._borders[name].dequantize(value) if name in self._borders else value
            for name, value in zip(names, found, strict=True)
        ]


def _integer_borders(path: Path) -> dict[str, _Quantizer]:
    """How to convert each integer input and output of a graph, by name; empty for float borders."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {c.name: c for c in graph.initializer}
    found: dict[str, _Quantizer] = {}
    for value, is_input in [*((v, True) for v in graph.input), *((v, False) for v in graph.output)]:
        element = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if not np.issubdtype(element, np.integer):
            continue
        nodes = [n for n in graph.node if (value.name in n.input if is_input else value.name in n.output)]
        wanted = "DequantizeLinear" if is_input else "QuantizeLinear"
        if not nodes or nodes[0].op_type != wanted:
            raise ArtifactError(f"{path}: `{value.name}` is {element} but no {wanted} says what its values mean")
        scale, zero = (numpy_helper.to_array(constants[name]) for name in nodes[0].input[1:3])
        found[value.name] = _Quantizer(float(scale), int(zero), element)
    return found
