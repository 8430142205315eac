"""Which network, and at which size: as large as the objects need, as small as the board wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stdet.build import Builder
from stdet.config import load_text
from stdet.data.source import DataSource
from stdet.datatools.assignment import check_assignment, in_input
from stdet.datatools.splits import Columns
from stdet.errors import ModelError
from stdet.fitting import Candidate, fit, in_a_line
from stdet.interfaces.family import ModelFamily
from stdet.interfaces.reporter import Reporter
from stdet.registry import Catalogue

SMALL_SHARE = 0.05
"""So many objects may be smaller than two cells of the finest grid."""
SIZES = (96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640)
"""Input sides that are proposed, pixels."""
SAMPLE = 20_000
"""Objects that are measured."""


@dataclass(frozen=True)
class Network:
    """A proposed network.

    Attributes:
        size: side of the square input, pixels.
        small: share of the objects, 0..1, that are smaller than two cells of the finest grid.
        why_model, why_size: in a line each.
        width: factor on the channels, where the family's `width_option` is to be set.
    """

    name: str
    family: ModelFamily
    size: int
    small: float
    why_model: str
    why_size: str
    width: float | None = None

    def overrides(self) -> list[str]:
        """As `key=value`."""
        shape = [self.family.preprocess.channels, self.size, self.size]
        width = [] if self.width is None else [f"model.{self.family.width_option}={self.width}"]
        return [f"model.model_name={self.name}", f"model.input_shape={shape}", *width]


@dataclass(frozen=True)
class Objects:
    """The objects of the training images, and how large they are at an input size."""

    columns: Columns

    def small(self, family: ModelFamily, size: int) -> float:
        """Share, 0..1, of the objects whose side (square root of the area) is below two cells of the family's grid."""
        rows = np.flatnonzero(~self.columns.ignore)
        if len(rows) > SAMPLE:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLE])
        boxes = in_input(self.columns, rows, family.preprocess.with_size(size, size))
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        return float((sides < 2 * family.strides[0]).mean()) if len(rows) else 0.0

    def size_for(self, family: ModelFamily) -> tuple[int, str]:
        """The smallest size at which few objects are small, and why it is that one."""
        usable = [s for s in SIZES if s >= family.min_size and s % family.size_multiple == 0]
        cells = f"{2 * family.strides[0]} px, two cells of the finest grid"
        for size in usable:
            small = self.small(family, size)
            if small <= SMALL_SHARE:
                return size, f"the smallest at which at least {1 - SMALL_SHARE:.0%} of the objects have {cells}"
        return usable[-1], f"the largest proposed; still, {small:.0%} of the objects have less than {cells}"


def candidates(catalogue: Catalogue, model: str | None) -> list[tuple[str, ModelFamily]]:
    """Models to try, the best first: families with the finer grid, which sees smaller objects, come before others.

    Args:
        model: this one alone, if given.

    Raises:
        StdetError: there is no such model, or none at all.
    """
    if model is not None:
        return [(model, catalogue.family(model))]
    families = sorted(catalogue.families().values(), key=lambda f: (f.strides[0], f.model_type))
    known = set(catalogue.names("models"))
    found = [(name, family) for family in families for name in family.advice.models if name in known]
    if not found:
        raise ModelError("no installed package proposes a model", "name one with --model; `stdet list models`")
    return found


def choose(
    source: DataSource,
    names: tuple[str, ...],
    columns: Columns,
    reporter: Reporter,
    *,
    model: str | None = None,
    board: str | None = None,
    latency_ms: float | None = None,
) -> Network:
    """The first candidate that the board holds at the size that its objects want; else the one that sees most of them.

    Args:
        names: the classes.
        columns: the training objects.
        board: None knows no limit.
        latency_ms: the longest that an inference may take.

    Raises:
        StdetError: no candidate fits at any size, or the board can't tell.
    """
    objects, catalogue = Objects(columns), source.catalogue
    fallen_short: list[Network] = []
    for name, family in candidates(catalogue, model):
        size, why = objects.size_for(family)
        network = Network(name, family, size, objects.small(family, size), _grid(family), why)
        if board is None:
            return network
        reporter.stage(f"{name} on {board}")
        given = [f"model.num_classes={len(names)}", f"benchmarking.board={board}"]
        config = load_text("", "command line", [*network.overrides(), *given], catalogue, data_only=True)
        found = fit(Builder(config, catalogue), reporter, latency_ms)
        if not found.asked.wrong:
            return dataclasses.replace(network, why_model=_told(family, found.asked))
        fallen_short += _smaller(name, family, size, found.instead, objects)
    if not fallen_short:
        wish = f" within {latency_ms:g} ms" if latency_ms is not None else ""
        raise ModelError(
            f"no proposed model fits {board}{wish} at any size", "another board, or more time; `stdet fit`"
        )
    return min(fallen_short, key=lambda network: network.small)


def _smaller(
    name: str, family: ModelFamily, size: int, instead: Sequence[Candidate], objects: Objects
) -> Iterator[Network]:
    """What fits instead of a network that doesn't."""
    for candidate in instead:
        key, _, text = candidate.change.partition("=")
        told = _told(family, candidate)
        if key == "model.input_shape":
            own = int(text.strip("[]").split(",")[1])
            small = objects.small(family, own)
            why = f"the largest that the board holds; {small:.0%} of the objects are small for it, {size} px would be right"
            yield Network(name, family, own, small, told, why)
        else:
            why = "what the objects want; the board holds it in this width"
            yield Network(name, family, size, objects.small(family, size), told, why, width=float(text))


def _grid(family: ModelFamily) -> str:
    return f"its finest grid has cells of {family.strides[0]} px"


def _told(family: ModelFamily, candidate: Candidate) -> str:
    return f"{_grid(family)}; {candidate.report.device}: {in_a_line(candidate.report)}"


def hard_share(source: DataSource, network: Network, names: tuple[str, ...], columns: Columns) -> float:
    """Share, 0..1, of the objects that the network can hardly be taught (D301), of the class that has most of them."""
    config = load_text("", "command line", network.overrides(), source.catalogue, data_only=True)
    found = check_assignment(DataSource(config, source.catalogue), names, columns)
    return max((max(f.values["share_per_class"].values()) for f in found if f.values), default=0.0)
