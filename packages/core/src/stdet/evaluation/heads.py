"""Reads the outputs of other tools' detectors; see `stdet.interfaces.heads` for what each name means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stdet.boxes import cxcywh_to_xyxy, decode_grid_boxes, grid_cells
from stdet.errors import ModelError
from stdet.interfaces.detector import Candidates, OutputPart
from stdet.structures import BoxCoding, DetectorSpec

STRIDES = (8, 16, 32)
_ON_GRID = 0.9
"""Correlation with the anchors' own positions from which box values are positions in the image: raw ones have about 0."""
_SCORE_SLACK = 1e-3


class YoloxHead:
    """One row an anchor: tx, ty, tw, th, objectness, classes. YOLOX (arXiv 2107.08430) with `decode_in_inference` off."""

    output_names = ("output",)
    decoded = False

    def __init__(self, spec: DetectorSpec) -> None:
        self.spec = spec

    def parts(self) -> tuple[OutputPart, ...]:
        return (OutputPart("boxes", 0, 0, 4), OutputPart("objectness", 0, 4, 5), OutputPart("classes", 0, 5))

    def box_coding(self) -> BoxCoding:
        return BoxCoding(self.spec.box_coding, self.output_names)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        """Candidates from float32 (B, N, 5 + classes).

        Raises:
            ModelError: another shape.
        """
        rows, cells, strides = self._rows(outputs, input_size)
        boxes = rows[..., :4] if self.decoded else decode_grid_boxes(rows[..., :4], cells, strides)
        return Candidates(cxcywh_to_xyxy(boxes), rows[..., 4:5] * rows[..., 5:])

    def examine(self, outputs: Sequence[Tensor], input_size: tuple[int, int]) -> None:
        """Look at what a float network says of any image.

        Raises:
            ModelError: another shape; scores outside 0..1; boxes that are decoded already, or aren't.
        """
        rows, cells, strides = self._rows(outputs, input_size)
        _check_scores(rows[..., 4:])
        if rows.shape[1] != len(cells):
            return
        if _follows(rows[..., :2], (cells + 0.5) * strides[:, None]) != self.decoded:
            other = "yolox" if self.decoded else "yolox_decoded"
            raise ModelError(
                f"the box values are {'raw' if self.decoded else 'decoded in the graph already'}, so as "
                f"`{'yolox_decoded' if self.decoded else 'yolox'}` every box would be wrong",
                f"set model.head: {other}, without model_type",
            )

    def _rows(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and cells and strides of the anchors."""
        rows, wanted = outputs[0].float(), 5 + self.spec.num_classes
        height, width = input_size or self.spec.preprocess.size
        cells, strides = grid_cells([(height // s, width // s) for s in STRIDES], STRIDES, rows.device)
        if rows.ndim != 3 or rows.shape[2] != wanted or not (self.decoded or rows.shape[1] == len(cells)):
            raise ModelError(
                f"the output is {list(rows.shape)}, but the head `{self.spec.box_coding}` with {self.spec.num_classes} "
                f"classes has [1, {'N' if self.decoded else len(cells)}, {wanted}]",
                "give dataset.class_names all classes of the model in its order, and the right model.head and input_shape",
            )
        return rows, cells, strides


class DecodedYoloxHead(YoloxHead):
    """As `YoloxHead` with boxes as centre, width and height in pixels: YOLOX exported whole, YOLOv5."""

    decoded = True


class Yolov8Head:
    """Box and classes by column, without objectness: YOLOv8, YOLO11 and their kin as Ultralytics export them."""

    output_names = ("output",)

    def __init__(self, spec: DetectorSpec) -> None:
        self.spec = spec

    def parts(self) -> tuple[OutputPart, ...]:
        return (OutputPart("whole", 0),)  # the parts are rows, which nothing that mixes columns can tell apart

    def box_coding(self) -> BoxCoding:
        return BoxCoding(self.spec.box_coding, self.output_names)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        """Candidates from float32 (B, 4 + classes, N) or (B, N, 4 + classes).

        Raises:
            ModelError: another shape.
        """
        rows = self._rows(outputs)
        return Candidates(cxcywh_to_xyxy(rows[..., :4]), rows[..., 4:])

    def examine(self, outputs: Sequence[Tensor], input_size: tuple[int, int]) -> None:
        """Look at what a float network says of any image.

        Raises:
            ModelError: another shape, scores outside 0..1, or boxes that aren't in pixels.
        """
        rows = self._rows(outputs)
        _check_scores(rows[..., 4:])
        if float(rows[..., :4].max()) <= min(input_size) / 16:
            raise ModelError(
                "the box values don't reach over the image, so they aren't in pixels (parts of the image, 0..1, or raw)",
                "export the model with boxes decoded, in pixels of its input",
            )

    def _rows(self, outputs: Sequence[Tensor]) -> Tensor:
        output, wanted = outputs[0].float(), 4 + self.spec.num_classes
        if output.ndim != 3 or wanted not in output.shape[1:]:
            raise ModelError(
                f"the output is {list(output.shape)}, but the head `yolov8` with {self.spec.num_classes} classes has "
                f"[1, {wanted}, N]",
                "give dataset.class_names all classes of the model in its order, or another model.head",
            )
        return output.transpose(1, 2) if output.shape[1] == wanted else output


def _check_scores(scores: Tensor) -> None:
    """Raises:
    ModelError: they aren't within 0..1.
    """
    low, high = float(scores.min()), float(scores.max())
    if low < -_SCORE_SLACK or high > 1 + _SCORE_SLACK:
        raise ModelError(
            f"the scores reach from {low:.3g} to {high:.3g}, so they are no probabilities",
            "export the model with the sigmoid of its scores in the graph, or set another model.head",
        )


def _follows(values: Tensor, positions: Tensor) -> bool:
    """Whether (B, N, 2) values grow with the (N, 2) positions of their anchors, over the whole image."""
    mean = values.mean(0)
    if float(mean.max() - mean.min()) < float(positions.max()) / 2:
        return False
    pairs = [torch.corrcoef(torch.stack((mean[:, k], positions[:, k])))[0, 1] for k in range(2)]
    return all(float(each) > _ON_GRID for each in pairs)
