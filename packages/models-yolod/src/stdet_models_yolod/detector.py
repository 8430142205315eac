"""The ST_YOLOD v2 detector: backbone, neck, head; loss and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdet.boxes import decode_grid_boxes, grid_cells
from stdet.interfaces.detector import Candidates, Detector, OutputPart, Targets
from stdet.interfaces.family import Options
from stdet.nn.distributed import mean_over_ranks
from stdet.structures import DetectorSpec
from stdet_models_yolod.blocks import ACTIVATIONS
from stdet_models_yolod.head import DecoupledHead
from stdet_models_yolod.losses import BOX_WEIGHT, class_loss, iou_loss, l1_targets
from stdet_models_yolod.neck import Pafpn
from stdet_models_yolod.simota import assign
from stdet_models_yolod.stresnet import StResNet


class StYolod(Detector):
    """Anchor-free detector with strides 8, 16, 32 (STYOLO, arXiv 2601.05364).

    Input: float32 (B, 3, H, W), BGR, 0..255; H and W multiples of 32. Output of the ONNX contract: (B, N, 5 + classes):
    raw tx, ty, tw, th, then sigmoid objectness and classes; N runs over strides, rows, columns.
    """

    output_names = ("output",)
    output_parts = (OutputPart("boxes", 0, 0, 4), OutputPart("objectness", 0, 4, 5), OutputPart("classes", 0, 5))

    def __init__(
        self, spec: DetectorSpec, backbone: StResNet, neck_channels: tuple[int, int, int], hidden: int
    ) -> None:
        """Args:
        neck_channels: of the neck's three outputs.
        hidden: channels of the head's branches.
        """
        super().__init__()
        self.spec = spec
        act = ACTIVATIONS[spec.options.get("act", "silu")]
        self.backbone = backbone
        self.neck = Pafpn(neck_channels, act)
        self.head = DecoupledHead(spec.num_classes, neck_channels, hidden, act)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Nine maps, (B, n, H / s, W / s): box (n = 4), objectness (1), classes of stride s = 8, then 16, then 32.

        All are raw: box is tx, ty, tw, th, the others logits.
        """
        return self.head(self.neck(self.backbone(images)))

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        boxes = torch.cat([box.flatten(2) for box in raw[0::3]], 2)
        scores = torch.cat(
            [
                torch.cat((obj.sigmoid(), cls.sigmoid()), 1).flatten(2)
                for obj, cls in zip(raw[1::3], raw[2::3], strict=True)
            ],
            2,
        )
        return (torch.cat((boxes, scores), 1).transpose(1, 2),)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        output = outputs[0].float()
        height, width = input_size or self.spec.preprocess.size
        cells, strides = grid_cells(
            [(height // s, width // s) for s in self.spec.strides], self.spec.strides, output.device
        )
        boxes = decode_grid_boxes(output[..., :4], cells, strides)
        half = boxes[..., 2:] / 2
        corners = torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), -1)
        return Candidates(corners, output[..., 4:5] * output[..., 5:])

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        """`total` = 5 box + objectness + class (+ L1 once the augmentation is closed), each over the positives.

        All are float32 scalars. `num_fg` is the number of positive anchors for each box.
        """
        regression, objectness, classes = (_rows(raw[kind::3]) for kind in range(3))
        sizes = [(box.shape[2], box.shape[3]) for box in raw[0::3]]
        cells, strides = grid_cells(sizes, self.spec.strides, regression.device)
        boxes = decode_grid_boxes(regression, cells, strides)
        gt_boxes, labels = _cxcywh(targets.boxes.float()), targets.labels
        found = assign(boxes, classes, objectness, (cells + 0.5) * strides[:, None], strides, gt_boxes, labels)

        positives = mean_over_ranks(boxes.new_full((), len(found.anchor))).clamp(min=1)
        target_boxes = gt_boxes[found.image, found.box]
        is_object = torch.zeros_like(objectness)
        is_object[found.image, found.anchor] = 1
        box = BOX_WEIGHT * iou_loss(boxes[found.image, found.anchor], target_boxes).sum() / positives
        confidence = F.binary_cross_entropy_with_logits(objectness, is_object, reduction="sum") / positives
        own_labels = labels[found.image, found.box]
        classification = class_loss(classes[found.image, found.anchor], own_labels, found.iou) / positives
        l1 = box.new_zeros(())
        if augmentation_closed:
            wanted = l1_targets(target_boxes, cells[found.anchor], strides[found.anchor])
            l1 = (regression[found.image, found.anchor] - wanted).abs().sum() / positives
        boxes_in_batch = targets.valid.sum().clamp(min=1)
        return {
            "total": box + confidence + classification + l1,
            "iou_loss": box,
            "conf_loss": confidence,
            "cls_loss": classification,
            "l1_loss": l1,
            "num_fg": len(found.anchor) / boxes_in_batch.float(),
        }

    def parameter_groups(
        self, learning_rate: float, weight_decay: float, options: Options | None = None
    ) -> list[dict[str, Any]]:
        """Weight decay on convolution weights only, not on BatchNorm weights and biases."""
        norm = [m.weight for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        biases = [p for name, p in self.named_parameters() if name.endswith("bias")]
        rest = [p for name, p in self.named_parameters() if not name.endswith("bias") and p.dim() > 1]
        return [
            {"name": "norms", "params": norm, "lr": learning_rate, "weight_decay": 0.0},
            {"name": "convolutions", "params": rest, "lr": learning_rate, "weight_decay": weight_decay},
            {"name": "biases", "params": biases, "lr": learning_rate, "weight_decay": 0.0},
        ]

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset(f"head.cls_preds.{level}.{kind}" for level in range(3) for kind in ("weight", "bias"))


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, n, h, w) of the levels to float32 rows (B, N, n)."""
    return torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2).float()


def _cxcywh(boxes: Tensor) -> Tensor:
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat((boxes[..., :2] + size / 2, size), -1)
