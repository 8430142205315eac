"""Things that turn preprocessed images into candidates: a torch model, or an ONNX file of any kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from stdet.artifacts import ModelFile
from stdet.errors import ArtifactError, ModelError
from stdet.extras import need
from stdet.interfaces.deploy import PlacedNetwork
from stdet.interfaces.detector import Candidates, Decoder, Detector
from stdet.nn.memory import give_back_memory, is_out_of_memory

log = logging.getLogger(__name__)


class Predictor(Protocol):
    """Decoded candidates for float32 (B, C, H, W) images that are preprocessed already."""

    def __call__(self, images: Tensor) -> Candidates: ...


class TorchPredictor:
    """A torch model in eval mode; its own mode is put back after each call.

    A batch that memory doesn't hold is predicted in parts, and so are all that follow.
    """

    def __init__(self, detector: Detector, device: str = "cpu", note: Callable[[str], None] = log.warning) -> None:
        """Args:
        note: tells people that memory ran out.
        """
        self._detector = detector
        self._device = device
        self._note = note
        self._most: int | None = None

    def __call__(self, images: Tensor) -> Candidates:
        """Candidates, on the detector's device, for float32 images (B, C, H, W), preprocessed already.

        Raises:
            ModelError: memory doesn't hold a single image.
        """
        training = self._detector.training
        self._detector.eval()
        try:
            while (found := self._attempt(images)) is None:
                self._halve(min(len(images), self._most or len(images)))
            return found
        finally:
            self._detector.train(training)

    @torch.no_grad()
    def _attempt(self, images: Tensor) -> Candidates | None:
        """As a call; None when memory ran out."""
        parts = images.split(self._most or max(1, len(images)))
        try:
            found = [self._predict(part) for part in parts]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        if len(found) == 1:
            return found[0]
        boxes, scores = torch.cat([one.boxes for one in found]), torch.cat([one.scores for one in found])
        return Candidates(boxes, scores, found[0].multi_label)

    def _predict(self, images: Tensor) -> Candidates:
        outputs = self._detector.export_outputs(self._detector(images.to(self._device)))
        return self._detector.decode(outputs, (images.shape[2], images.shape[3]))

    def _halve(self, count: int) -> None:
        give_back_memory(self._device)
        if count <= 1:
            raise ModelError(f"out of memory on {self._device}, with a single image", "lower model.input_shape")
        self._most = count // 2
        self._note(f"out of memory: at most {self._most} images are predicted at a time now")


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

    Attributes:
        output_names: of the graph, in the order of the decoder's outputs.
    """

    def __init__(self, model: ModelFile, decoder: Decoder, threads: int | None = None) -> None:
        """Args:
        model: an ONNX file.
        decoder: knows how to decode the outputs; its weights aren't used.
        threads: of onnxruntime; None lets it choose.

        Raises:
            ArtifactError: not a readable ONNX file, one with an integer border without quantization, or one whose
                input or number of outputs isn't what `decoder` says.
            MissingExtraError: onnxruntime is not installed.
        """
        path = model.path
        need("onnxruntime", f"running {path}")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if model.kind == "int8":
            # Else the sums of int8 products are cut off at 16 bits on processors without VNNI, and a good model scores
            # 0.05. Unfused, every node computes in float32 what its Q/DQ neighbours say, everywhere alike, as fast.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public base class for its load errors
            raise ArtifactError(
                f"onnxruntime can't load {path}: {error}", "check that the file is a complete ONNX model"
            ) from error
        self._path = path
        self._decoder = decoder
        self._input = self._session.get_inputs()[0]
        self._batched = not isinstance(self._input.shape[0], int)
        self._borders = _integer_borders(path)
        self._check_input()
        self.output_names = self._ordered_outputs()

    def __call__(self, images: Tensor) -> Candidates:
        """Candidates for float32 images (B, C, H, W), preprocessed already.

        Raises:
            ModelError: it scores another number of classes than the decoder knows.
        """
        return self.decode(self.outputs(images), (images.shape[2], images.shape[3]))

    def outputs(self, images: Tensor) -> list[Tensor]:
        """What the graph says of preprocessed images, float32 (B, C, H, W).

        Returns:
            float32 tensors (B, ...), in the order of the decoder's `output_names`.
        """
        values = images.numpy()
        parts = [values] if self._batched else [values[i : i + 1] for i in range(len(values))]
        runs = [self._run(part) for part in parts]
        return [torch.from_numpy(np.concatenate(column)) for column in zip(*runs, strict=True)]

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int]) -> Candidates:
        """Candidates from `outputs`, float32 tensors (B, ...) in the order of the decoder's `output_names`.

        Args:
            input_size: (height, width) that was fed.

        Raises:
            ModelError: they score another number of classes than the decoder knows.
        """
        candidates = self._decoder.decode(outputs, input_size)
        classes = candidates.scores.shape[-1]
        if classes != self._decoder.spec.num_classes:
            raise ModelError(
                f"{self._path} scores {classes} classes, but {self._decoder.spec.num_classes} are named",
                "give dataset.class_names all classes of the model, in its order",
            )
        return candidates

    def _check_input(self) -> None:
        """A fixed batch must be 1; fixed channels and sides must be those of the spec."""
        preprocess = self._decoder.spec.preprocess
        wanted = (1, preprocess.channels, *preprocess.size)
        shape = self._input.shape
        if len(shape) != 4 or any(isinstance(n, int) and n != w for n, w in zip(shape, wanted, strict=True)):
            raise ArtifactError(
                f"{self._path} takes an input of {shape}; the model's spec says {list(wanted)}",
                "set model.input_shape and preprocessing.color_mode to what the file takes",
            )

    def _ordered_outputs(self) -> list[str]:
        """The graph's outputs as the decoder wants them: by name if it has those names, else in the graph's order."""
        names = [output.name for output in self._session.get_outputs()]
        wanted = list(self._decoder.output_names)
        if len(names) != len(wanted):
            raise ArtifactError(
                f"{self._path} has the outputs {', '.join(names)}; {self._decoder.spec.model_name} has {len(wanted)}",
                "check model.model_name and model.model_type",
            )
        return wanted if set(names) == set(wanted) else names

    def _run(self, values: np.ndarray) -> list[np.ndarray]:
        border = self._borders.get(self._input.name)
        fed = border.quantize(values) if border else values
        try:
            found = self._session.run(self.output_names, {self._input.name: fed})
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ArtifactError(
                f"{self._path} can't be run on an image of {list(fed.shape)}: {error}",
                "the model itself is broken for that image: look at the node that is named, and export it again",
            ) from error
        return [
            self._borders[name].dequantize(value) if name in self._borders else value
            for name, value in zip(self.output_names, found, strict=True)
        ]


