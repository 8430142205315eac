"""The contract of a detection model. Checked for every registered model by `stdet.testing.ModelContract`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from stdet.errors import ModelError
from stdet.interfaces.family import Options
from stdet.structures import BoxCoding, DetectorSpec


@dataclass(frozen=True)
class Targets:
    """The ground truth of a batch, padded to the image with most boxes.

    Attributes:
        boxes: float32 (B, M, 4), xyxy, pixels of the network's input. Padding rows are zero.
        labels: int64 (B, M), 0-based class; padding rows are -1.
    """

    boxes: Tensor
    labels: Tensor

    @property
    def valid(self) -> Tensor:
        """bool (B, M), False for padding."""
        return self.labels >= 0

    def to(self, device: torch.device | str) -> Targets:
        return Targets(self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True))


@dataclass(frozen=True)
class Candidates:
    """Decoded but unfiltered boxes of a batch; score thresholds and NMS come later and are the same for all models.

    Attributes:
        boxes: float32 (B, N, 4), xyxy, pixels of the network's input, not clipped.
        scores: float32 (B, N, num_classes), 0..1, one column an object class (no background).
        multi_label: a box may be several detections, one for each class that scores enough, as in SSD; else it speaks
            for its best class only, as in YOLOX. A fact of the model, so that whoever selects detections agrees.
    """

    boxes: Tensor
    scores: Tensor
    multi_label: bool = False


@dataclass(frozen=True)
class OutputPart:
    """Columns of an exported output that mean one thing, so that errors can be told apart by what they spoil.

    Attributes:
        name: `boxes`, `classes`, `objectness`, ...
        output: index into `Detector.output_names`.
        first, last: columns [first, last) of the output's last axis; None for its ends.
    """

    name: str
    output: int
    first: int | None = None
    last: int | None = None

    @property
    def columns(self) -> slice:
        return slice(self.first, self.last)


class Decoder(Protocol):
    """Reads exported outputs: a `Detector`, or the head of somebody else's network."""

    @property
    def spec(self) -> DetectorSpec: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def parts(self) -> tuple[OutputPart, ...]: ...

    def box_coding(self) -> BoxCoding: ...

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        """As `Detector.decode`; the outputs are float tensors (B, ...) in the order of `output_names`."""


class Detector(nn.Module, ABC):
    """A detection network. `forward` is one static tensor graph: the same in training, export and int8.

    Subclasses take a `DetectorSpec` and keep it as `self.spec`. They decode nothing in `forward`, run no NMS and never
    branch on `self.training`.
    """

    output_names: ClassVar[tuple[str, ...]]
    """Names of the ONNX outputs, in the order of `export_outputs`."""

    output_parts: ClassVar[tuple[OutputPart, ...]] = ()
    """What the columns of the outputs mean; each column belongs to one part. Empty: each output is a part of its own."""

    spec: DetectorSpec

    def parts(self) -> tuple[OutputPart, ...]:
        """`output_parts`, or one part an output for a model that doesn't say."""
        return self.output_parts or tuple(OutputPart(name, i) for i, name in enumerate(self.output_names))

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs for `images`, float (B, C, H, W), preprocessed as `spec.preprocess` says.

        H and W need not be the spec's: multi-scale training feeds other sizes.
        """

    @abstractmethod
    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        """Named scalar losses of a batch; `total` is the one to differentiate, entries that are not losses have no grad.

        Args:
            raw: what `forward` returned.
            targets: boxes in pixels of the images that were fed.
            augmentation_closed: True in the last epochs, when mosaic and mixup are off (YOLOX adds an L1 term then).

        Finite for batches without any box, on every device, also under autocast: box arithmetic is done in float32.
        """

    @abstractmethod
    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors of the ONNX contract, in the order of `output_names`, made from what `forward` returned.

        Returns:
            float (B, ...) each; the model's class docstring gives shapes, ranges and meanings.
        """

    @abstractmethod
    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        """Boxes and scores from exported outputs. Needs no weights: the same call serves torch, float and int8 ONNX.

        Args:
            outputs: float (B, ...) each, as `export_outputs` returns them.
            input_size: (height, width) that was fed; `spec.preprocess.size` when None.
        """

    def box_coding(self) -> BoxCoding:
        """What `decode` does, as facts for code outside Python. Default: a convention without priors."""
        return BoxCoding(self.spec.box_coding, self.output_names)

    def hard_to_assign(self, boxes: Tensor) -> Tensor:
        """bool (N,): which boxes are so small that training gives them poor anchors or shared ones.

        Default: the shorter side is below the finest stride, so the box is smaller than a cell of the finest map.

        Args:
            boxes: float32 (N, 4), xyxy, pixels of the network's input of `spec.preprocess.size`, inside it.
        """
        return (boxes[:, 2:] - boxes[:, :2]).amin(1) < min(self.spec.strides)

    def parameter_groups(
        self, learning_rate: float, weight_decay: float, options: Options | None = None
    ) -> list[dict[str, Any]]:
        """Optimizer groups, each with `params`, `lr` and `weight_decay`, and a `name` for people; every parameter once.

        Default: one group, decay on everything.

        Args:
            options: the family's validated training options, such as separate rates for parts of the network.
        """
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"name": "all weights", "params": params, "lr": learning_rate, "weight_decay": weight_decay}]

    def use_training_options(self, options: Any) -> None:
        """Take over what the family's training options say about the loss; called once, before training.

        Args:
            options: the family's `training_options`, validated. Default: the loss has no settings.
        """

    def load_backbone(self, source: Mapping[str, Tensor]) -> str:
        """Start the backbone from a classifier's state dict, where shapes allow; returns one line about what was taken.

        Raises:
            ModelError: the source is no backbone of this kind. Default: the model takes none.
        """
        raise ModelError(
            f"{self.spec.model_name} can't start from a classifier's weights",
            "choose weights of a detector in model.pretrained_dataset, or set model.pretrained: False",
        )

    @abstractmethod
    def class_dependent_keys(self) -> frozenset[str]:
        """State-dict keys whose shape depends on the number of classes: the only ones that may be skipped on loading."""


class ExportWrapper(nn.Module):
    """`export_outputs(forward(x))` as a module, for exporters and parity checks."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float (B, C, H, W), preprocessed, to the tensors of the ONNX contract."""
        return self.detector.export_outputs(self.detector(images))
