"""Caches of decoded images: same samples whatever is in them, bounded, shared, and never stale."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stdet.data.image_cache import DiskCache, MemoryCache, RecentImages, working_size
from stdet.data.image_io import read_image
from stdet.data.loader import Batch, TrainLoader
from stdet.data.plan import LANES
from stdet.errors import DataError, StdetError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Annotation, Preprocess, Sample

PREPROCESS = Preprocess(32, 32, "letterbox")
CACHES = [{"cache_images": "ram"}, {"cache_images": "disk"}, {"recent_partners": 8}, {}]


class Files(DetectionDataset):
    """Noise in PNG files of 64 x 48, with a box each; every decoding is noted in a file, from whatever process."""

    class_names = ("a",)

    def __init__(self, folder: Path, count: int = 30) -> None:
        self.folder, self.count = folder, count
        folder.mkdir(exist_ok=True)
        for index in range(count):
            self.paint(index, index)

    def paint(self, index: int, seed: int) -> None:
        small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(self.path(index)), cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))

    def path(self, index: int) -> Path:
        return self.folder / f"{index}.png"

    def __len__(self) -> int:
        return self.count

    def annotation(self, index: int) -> Annotation:
        box = np.array([[8, 4, 40, 44]], np.float32)
        none = np.zeros(1, np.int64)
        return Annotation(index, self.path(index), 48, 64, box, none, np.zeros(1, bool), np.ones(1, np.float32))

    def read_image(self, index: int) -> np.ndarray:
        with (self.folder / "decoded").open("a") as log:
            log.write(f"{index}\n")
        return read_image(self.path(index))

    def decoded(self) -> list[int]:
        """What was decoded since the last call."""
        log = self.folder / "decoded"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [int(line) for line in lines]


class Pair(Transform):
    """The image above a drawn partner."""

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        image = np.zeros((32, 32, 3), np.uint8)
        for row, source in enumerate((sample, context.draw())):
            image[16 * row : 16 * row + 16] = cv2.resize(source.image, (32, 16), interpolation=cv2.INTER_NEAREST)
        return Sample(image, sample.boxes, sample.labels)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("STDET_CACHE", str(tmp_path / "cache"))
    return Files(tmp_path / "images")


def loader(files: Files, **options: Any) -> TrainLoader:
    return TrainLoader(files, Pair(), PREPROCESS, **{"batch_size": 4, "seed": 3, "epochs": 4, **options})


def same(one: list[Batch], other: list[Batch]) -> bool:
    return [b.indices for b in one] == [b.indices for b in other] and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets.boxes, b.targets.boxes)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("cache", CACHES)
def test_samples_depend_neither_on_workers_nor_on_what_is_cached_nor_on_a_resume(
    files: Files, cache: dict[str, Any]
) -> None:
    first = loader(files, **cache)
    cold = list(first.epoch(1))
    assert same(cold, list(first.epoch(1)))
    for workers in (1, 3):
        shared = loader(files, num_workers=workers, **cache)
        assert same(cold, list(shared.epoch(1)))
        assert same(cold, list(shared.epoch(1)))
    assert same(cold[5:], list(loader(files, num_workers=2, **cache).epoch(1, start_step=5)))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_the_workers_of_all_epochs_decode_each_image_once(files: Files, kind: Any) -> None:
    shared = loader(files, num_workers=2, cache_images=kind)
    list(shared.epoch(0))
    seen = files.decoded()
    assert set(seen) == set(range(30))
    assert len(seen) <= 33  # two workers may begin with the same image at the same time
    for epoch in (1, 2):
        list(shared.epoch(epoch))
    assert files.decoded() == []


def test_only_the_disk_cache_outlasts_the_loader(files: Files) -> None:
    for kind, expected in (("disk", 0), ("ram", 30)):
        list(loader(files, cache_images=kind).epoch(0))
        files.decoded()
        list(loader(files, cache_images=kind).epoch(0))
        assert len(files.decoded()) == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_with_recent_partners_each_image_is_decoded_once_an_epoch(files: Files, workers: int) -> None:
    list(loader(files, num_workers=workers, epochs=1, recent_partners=8).epoch(0))
    assert sorted(files.decoded()) == list(range(30))
    list(loader(files, num_workers=workers, epochs=1).epoch(0))
    assert len(files.decoded()) == 60


def test_recent_partners_come_from_the_own_and_earlier_batches_of_the_lane(files: Files) -> None:
    big = Files(files.folder, 4 * LANES * 3)
    plan = loader(big, recent_partners=7).plan
    keys = [plan.keys(0, number) for number in range(len(plan))]
    batches = [[key.index for key in batch] for batch in keys]
    for number, batch in enumerate(keys):
        before = batches[number - LANES] if number >= LANES else []
        assert batch[0].partners is not None
        assert batch[0].partners.tolist() == [*before[-3:], *batches[number]]
    assert {key.partners for key in loader(big).plan.keys(0, 0)} == {None}


@pytest.mark.parametrize("kind", [MemoryCache, DiskCache])
def test_a_cache_keeps_no_more_than_its_limit(files: Files, kind: Any) -> None:
    each = 32 * 24 * 3
    cache = kind(files, PREPROCESS, 10 * each + 5)
    for _ in range(2):
        images = [cache.sample(index).image for index in range(30)]
    assert files.decoded() == [*range(30), *range(10, 30)]
    assert {image.shape for image in images} == {(24, 32, 3)}
    stored = [path for path in (files.folder.parent / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in stored) == (10 * each if kind is DiskCache else 0)


@pytest.mark.parametrize(("count", "limit", "kept"), [(5, 1 << 30, 5), (30, 4 * 32 * 24 * 3, 4)])
def test_recent_images_are_bounded_by_number_and_bytes_and_the_oldest_goes(
    files: Files, count: int, limit: int, kept: int
) -> None:
    cache = RecentImages(files, PREPROCESS, count, limit)
    for index in (*range(10), 9, 8):
        _ = cache.sample(index).image
    files.decoded()
    for index in range(9, 9 - kept, -1):
        _ = cache.sample(index).image
    assert files.decoded() == []
    _ = cache.sample(9 - kept).image
    assert files.decoded() == [9 - kept]


def test_a_changed_image_is_decoded_again_and_a_damaged_entry_made_anew(files: Files) -> None:
    before = DiskCache(files, PREPROCESS, 1 << 30).sample(3).image.copy()
    status = files.path(3).stat()
    files.paint(3, 99)
    os.utime(files.path(3), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = DiskCache(files, PREPROCESS, 1 << 30).sample(3).image
    assert not np.array_equal(changed, before)
    files.decoded()
    for entry in (files.folder.parent / "cache" / "images").rglob("*"):
        if entry.is_file():
            entry.write_bytes(entry.read_bytes()[:100])
    assert np.array_equal(DiskCache(files, PREPROCESS, 1 << 30).sample(3).image, changed)
    assert np.array_equal(DiskCache(files, PREPROCESS, 1 << 30).sample(3).image, changed)
    assert files.decoded() == [3]


@pytest.mark.parametrize(
    "other",
    [
        Preprocess(40, 40, "letterbox"),
        Preprocess(32, 32, "fit"),
        Preprocess(24, 32, "fit"),  # makes the same size of these images as the letterbox does
        Preprocess(32, 32, "letterbox", interpolation="area"),
        Preprocess(32, 32, "letterbox", color_mode="rgba", mean=(0.0,) * 4, std=(1.0,) * 4),
    ],
)
def test_entries_of_another_size_mode_kernel_or_colour_are_not_found(files: Files, other: Preprocess) -> None:
    _ = DiskCache(files, PREPROCESS, 1 << 30).sample(0).image
    files.decoded()
    _ = DiskCache(files, other, 1 << 30).sample(0).image
    assert files.decoded() == [0]


@pytest.mark.parametrize("mode", ["fit", "letterbox", "crop"])
@pytest.mark.parametrize("kind", [MemoryCache, DiskCache])
def test_boxes_follow_the_pixels_to_the_working_size(files: Files, mode: Any, kind: Any) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[4:44, 8:40] = 255
    cv2.imwrite(str(files.path(0)), image)
    preprocess = Preprocess(20, 40, mode)
    sample = kind(files, preprocess, 1 << 30).sample(0)
    assert (sample.height, sample.width) == sample.image.shape[:2] == working_size((48, 64), preprocess)
    rows, columns = (np.flatnonzero((sample.image[..., 0] > 127).any(axis)) for axis in (1, 0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(sample.boxes[0], seen, atol=1)


def test_small_images_stay_as_they_are_and_cached_pixels_cannot_be_written_to(files: Files) -> None:
    cache = MemoryCache(files, Preprocess(96, 96), 1 << 30)
    for _ in range(2):
        sample = cache.sample(0)
        assert np.array_equal(sample.image, read_image(files.path(0)))
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0] = 0


def test_generated_images_cannot_be_cached_on_disk(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = dataclasses.replace(files.annotation(0), path=None)
    monkeypatch.setattr(files, "annotation", lambda index: generated)
    with pytest.raises(DataError, match="no files"):
        loader(files, cache_images="disk")


def test_a_cache_folder_that_cannot_be_written_is_an_error_that_names_it(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("STDET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StdetError, match="cannot write"):
        list(loader(files, num_workers=1, cache_images="disk").epoch(0))
