"""Batches for training and evaluation. Workers keep no state: a training sample depends on (seed, epoch, position) only.

So a run gives the same samples with any number of workers, and a resumed run gets the rest of an epoch exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stdet.data.image_cache import DiskCache, ImageCache, MemoryCache, RecentImages
from stdet.data.plan import LANES, Key, Plan
from stdet.data.preprocess import Geometry, prepare, to_tensor_layout
from stdet.data.workers import Workers, never
from stdet.errors import DataError, Interrupted
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Targets
from stdet.interfaces.transform import Sizes, Transform, TransformContext
from stdet.structures import Preprocess, Sample

SIZE_PERIOD = 10
"""Batches that share one multi-scale size, as in YOLOX."""


@dataclass(frozen=True)
class Batch:
    """A training batch.

    Attributes:
        images: uint8 (B, C, h, w), channels in the network's order.
        targets: boxes in pixels of `images`.
        indices: of the samples in the data set.
    """

    images: Tensor
    targets: Targets
    indices: list[int]


@dataclass(frozen=True)
class EvalBatch:
    """An evaluation batch.

    Attributes:
        images: uint8 (B, C, H, W), channels in the network's order.
        indices: of the images in the data set.
        geometries: image to input, one an image.
        sizes: (height, width) of the original images, pixels.
    """

    images: Tensor
    indices: list[int]
    geometries: list[Geometry]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class _Task:
    """A training batch to be made."""

    epoch: int
    number: int
    strong: bool
    size: tuple[int, int]


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]
"""Images, boxes, labels and indices of a `Batch`; arrays travel between processes."""


class TrainLoader:
    """Training batches, shuffled anew each epoch, made by the same workers in all epochs."""

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Transform,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        no_aug_epochs: int = 0,
        num_workers: int = 0,
        sizes: Sizes | None = None,
        rank: int = 0,
        world_size: int = 1,
        cache_images: Literal["none", "ram", "disk"] = "none",
        cache_limit_bytes: int = 8 << 30,
        recent_partners: int | None = None,
    ) -> None:
        """Args:
        dataset: images and boxes.
        recipe: makes a training sample of the network's input size.
        preprocess: size and colour order of the network's input.
        batch_size: images a batch, in this process.
        seed: of the shuffling, the augmentation and the sizes.
        epochs: in all; with `no_aug_epochs`, from which epoch on strong augmentation is off.
        num_workers: processes that make samples; 0 makes them in this one.
        sizes: draws another input size every `SIZE_PERIOD` batches, except in the last `no_aug_epochs`.
        rank, world_size: this process's share of every epoch.
        cache_images: where decoded images are kept, see `stdet.data.image_cache`.
        cache_limit_bytes: of that memory or disk space; shared out among the workers where each has its own.
        recent_partners: number of images of the batch itself and of batches `LANES`, 2 `LANES`... before it in the epoch
            that `TransformContext.draw` chooses from; None draws from the whole set. A batch early in the epoch has
            fewer, at least its own.

        Raises:
            DataError: the data set is empty, or it can't be cached as asked.
        """
        if not len(dataset):
            raise DataError(
                "the training set holds no image", "check dataset.train_images_path and train_annotations_path"
            )
        self.dataset = dataset
        self.seed = seed
        self.batch_size = batch_size
        cache: ImageCache | None = None
        if cache_images == "ram":
            cache = MemoryCache(dataset, preprocess, cache_limit_bytes, shared=num_workers > 0)
        elif cache_images == "disk":
            cache = DiskCache(dataset, preprocess, cache_limit_bytes)
        elif recent_partners is not None:
            processes = max(1, num_workers)
            count = -(-LANES // processes) * (recent_partners + batch_size)
            cache = RecentImages(dataset, preprocess, count, cache_limit_bytes // processes)
        self.plan = Plan(len(dataset), batch_size, seed, rank, world_size, recent_partners)
        self._samples = _TrainingSamples(dataset, recipe, preprocess, seed, self.plan, cache)
        self._epochs = epochs
        self._closed_from = epochs - no_aug_epochs
        self._num_workers = num_workers
        self._size, self._sizes = preprocess.size, sizes
        self._workers: Workers[_Task, _Arrays] | None = None
        self._tasks: Iterator[_Task] = iter(())
        self._next = (0, 0)  # epoch and number of the batch that the workers make next

    def __len__(self) -> int:
        """Batches an epoch; the same in every process."""
        return len(self.plan)

    def epoch(self, epoch: int, start_step: int = 0, stop: Callable[[], bool] = never) -> Iterator[Batch]:
        """The batches of `epoch` (from 0), beginning with batch `start_step`.

        The workers go on with the next epoch while this one's end is worked on.

        Args:
            stop: whether to wait no longer for a batch that isn't there.

        Raises:
            Interrupted: `stop` said so.
            PeerLost: a worker died, or makes no batch.
            DataError: an image can't be read.
        """
        if start_step >= len(self):
            return
        planned = self._next == (epoch, start_step) and epoch < self._epochs  # nothing is made ahead of the last epoch
        if self._workers is None or not planned:
            self.close()
            self._workers = Workers(self._samples, self._num_workers)
            self._tasks = self._tasks_from(epoch, start_step)
        for number in range(start_step, len(self)):
            while self._workers.idle and (task := next(self._tasks, None)):
                self._workers.give(task.number, task)
            self._next = (-1, 0)  # in case that the next line fails
            images, boxes, labels, indices = self._workers.take(stop)
            self._next = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            targets = Targets(torch.from_numpy(boxes), torch.from_numpy(labels))
            yield Batch(torch.from_numpy(images), targets, indices)

    def close(self) -> None:
        """End the workers; `epoch` starts others."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _tasks_from(self, epoch: int, start: int) -> Iterator[_Task]:
        """To the end of the training."""
        for one in range(epoch, max(self._epochs, epoch + 1)):
            strong = one < self._closed_from
            sizes = self._batch_sizes(one, strong)
            for number in range(start if one == epoch else 0, len(self)):
                yield _Task(one, number, strong, sizes[number // SIZE_PERIOD])

    def _batch_sizes(self, epoch: int, strong: bool) -> list[tuple[int, int]]:
        """One for every `SIZE_PERIOD` batches."""
        periods = range(0, len(self), SIZE_PERIOD)
        if self._sizes is None or not strong:
            return [self._size for _ in periods]
        rng = np.random.default_rng([self.seed, epoch, 1 << 32])
        return [self._sizes(rng) for _ in periods]


class _TrainingSamples:
    """Makes the batch of a task."""

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Transform,
        preprocess: Preprocess,
        seed: int,
        plan: Plan,
        cache: ImageCache | None,
    ) -> None:
        self._dataset = dataset
        self._preprocess = preprocess
        self._recipe = recipe
        self._seed = seed
        self._plan = plan
        self._source = cache or dataset

    def __call__(self, task: _Task) -> _Arrays:
        same = task.size == self._preprocess.size
        preprocess = self._preprocess if same else self._preprocess.with_size(*task.size)
        keys = self._plan.keys(task.epoch, task.number)
        samples = [self._sample(key, task.strong, preprocess) for key in keys]
        images = np.stack([to_tensor_layout(sample.image, preprocess) for sample in samples])
        most = max(len(sample.labels) for sample in samples)
        boxes = np.zeros((len(samples), most, 4), np.float32)
        labels = np.full((len(samples), most), -1, np.int64)
        for row, sample in enumerate(samples):
            boxes[row, : len(sample.labels)] = np.asarray(sample.boxes, np.float32).reshape(-1, 4)
            labels[row, : len(sample.labels)] = sample.labels
        return images, boxes, labels, [key.index for key in keys]

    def _sample(self, key: Key, strong: bool, preprocess: Preprocess) -> Sample:
        rng = np.random.default_rng([self._seed, key.epoch, key.position])

        def draw() -> Sample:
            if key.partners is None:
                return self._source.sample(int(rng.integers(len(self._dataset))))
            return self._source.sample(int(rng.choice(key.partners)))

        return self._recipe(self._source.sample(key.index), TransformContext(rng, draw, preprocess, strong))


class EvalLoader:
    """Images in order, preprocessed, without augmentation."""

    def __init__(
        self,
        dataset: DetectionDataset,
        preprocess: Preprocess,
        batch_size: int,
        num_workers: int = 0,
        indices: list[int] | None = None,
        stop: Callable[[], bool] = never,
    ) -> None:
        """Args:
        indices: the images to go through; all when None.
        stop: whether to go no further.
        """
        self.dataset = dataset
        self.preprocess = preprocess
        self.indices = list(range(len(dataset))) if indices is None else indices
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._stop = stop

    def __len__(self) -> int:
        return -(-len(self.indices) // self._batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        """Raises:
        Interrupted: `stop` says so.
        PeerLost: a worker died, or makes no batch.
        DataError: an image can't be read.
        """
        starts = iter(range(0, len(self.indices), self._batch_size))
        with closing(Workers(self._batch, min(self._num_workers, len(self)))) as workers:
            for _ in range(len(self)):
                while workers.idle and (start := next(starts, None)) is not None:
                    workers.give(start // self._batch_size, start)
                if self._stop():
                    raise Interrupted("stopped while evaluating")
                images, indices, geometries, sizes = workers.take(self._stop)
                yield EvalBatch(torch.from_numpy(images), indices, geometries, sizes)

    def _batch(self, start: int) -> tuple[np.ndarray, list[int], list[Geometry], list[tuple[int, int]]]:
        indices = self.indices[start : start + self._batch_size]
        images = [self.dataset.read_image(index) for index in indices]
        pixels, geometries = zip(*(prepare(image, self.preprocess) for image in images), strict=True)
        return np.stack(pixels), indices, list(geometries), [(image.shape[0], image.shape[1]) for image in images]
