"""What the components tell the config layer. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.scheduler import ScheduleOptions
from stdet.interfaces.target import Benchmarking, Mistake, Quantization, TargetFacts, TargetRequest
from stdet.interfaces.transform import RecipeOptions
from stdet.structures import Preprocess


class StarsOptions(Options):
    """Keys of the reader."""

    stars: int = Field(default=2, ge=1, description="stars in each image")
    skies: int = Field(default=8, ge=1, description="images of each split")


class PlainOptions(RecipeOptions):
    """Keys of the recipe."""

    keep_stars: bool = Field(True, description="whether the boxes stay")


class FlatOptions(ScheduleOptions):
    """Keys of the schedule."""

    share: float = Field(1.0, gt=0, le=1, description="of the base rate")


class ChipQuantization(Quantization):
    """Keys of the target in `quantization`."""

    bits: int = Field(8, ge=2, le=16, description="of the weights")


class ChipBenchmarking(Benchmarking):
    """Keys of the target in `benchmarking`."""

    clock_mhz: int = Field(100, gt=0, description="of the core")
    cycles_per_weight: float = Field(2.0, gt=0, description="what a weight costs")


def check(request: TargetRequest) -> Iterator[Mistake]:
    """An odd number of bits can't be packed."""
    quantization = request.sections.quantization
    assert isinstance(quantization, ChipQuantization)
    if quantization.bits % 2:
        yield Mistake("quantization.bits", f"found {quantization.bits}, which can't be packed", "even numbers")


STARS = ReaderFacts(options=StarsOptions, needs=())
CHIP = TargetFacts(
    sections={"quantization": ChipQuantization, "benchmarking": ChipBenchmarking},
    backends=("cycles",),
    default_backends=("cycles",),
    check=check,
)
ACME = ModelFamily(
    model_type="acme",
    trainer_name="acme",
    preprocess=Preprocess(64, 64),
    augmentation="acme_plain",
    scheduler="acme_flat",
    ema=False,
    size_multiple=8,
    min_size=32,
    box_coding="acme",
    strides=(8,),
)
