"""What every training recipe must do."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stdet.interfaces.family import Options
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Preprocess, Sample
from stdet.testing.contract import Contract, catalogue, demand

SIZE = (96, 128)
"""Height and width of the network's input here, pixels."""


class TransformContract(Contract):
    """What every training recipe must do. Set `name`."""

    kind: ClassVar[str] = "transforms"

    def own_keys(self) -> dict[str, type[Options]]:
        return {"dataset": catalogue().options("transforms", self.name)}

    def apply(self, seed: int, strong: bool = True, boxes: int = 2) -> tuple[Sample, Sample, Sample]:
        """A copy of the argument as it was before, the result, and the argument as it is afterwards."""
        options = catalogue().options("transforms", self.name)
        transform = catalogue().build("transforms", self.name, options())
        demand(isinstance(transform, Transform), "a Transform", type(transform).__name__)

        def sample(number: int) -> Sample:
            rng = np.random.default_rng(number)
            corners = rng.uniform(5, 40, (boxes, 2))
            xyxy = np.hstack([corners, corners + rng.uniform(15, 50, (boxes, 2))]).astype(np.float32)
            return Sample(rng.integers(0, 255, (90, 120, 3), np.uint8), xyxy, np.arange(boxes))

        rng = np.random.default_rng(seed)
        context = TransformContext(rng, lambda: sample(int(rng.integers(100))), Preprocess(*SIZE, "letterbox"), strong)
        source = sample(0)
        return (
            Sample(source.image.copy(), source.boxes.copy(), source.labels.copy()),
            transform(source, context),
            source,
        )

    def test_the_generator_alone_decides(self) -> None:
        """The same generator gives the same sample: all randomness comes from `context.rng`, so that a run can be repeated
        and resumed, whatever worker makes the sample."""
        one, same = self.apply(3)[1], self.apply(3)[1]
        demand(np.array_equal(one.image, same.image), "the same pixels twice", "other pixels")
        demand(
            np.array_equal(one.boxes, same.boxes), f"the same boxes twice, {one.boxes.tolist()}", same.boxes.tolist()
        )

    def test_the_result_has_the_size_of_the_networks_input(self) -> None:
        """The image is of `context.preprocess.size`, with and without strong augmentation: samples become batches as they
        are."""
        for seed in range(6):
            for strong in (True, False):
                made = self.apply(seed, strong)[1]
                demand((made.height, made.width) == SIZE, f"{SIZE}, strong={strong}", (made.height, made.width))

    def test_samples_stay_well_formed(self) -> None:
        """Images stay uint8 with three axes; boxes stay (N, 4), one a label, inside the image and not empty, also where there
        were none: the loss divides by their sides."""
        for seed in range(6):
            for strong in (True, False):
                for boxes in (2, 0):
                    made = self.apply(seed, strong, boxes)[1]
                    demand(made.image.dtype == np.uint8, "pixels of uint8", made.image.dtype)
                    demand(made.image.ndim == 3, "an image of three axes", made.image.shape)
                    wanted = (len(made.labels), 4)
                    demand(made.boxes.shape == wanted, f"boxes of {wanted}, one a label", made.boxes.shape)
                    whole = np.all(made.boxes[:, 2:] > made.boxes[:, :2])
                    demand(bool(whole), "x1 < x2 and y1 < y2", made.boxes.tolist())
                    inside = np.all(made.boxes >= 0) and np.all(made.boxes <= [made.width, made.height] * 2)
                    demand(bool(inside), f"boxes inside {made.width} x {made.height} pixels", made.boxes.tolist())

    def test_the_argument_is_left_alone(self) -> None:
        """The sample that is given is not changed: it may lie in a cache and be drawn again for a mosaic."""
        for strong in (True, False):
            before, _, after = self.apply(1, strong)
            demand(np.array_equal(before.image, after.image), "its pixels as before", "other pixels")
            demand(np.array_equal(before.boxes, after.boxes), f"its boxes as before, {before.boxes}", after.boxes)
            demand(np.array_equal(before.labels, after.labels), f"its labels as before, {before.labels}", after.labels)
