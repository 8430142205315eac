"""Which images make which training batch: it follows from the seed alone, so any process can tell and none keeps state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANES = 12
"""Batches n, n + 12, n + 24... share recent images: with 1, 2, 3, 4, 6 or 12 workers all of them are made by the same
worker, which then decodes each image once. With another number samples are the same, but made more slowly."""


@dataclass(frozen=True)
class Key:
    """What makes one training sample.

    Attributes:
        index: of the image in the data set.
        epoch, position: in that epoch; with the seed, all the randomness that there is.
        partners: int64 (N,), the indices that partners are drawn from; None for all.
    """

    index: int
    epoch: int
    position: int
    partners: np.ndarray | None


class Plan:
    """The batches of a process, epoch by epoch.

    A last batch of a single image joins the one before it: BatchNorm can't train on one value a channel, which is what
    a single image gives where the feature map is 1 x 1.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, recent: int | None = None
    ) -> None:
        """Args:
        images: in the data set.
        batch_size: in this process.
        rank, world_size: this process's share of every epoch.
        recent: number of images that partners are drawn from, see `TrainLoader`; None for all.
        """
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._rank, self._world, self._recent = rank, world_size, recent
        self._per_rank = -(-images // world_size)
        self._known: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Batches an epoch; the same in every process."""
        full, rest = divmod(self._per_rank, self._batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and full == 0)))

    def keys(self, epoch: int, number: int) -> list[Key]:
        """Of batch `number` of `epoch`, both from 0."""
        first, last = self._bounds(number)
        order = self._order(epoch)
        partners = self._partners(order, number)
        return [
            Key(int(order[place]), epoch, place * self._world + self._rank, partners) for place in range(first, last)
        ]

    def _bounds(self, number: int) -> tuple[int, int]:
        last = (number + 1) * self._batch_size if number + 1 < len(self) else self._per_rank
        return number * self._batch_size, last

    def _order(self, epoch: int) -> np.ndarray:
        """int64 (N,): the images of this process; the last epoch asked for is kept."""
        if self._known[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._images)
            order = np.resize(order, self._per_rank * self._world)  # wraps around so that every process gets as many
            self._known = epoch, order[self._rank :: self._world]
        return self._known[1]

    def _partners(self, order: np.ndarray, number: int) -> np.ndarray | None:
        """The images of batch `number`, before them the latest of its lane."""
        if self._recent is None:
            return None
        own = order[slice(*self._bounds(number))]
        earlier: list[np.ndarray] = []
        missing = self._recent - len(own)
        for before in range(number - LANES, -1, -LANES):
            if missing <= 0:
                break
            earlier.insert(0, order[slice(*self._bounds(before))][-missing:])
            missing -= len(earlier[0])
        return np.concatenate([*earlier, own])
