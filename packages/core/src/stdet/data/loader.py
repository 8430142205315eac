"""Batches for training and evaluation. Workers keep no state: a training sample depends on (seed, epoch, position) only.

So a run gives the same samples with any number of workers, and a resumed run gets the rest of an epoch exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stdet.data.image_cache import DiskCache, ImageCache, MemoryCache, RecentImages
from stdet.data.preprocess import Geometry, prepare, to_tensor_layout
from stdet.errors import DataError, StdetError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Targets
from stdet.interfaces.transform import Sizes, Transform, TransformContext
from stdet.structures import Preprocess, Sample

log = logging.getLogger(__name__)

SIZE_PERIOD = 10
"""Batches that share one multi-scale size, as in YOLOX."""

LANES = 12
"""Batches n, n + 12, n + 24... share recent images: with 1, 2, 3, 4, 6 or 12 workers all of them are made by the same
worker, which then decodes each image once. With another number samples are the same, but made more slowly."""

T = TypeVar("T")


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
class _Key:
    """All that a worker needs to make one training sample."""

    index: int
    epoch: int
    position: int
    strong: bool
    size: tuple[int, int]
    partners: np.ndarray | None


class TrainLoader:
    """Training batches, shuffled anew each epoch.

    A last batch of a single image joins the one before it: BatchNorm can't train on one value a channel, which is what
    a single image gives where the feature map is 1 x 1.
    """

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
            DataError: the data set is empty.
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
            cache = MemoryCache(dataset, preprocess, cache_limit_bytes)
        elif cache_images == "disk":
            cache = DiskCache(dataset, preprocess, cache_limit_bytes)
        elif recent_partners is not None:
            processes = max(1, num_workers)
            count = -(-LANES // processes) * (recent_partners + batch_size)
            cache = RecentImages(dataset, preprocess, count, cache_limit_bytes // processes)
        self._samples = _TrainingSamples(dataset, recipe, preprocess, seed, cache)
        self._recent = recent_partners
        self._closed_from = epochs - no_aug_epochs
        self._workers = num_workers
        self._sizes = sizes
        self._rank, self._world = rank, world_size
        self._per_rank = -(-len(dataset) // world_size)

    def __len__(self) -> int:
        """Batches an epoch; the same in every process."""
        full, rest = divmod(self._per_rank, self.batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and full == 0)))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 0), beginning with batch `start_step`."""
        keys = self._keys(epoch)[start_step:]
        if not keys:
            return
        loader = DataLoader(
            self._samples,
            batch_sampler=keys,
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # else every epoch would advance torch's global generator
        )
        yield from _raising(loader)

    def _keys(self, epoch: int) -> list[list[_Key]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._samples.dataset))
        order = np.resize(order, self._per_rank * self._world)  # wraps around so that every process gets as many
        mine = [(position, int(order[position])) for position in range(self._rank, len(order), self._world)]
        strong = epoch < self._closed_from
        batches = [mine[first:last] for first, last in self._bounds()]
        partners = self._partners(batches)
        sizes = self._batch_sizes(epoch, strong)
        return [
            [_Key(index, epoch, position, strong, size, pool) for position, index in batch]
            for batch, size, pool in zip(batches, sizes, partners, strict=True)
        ]

    def _partners(self, batches: list[list[tuple[int, int]]]) -> list[np.ndarray | None]:
        """For each batch of (position, index), the indices that its samples draw partners from; None for all."""
        if self._recent is None:
            return [None] * len(batches)
        lanes: list[np.ndarray] = [np.zeros(0, np.int64)] * LANES
        pools: list[np.ndarray | None] = []
        for number, batch in enumerate(batches):
            own = np.array([index for _, index in batch])
            earlier = max(0, self._recent - len(own))
            lanes[number % LANES] = np.concatenate([lanes[number % LANES][-earlier:] if earlier else own[:0], own])
            pools.append(lanes[number % LANES])
        return pools

    def _bounds(self) -> list[tuple[int, int]]:
        starts = [i * self.batch_size for i in range(len(self))]
        return list(zip(starts, [*starts[1:], self._per_rank], strict=True))

    def _batch_sizes(self, epoch: int, strong: bool) -> list[tuple[int, int]]:
        if self._sizes is None or not strong:
            return [self._samples.preprocess.size] * len(self)
        rng = np.random.default_rng([self.seed, epoch, 1 << 32])
        drawn = [self._sizes(rng) for _ in range(0, len(self), SIZE_PERIOD)]
        return [drawn[i // SIZE_PERIOD] for i in range(len(self))]


_TrainingSample = tuple[np.ndarray, np.ndarray, np.ndarray, int]
_EvaluationSample = tuple[np.ndarray, int, Geometry, tuple[int, int]]


class _TrainingSamples(Dataset[_TrainingSample | StdetError]):
    """Makes the sample of a key. An unusable file is handed over as a value: a worker's exception would reach the user
    wrapped in the worker's traceback."""

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Transform,
        preprocess: Preprocess,
        seed: int,
        cache: ImageCache | None = None,
    ) -> None:
        self.dataset = dataset
        self.preprocess = preprocess
        self._recipe = recipe
        self._seed = seed
        self._source = cache or dataset

    def __getitem__(self, key: _Key) -> _TrainingSample | StdetError:
        rng = np.random.default_rng([self._seed, key.epoch, key.position])
        same = key.size == self.preprocess.size
        preprocess = self.preprocess if same else self.preprocess.with_size(*key.size)

        def draw() -> Sample:
            if key.partners is None:
                return self._source.sample(int(rng.integers(len(self.dataset))))
            return self._source.sample(int(rng.choice(key.partners)))

        context = TransformContext(rng, draw, preprocess, key.strong)
        try:
            sample = self._recipe(self._source.sample(key.index), context)
        except StdetError as error:
            return error
        return to_tensor_layout(sample.image, preprocess), sample.boxes, sample.labels, key.index


def _raising(batches: Iterable[T | StdetError]) -> Iterator[T]:
    """The batches; the first error among them is raised here, in the caller's process."""
    for batch in batches:
        if isinstance(batch, StdetError):
            raise batch
        yield batch


def _collate(made: list[_TrainingSample | StdetError]) -> Batch | StdetError:
    samples = [sample for sample in made if not isinstance(sample, StdetError)]
    if len(samples) < len(made):
        return next(sample for sample in made if isinstance(sample, StdetError))
    images = torch.from_numpy(np.stack([image for image, *_ in samples]))
    most = max((len(labels) for _, _, labels, _ in samples), default=0)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1, dtype=torch.int64)
    for row, (_, own_boxes, own_labels, _) in enumerate(samples):
        boxes[row, : len(own_labels)] = torch.from_numpy(np.ascontiguousarray(own_boxes, np.float32)).reshape(-1, 4)
        labels[row, : len(own_labels)] = torch.from_numpy(np.ascontiguousarray(own_labels, np.int64))
    return Batch(images, Targets(boxes, labels), [index for *_, index in samples])


