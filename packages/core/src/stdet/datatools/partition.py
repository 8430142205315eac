"""Dividing images among the sides of a split: by number, with like shares of every class, and groups kept together."""

from __future__ import annotations

import numpy as np


def joined(count: int, links: np.ndarray) -> np.ndarray:
    """int64 (count,): the group, from 0 on, of each item, when those that `links`, int64 (L, 2), names belong together."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in links.tolist():
        parent[root(other)] = root(one)
    return np.unique([root(item) for item in range(count)], return_inverse=True)[1].astype(np.int64)


def partition(groups: np.ndarray, strata: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The side of each image: iterative stratification (Sechidis et al., ECML PKDD 2011) of groups of images.

    A side has at most as many images more than wanted as the largest group has beside the one that doesn't fit. A class of
    several groups is on as many sides as it has groups, the first sides first, where there is room.

    Args:
        groups: int64 (N,), from 0 on; images of a group stay together.
        strata: int64 (N, C), what shall be shared out alike: the objects of each class in each image.
        wanted: int64 (S,), images of each side; their sum is N.

    Returns:
        int64 (N,), 0..S - 1.
    """
    sizes = np.bincount(groups)
    contents = np.zeros((len(sizes), strata.shape[1]), np.int64)
    np.add.at(contents, groups, strata)
    division = _Division(sizes, contents, wanted)
    # the rarest class first, and of its groups the largest first, since those are the hardest to place
    order = np.argsort(contents.sum(0), kind="stable")
    shuffled = rng.permutation(len(sizes))
    shuffled = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    for stratum in order:
        division.spread(stratum, shuffled)
    for stratum in order:
        for group in shuffled[contents[shuffled, stratum] > 0]:
            division.place(group, stratum)
    for group in shuffled:
        division.place(group, None)
    return division.side[groups]


class _Division:
    """Groups on their way to a side.

    Attributes:
        side: int64 (G,), of each group; -1 for those that are still free.
    """

    def __init__(self, sizes: np.ndarray, contents: np.ndarray, wanted: np.ndarray) -> None:
        self.side = np.full(len(sizes), -1)
        self._sizes = sizes
        self._contents = contents
        self._room = wanted.copy()
        self._lacking = wanted[:, None] / wanted.sum() * contents.sum(0)  # of each stratum on each side
        self._has = np.zeros(self._lacking.shape, bool)

    def spread(self, stratum: int, order: np.ndarray) -> None:
        """Give each side a group with `stratum`, as far as there are so many and room for them.

        The smallest one that has most of what the side still lacks, so that few groups serve many classes.
        """
        holders = order[self._contents[order, stratum] > 0]
        for side in range(min(len(self._room), len(holders))):
            if self._has[side, stratum]:
                continue
            free = holders[(self.side[holders] < 0) & (self._sizes[holders] <= self._room[side])]
            if len(free):
                news = ((self._contents[free] > 0) & ~self._has[side]).sum(1)
                self._assign(int(free[np.lexsort((self._sizes[free], -news))[0]]), side)

    def place(self, group: int, stratum: int | None) -> None:
        """Put a free group on the side that lacks most of `stratum`, or has most room, of those where it fits."""
        if self.side[group] >= 0:
            return
        fits = np.flatnonzero(self._room >= self._sizes[group])
        lacking = self._room if stratum is None else self._lacking[:, stratum]
        if len(fits):
            self._assign(group, int(fits[np.lexsort((-self._room[fits], -lacking[fits]))[0]]))
        else:
            self._assign(group, int(self._room.argmax()))

    def _assign(self, group: int, side: int) -> None:
        self.side[group] = side
        self._room[side] -= self._sizes[group]
        self._lacking[side] -= self._contents[group]
        self._has[side] |= self._contents[group] > 0
