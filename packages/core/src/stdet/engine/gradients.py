"""The gradients of an optimizer step, computed in as many pieces as memory holds."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from stdet.data.loader import Batch
from stdet.data.preprocess import normalize
from stdet.errors import ModelError
from stdet.interfaces.detector import Detector, Targets
from stdet.interfaces.reporter import Reporter
from stdet.nn.distributed import without_averaging, world_size
from stdet.nn.memory import give_back_memory, is_out_of_memory, to_device
from stdet.nn.precision import Precision


class Gradients:
    """Forward, loss and backward of the batches of a step.

    Attributes:
        parts: pieces that each batch is computed in; doubled whenever memory runs out.
    """

    def __init__(
        self,
        detector: Detector,
        network: nn.Module,
        precision: Precision,
        device: str,
        channels_last: bool,
        reporter: Reporter,
    ) -> None:
        """Args:
        detector: computes the loss.
        network: the forward pass: the detector, or what wraps it.
        """
        self.parts = 1
        self._detector = detector
        self._network = network
        self._precision = precision
        self._device = device
        self._channels_last = channels_last
        self._reporter = reporter

    def compute(self, group: list[Batch], *, augmentation_closed: bool) -> dict[str, Tensor]:
        """Leave the mean gradients of the batches of `group` at the weights.

        Returns:
            Their mean losses, scalars on the device.

        Raises:
            ModelError: memory doesn't hold a single image; or, of several processes, a batch of this one. Or batch
                normalization has a single value to learn from.
        """
        while (losses := self._attempt(group, augmentation_closed)) is None:
            self._halve(max(len(batch.images) for batch in group))
        return losses

    def _attempt(self, group: list[Batch], closed: bool) -> dict[str, Tensor] | None:
        """As `compute`; None when memory ran out."""
        self._network.zero_grad(set_to_none=True)
        pieces = [(part, share / len(group)) for batch in group for part, share in _split(batch, self.parts)]
        means: dict[str, Tensor] = {}
        try:
            for number, (part, share) in enumerate(pieces, 1):
                with nullcontext() if number == len(pieces) else without_averaging(self._network):
                    with self._precision.autocast():
                        raw = self._network(self._prepare(part.images))
                    losses = self._detector.loss(raw, self._targets(part.targets), augmentation_closed=closed)
                    self._precision.scaler.scale(losses["total"] * share).backward()
                for name, value in losses.items():
                    means[name] = means.get(name, 0.0) + value.detach() * share
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ModelError(
                "batch normalization can't train on a single image where the feature map is 1 x 1",
                "set training.batch_size to 2 or more, or a larger model.input_shape",
            ) from error
        return means

    def _prepare(self, images: Tensor) -> Tensor:
        images = normalize(to_device(images, self._device), self._detector.spec.preprocess)
        return images.contiguous(memory_format=torch.channels_last) if self._channels_last else images

    def _targets(self, targets: Targets) -> Targets:
        return Targets(to_device(targets.boxes, self._device), to_device(targets.labels, self._device))

    def _halve(self, images: int) -> None:
        self._network.zero_grad(set_to_none=True)
        give_back_memory(self._device)
        if self.parts >= images or world_size() > 1:  # of several processes, the others wait within their backward pass
            raise ModelError(
                f"out of memory on {self._device}",
                "lower training.batch_size and raise training.accumulate, or lower model.input_shape",
            )
        self.parts = min(2 * self.parts, images)
        self._reporter.note(f"out of memory: each batch is computed in {self.parts} parts now, for one step as before")


def _split(batch: Batch, parts: int) -> list[tuple[Batch, float]]:
    """`batch` in up to `parts` pieces, each with its share of the images."""
    count = len(batch.images)
    size = math.ceil(count / parts)
    pieces = [slice(start, start + size) for start in range(0, count, size)]
    boxes, labels = batch.targets.boxes, batch.targets.labels
    return [
        (Batch(batch.images[s], Targets(boxes[s], labels[s]), batch.indices[s]), len(batch.images[s]) / count)
        for s in pieces
    ]
