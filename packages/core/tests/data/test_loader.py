"""The loader: the same samples whatever the workers, exact epochs, and errors that reach the caller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stdet.data.loader import SIZE_PERIOD, EvalLoader, TrainLoader
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Annotation, Preprocess, Sample

PREPROCESS = Preprocess(32, 32, color_mode="bgr")


class Numbered(DetectionDataset):
    """Image i is filled with i and has i % 3 boxes; image `bad` can't be read."""

    class_names = ("a", "b")

    def __init__(self, count: int = 11, bad: int | None = None) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def annotation(self, index: int) -> Annotation:
        n = index % 3
        boxes = np.tile(np.array([[1, 2, 20, 30]], np.float32), (n, 1))
        return Annotation(index, None, 40, 40, boxes, np.zeros(n, np.int64), np.zeros(n, bool), np.ones(n, np.float32))

    def read_image(self, index: int) -> np.ndarray:
        if index == self.bad:
            raise DataError(f"cannot decode {Path('folder') / 'broken.jpg'}", "replace it")
        return np.full((40, 40, 3), index, np.uint8)


class Scribble(Transform):
    """Marks every sample with its randomness, a drawn partner and the phase."""

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        image = np.zeros((*context.preprocess.size, 3), np.uint8)
        image[0, 0] = context.rng.integers(0, 255, 3)
        image[0, 1] = context.draw().image[0, 0]
        image[0, 2] = 255 if context.strong else 0
        return Sample(image, sample.boxes, sample.labels)


def make(num_workers: int = 0, **changes: object) -> TrainLoader:
    options: dict[str, object] = {"batch_size": 4, "seed": 5, "epochs": 4, "no_aug_epochs": 1}
    dataset = changes.pop("dataset", Numbered())
    return TrainLoader(dataset, Scribble(), PREPROCESS, num_workers=num_workers, **(options | changes))  # type: ignore[arg-type]


def test_samples_do_not_depend_on_the_number_of_workers() -> None:
    alone, shared = list(make(0).epoch(1)), list(make(2).epoch(1))
    assert [b.indices for b in alone] == [b.indices for b in shared]
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, shared, strict=True))


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    whole, rest = list(make().epoch(2)), list(make().epoch(2, start_step=2))
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[2:], rest, strict=True))
    assert list(make().epoch(2, start_step=len(whole))) == []


def test_epochs_are_different_permutations_of_all_images() -> None:
    orders = [[i for b in make().epoch(e) for i in b.indices] for e in range(3)]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_strong_augmentation_ends_exactly_at_its_epoch_in_all_workers() -> None:
    for epoch, strong in ((2, 255), (3, 0)):
        for batch in make(2).epoch(epoch):
            assert torch.all(batch.images[:, :, 0, 2] == strong)


def test_targets_are_padded_and_boxes_are_never_cut_off() -> None:
    batch = next(make(batch_size=11).epoch(0))
    counts = [i % 3 for i in batch.indices]
    assert batch.targets.valid.sum(1).tolist() == counts
    assert batch.targets.boxes.shape == (11, 2, 4)
    assert torch.all(batch.targets.boxes[~batch.targets.valid] == 0)


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (11, [4, 4, 3]), (8, [4, 4]), (1, [1]), (5, [5])])
def test_a_last_batch_of_one_joins_the_one_before(count: int, sizes: list[int]) -> None:
    loader = make(dataset=Numbered(count))
    assert [len(b.indices) for b in loader.epoch(0)] == sizes
    assert len(loader) == len(sizes)


def test_ranks_share_an_epoch_without_overlap_and_get_as_many_batches() -> None:
    parts = [make(dataset=Numbered(10), rank=r, world_size=2) for r in range(2)]
    seen = [[i for b in part.epoch(0) for i in b.indices] for part in parts]
    assert len(seen[0]) == len(seen[1]) == 5
    assert sorted(seen[0] + seen[1]) == list(range(10))


def test_multiscale_really_resizes_whole_batches_and_stops_with_the_augmentation() -> None:
    def draw(rng: np.random.Generator) -> tuple[int, int]:
        rows = int(rng.integers(1, 3))
        return 32 * rows, 64 * rows

    loader = make(dataset=Numbered(60), batch_size=2, sizes=draw)
    sizes = [tuple(b.images.shape[2:]) for b in loader.epoch(0)]
    assert set(sizes) <= {(32, 64), (64, 128)}
    assert len(set(sizes)) == 2
    assert all(len(set(sizes[i : i + SIZE_PERIOD])) == 1 for i in range(0, len(sizes), SIZE_PERIOD))
    assert {tuple(b.images.shape[2:]) for b in loader.epoch(3)} == {(32, 32)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_reaches_the_caller_as_a_plain_data_error(workers: int) -> None:
    with pytest.raises(DataError, match=r"broken\.jpg") as caught:
        list(make(workers, dataset=Numbered(bad=3)).epoch(0))
    assert "Traceback" not in caught.value.message
    with pytest.raises(DataError, match=r"broken\.jpg"):
        list(EvalLoader(Numbered(bad=3), PREPROCESS, 4, workers))


def test_an_empty_training_set_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        make(dataset=Numbered(0))


def test_evaluation_goes_through_all_images_in_order() -> None:
    batches = list(EvalLoader(Numbered(), PREPROCESS, 4, 1))
    assert [i for b in batches for i in b.indices] == list(range(11))
    assert batches[2].images.shape == (3, 3, 32, 32)
    assert batches[0].sizes == [(40, 40)] * 4
    assert torch.all(batches[0].images[2] == 2)