class EvalLoader:
    """Images in order, preprocessed, without augmentation."""

    def __init__(
        self,
        dataset: DetectionDataset,
        preprocess: Preprocess,
        batch_size: int,
        num_workers: int = 0,
        indices: list[int] | None = None,
    ) -> None:
        """Args:
        indices: the images to go through; all when None.
        """
        self.dataset = dataset
        self.preprocess = preprocess
        self.indices = list(range(len(dataset))) if indices is None else indices
        self._batch_size = batch_size
        self._workers = num_workers

    def __len__(self) -> int:
        return -(-len(self.indices) // self._batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        starts = range(0, len(self.indices), self._batch_size)
        yield from _raising(
            DataLoader(
                _EvaluationSamples(self.dataset, self.preprocess),
                batch_sampler=[self.indices[i : i + self._batch_size] for i in starts],
                num_workers=self._workers,
                collate_fn=_collate_evaluation,
                worker_init_fn=_quiet_worker,
                generator=torch.Generator(),
            )
        )


class _EvaluationSamples(Dataset[_EvaluationSample | StdetError]):
    """Reads and preprocesses the image of an index; errors as in `_TrainingSamples`."""

    def __init__(self, dataset: DetectionDataset, preprocess: Preprocess) -> None:
        self._dataset = dataset
        self._preprocess = preprocess

    def __getitem__(self, index: int) -> _EvaluationSample | StdetError:
        try:
            image = self._dataset.read_image(index)
        except DataError as error:
            return error
        pixels, geometry = prepare(image, self._preprocess)
        return pixels, index, geometry, (image.shape[0], image.shape[1])


def _collate_evaluation(made: list[_EvaluationSample | StdetError]) -> EvalBatch | StdetError:
    samples = [sample for sample in made if not isinstance(sample, StdetError)]
    if len(samples) < len(made):
        return next(sample for sample in made if isinstance(sample, StdetError))
    images, indices, geometries, sizes = (list(column) for column in zip(*samples, strict=True))
    return EvalBatch(torch.from_numpy(np.stack(images)), indices, geometries, sizes)


def _quiet_worker(worker: int, **_: Any) -> None:
    """One thread a worker: the processors are already shared out among the workers and the trainer."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
