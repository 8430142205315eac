"""What a family or a recipe advises whoever has no config yet: values, each with its reason. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Never


@dataclass(frozen=True)
class Proposal:
    """Attributes:
    key: dotted config key.
    value: JSON-able.
    reason: for this value, in a line.
    """

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Situation:
    """What is known when a training is planned.

    Attributes:
        images: of the training set.
        small: share of objects, 0..1, that the network can hardly be taught at its size, of the class that has most.
        batch_size, epochs: of the training.
    """

    images: int
    small: float
    batch_size: int
    epochs: int


def _nothing(situation: Situation) -> Iterable[Never]:
    return ()


@dataclass(frozen=True)
class Advice:
    """Attributes:
    models: of the family, to try on a board, the best first; those that aren't named aren't proposed.
    steps: optimizer steps in which a set of some hundred images is learned from random weights.
    proposals: values for keys beyond those that core fills in itself.
    """

    models: tuple[str, ...] = ()
    steps: int = 1500
    proposals: Callable[[Situation], Iterable[Proposal]] = _nothing
