"""A detector: a cell is a star or not, and its box is the cell with a learned size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.structures import DetectorSpec

STRIDE = 8


class AcmeNet(Detector):
    """One convolution with a window of two cells."""

    output_names = ("cells",)

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Conv2d(spec.preprocess.channels, 1 + spec.num_classes, 2 * STRIDE, STRIDE, STRIDE // 2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(images / 255),)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        cells = raw[0].float()
        wanted = torch.zeros_like(cells[:, 1:])
        for image, (boxes, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
            for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
                x, y = ((box[:2] + box[2:]) / 2 / STRIDE).long().tolist()
                wanted[image, label, min(y, cells.shape[2] - 1), min(x, cells.shape[3] - 1)] = 1
        score = functional.binary_cross_entropy_with_logits(cells[:, 1:], wanted)
        size = (cells[:, 0] - 1).square().mean()
        return {"total": score + 0.01 * size, "score": score.detach()}

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (raw[0].flatten(2).transpose(1, 2),)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        height, width = input_size or self.spec.preprocess.size
        rows, columns = torch.meshgrid(torch.arange(height // STRIDE), torch.arange(width // STRIDE), indexing="ij")
        centres = (torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * STRIDE
        half = STRIDE * outputs[0][..., :1].float().clamp(0.5, 4).expand(-1, -1, 2)
        return Candidates(torch.cat([centres - half, centres + half], -1), outputs[0][..., 1:].float().sigmoid())

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias"})
