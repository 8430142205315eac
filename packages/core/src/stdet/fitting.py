"""Whether a network will fit a board, before any training: what the target says of it, and which smaller one does fit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stdet.build import Builder
from stdet.errors import DataError, ModelError, StdetError
from stdet.interfaces.deploy import BenchReport, DeployTarget
from stdet.interfaces.reporter import Reporter
from stdet.known import known
from stdet.structures import DetectorSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A network and what the target says of it.

    Attributes:
        change: what is different from the config, as `key=value`; empty for the config's own.
        report: of the network with random weights.
        wrong: why it won't do; empty when it will.
    """

    change: str
    report: BenchReport
    wrong: str


@dataclass(frozen=True)
class Fit:
    """Attributes:
    asked: the network of the config.
    instead: the nearest that fit, by size and by width, when that one doesn't; those that exist.
    """

    asked: Candidate
    instead: tuple[Candidate, ...] = ()


def fit(builder: Builder, reporter: Reporter, latency_ms: float | None = None) -> Fit:
    """Build the config's network with random weights, export it, and ask the target; look for a smaller one when it won't do.

    Args:
        latency_ms: how long an inference may take; None when that doesn't matter.

    Raises:
        StdetError: the config names no model, or its target can't tell.
    """
    search = _Search(builder, builder.target(), latency_ms)
    spec = _spec(builder, reporter)
    asked = search.judge(spec, "")
    if not asked.wrong:
        return Fit(asked)
    reporter.note(f"{asked.wrong}; looking for a smaller one")
    return Fit(asked, tuple(filter(None, (search.by_size(spec), search.by_width(spec)))))


def before_training(builder: Builder, reporter: Reporter) -> None:
    """Note what the target says of the config's network with random weights, when the config names a board."""
    board = builder.config.benchmarking.board
    if board is None or board == known().defaults.board:
        return
    try:
        report = _Search(builder, builder.target(), None).judge(_spec(builder, reporter), "").report
    except StdetError as error:
        reporter.note(f"whether the model will fit {board} can't be told: {error.message}")
        return
    reporter.note(f"{report.device}: {in_a_line(report)}")


def in_a_line(report: BenchReport) -> str:
    """Whether it fits and how fast it is, with kind and error."""
    room = "; ".join(_faults(report, None)) or ("the model fits" if report.fits else "whether it fits isn't known")
    if report.latency_ms is None:
        return f"{room}; no latency: {report.latency_reason}" if report.latency_reason else room
    error = "" if report.uncertainty_percent is None else f" ± {report.uncertainty_percent:.0f} %"
    return f"{room}; {report.latency_ms:.1f} ms{error} ({report.latency_kind}, no measurement)"


def _spec(builder: Builder, reporter: Reporter) -> DetectorSpec:
    """With the classes that the config or the training data name."""
    if builder.class_names() or builder.config.model.num_classes is not None:
        return builder.spec_without_data()
    try:
        return builder.spec(builder.dataset("train", None).class_names)
    except DataError as error:
        reporter.note(f"one class is assumed, since the training data can't be read: {error.message}")
        return builder.spec_without_data()


@dataclass(frozen=True)
class _Search:
    builder: Builder
    target: DeployTarget
    latency_ms: float | None

    def judge(self, spec: DetectorSpec, change: str) -> Candidate:
        import torch

        from stdet.export.onnx import export_onnx

        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            path = Path(folder) / f"{spec.model_name}.onnx"
            export_onnx(self.builder.detector(spec), path)
            report = self.target.assess(path)
        return Candidate(change, report, why_not(report, self.latency_ms))

    def by_size(self, spec: DetectorSpec) -> Candidate | None:
        """The largest smaller input of the same shape that will do; found by halving, since what is smaller costs less."""
        family = self.builder.config.family
        assert family is not None
        height, width = spec.preprocess.size
        step, smallest = family.size_multiple, family.min_size
        sizes = [
            (round(height * side / width / step) * step, side)
            for side in range(step * -(-smallest // step), width, step)
        ]
        usable = [size for size in sizes if smallest <= size[0] < height]

        def change(size: tuple[int, int]) -> Candidate:
            resized = dataclasses.replace(spec, preprocess=spec.preprocess.with_size(*size))
            channels = spec.preprocess.channels
            return self.judge(resized, f"model.input_shape=[{channels},{size[0]},{size[1]}]")

        return largest(usable, change)

    def by_width(self, spec: DetectorSpec) -> Candidate | None:
        """The widest of a few narrower networks that will do, where the family has such an option."""
        family = self.builder.config.family
        option = family.width_option if family else ""
        if not option:
            return None
        now = float(spec.options[option])
        narrower = sorted(factor * now for factor in (0.25, 0.35, 0.5, 0.75))

        def change(value: float) -> Candidate:
            options = spec.options | {option: value}
            return self.judge(dataclasses.replace(spec, options=options), f"model.{option}={value:g}")

        return largest(narrower, change)


def largest(ordered: Sequence[T], judge: Callable[[T], Candidate]) -> Candidate | None:
    """The judgement on the last of `ordered` that will do, when all before it do too."""
    if not ordered or (best := judge(ordered[0])).wrong:
        return None
    low, high = 1, len(ordered)
    while low < high:
        middle = (low + high) // 2
        candidate = judge(ordered[middle])
        if candidate.wrong:
            high = middle
        else:
            best, low = candidate, middle + 1
    return best


def why_not(report: BenchReport, latency_ms: float | None) -> str:
    """Why a network won't do; empty when it will.

    Raises:
        ModelError: nothing is known of the device's memory.
    """
    if report.fits is None:
        raise ModelError(f"nothing is known of the memory of {report.device}", "name a board; `stdet list targets`")
    return "; ".join(_faults(report, latency_ms))


def _faults(report: BenchReport, latency_ms: float | None) -> Iterator[str]:
    for overflow in report.overflows:
        excess = (overflow.needed_bytes - overflow.available_bytes) / 1024
        yield (
            f"{overflow.memory} overflows by {excess:.1f} KiB: {overflow.needed_bytes / 1024:.1f} KiB needed, "
            f"{overflow.available_bytes / 1024:.0f} KiB there"
        )
    if latency_ms is None:
        return
    if report.latency_ms is None:
        yield f"whether it takes at most {latency_ms:g} ms can't be told: {report.latency_reason}"
    elif report.latency_ms > latency_ms:
        yield f"{report.latency_ms:.1f} ms are more than {latency_ms:g} ms"