class PlacedPredictor:
    """An ONNX file whose network runs somewhere else; its outputs are read as those of onnxruntime are."""

    def __init__(self, host: OnnxPredictor, network: PlacedNetwork) -> None:
        """Args:
        host: the same file on this computer, which knows what its outputs mean.
        """
        self._host, self._network = host, network

    def __call__(self, images: Tensor) -> Candidates:
        """Candidates for float32 images (B, C, H, W), preprocessed already.

        Raises:
            StdetError: the network couldn't be run.
        """
        answers = self._network(images.numpy())
        outputs = [torch.from_numpy(answers[name]) for name in self._host.output_names]
        return self._host.decode(outputs, (images.shape[2], images.shape[3]))


def _integer_borders(path: Path) -> dict[str, _Quantizer]:
    """How to convert each integer input and output of a graph, by name; empty for float borders."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {c.name: c for c in graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    found: dict[str, _Quantizer] = {}
    fed = [value for value in graph.input if value.name not in constants]  # old files list constants there as well
    for value, is_input in [*((v, True) for v in fed), *((v, False) for v in graph.output)]:
        element = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if not np.issubdtype(element, np.integer):
            continue
        nodes = [n for n in graph.node if (value.name in n.input if is_input else value.name in n.output)]
        wanted = "DequantizeLinear" if is_input else "QuantizeLinear"
        if not nodes or nodes[0].op_type != wanted:
            raise ArtifactError(f"{path}: `{value.name}` is {element} but no {wanted} says what its values mean")
        scale, *zero = nodes[0].input[1:]
        if not {scale, *zero} <= constants.keys():
            raise ArtifactError(f"{path}: the scale or zero point of `{value.name}` is not a constant")
        scale_value = float(numpy_helper.to_array(constants[scale]))
        zero_value = int(numpy_helper.to_array(constants[zero[0]])) if zero else 0
        found[value.name] = _Quantizer(scale_value, zero_value, element)
    return found
