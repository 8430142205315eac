"""The contract of a transform. Checked by `stdet.testing.TransformContract`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stdet.interfaces.advice import Proposal, Situation
from stdet.interfaces.family import Options
from stdet.structures import Preprocess, Sample

if TYPE_CHECKING:
    import numpy as np

Sizes = Callable[["np.random.Generator"], tuple[int, int]]
"""Draws (height, width) of a batch, pixels."""


class RecipeOptions(Options):
    """Base of the keys that a training recipe adds to the `dataset` section, and what the loader asks of them."""

    def sizes(self, size: tuple[int, int]) -> Sizes | None:
        """The draw of training sizes around the network's (height, width); None trains at that size alone."""
        return None

    def recent_partners(self) -> int | None:
        """From how many recently used images `TransformContext.draw` draws; None draws from the whole set."""
        return None

    def idle(self, given: Mapping[str, Any]) -> Iterable[str]:
        """A sentence for each of the recipe's keys that the config gives and that does nothing beside the others.

        Args:
            given: the `dataset` section as it was written.
        """
        return ()

    @classmethod
    def proposals(cls, situation: Situation) -> Iterable[Proposal]:
        """Values of the recipe's keys for whoever has no config yet; defaults that suit needn't be among them."""
        return ()


@dataclass(frozen=True)
class TransformContext:
    """What a transform may know beyond its sample.

    Attributes:
        rng: the only source of randomness, seeded from (seed, epoch, position), so that a sample is the same whatever
            worker makes it.
        draw: returns another random sample of the data set (not transformed, lazily decoded); for mosaic and mixup.
        preprocess: size, resize mode, padding and colour of the network's input. Its size is that of this batch.
        strong: False once the strong augmentation (mosaic, mixup) is closed.
    """

    rng: np.random.Generator
    draw: Callable[[], Sample]
    preprocess: Preprocess
    strong: bool = True


class Transform(ABC):
    """Sample to sample, boxes kept in step with the pixels.

    A *training recipe* is a transform whose result has the network's input size (`context.preprocess.size`). Colour
    order and normalisation are applied afterwards, by `stdet.data`: transforms see and return uint8 RGB.
    """

    @abstractmethod
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The transformed sample; the argument is not modified."""
