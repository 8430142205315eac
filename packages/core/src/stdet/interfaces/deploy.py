"""The contract of a deploy target: a board profile, the constraints on its models, and ways to measure them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from stdet.artifacts import ModelFile
from stdet.errors import StdetError
from stdet.structures import BoxCoding, Detections, DetectorSpec, Table, Thresholds

if TYPE_CHECKING:
    from stdet.interfaces.target import Quantization

LatencyKind = Literal["measured", "vendor_estimate", "model", "none"]


@dataclass(frozen=True)
class Overflow:
    """A memory that is too small for a model.

    Attributes:
        memory: which, as people call it: `internal RAM`, `external RAM`, `flash`, or the name of a pool.
        needed_bytes, available_bytes: the first is larger.
    """

    memory: str
    needed_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class BenchReport:
    """What a backend found out about a model. Every latency says what it is; None means not known, never zero.

    Attributes:
        model: file name; `sha256` of the file beside it.
        backend: which backend; `tool` and `version` say what produced the numbers.
        weights_bytes, activations_bytes, io_bytes: int8 memory, bytes.
        activations_internal_bytes, activations_external_bytes: what of the activations lies in the chip's own RAM, and what
            in RAM outside of it, each at its fullest.
        parameters: number of weights and biases.
        macc: multiply-accumulates of one inference.
        latency_ms: median; p10 and p90 beside it where measured.
        latency_kind: `measured`, `vendor_estimate`, `model` (ours, from a formula) or `none`.
        device: what the latency holds for, such as `host CPU` or `STM32N6570-DK`.
        threads: CPU threads used for a measured latency.
        latency_reason: why there is no latency, where one could be expected.
        uncertainty_percent: by how much an estimate may be off, either way.
        fits: whether the device has room; None when nothing is known of its memory. `overflows` says what is too small.
        operators: number of operators by the processor that runs them, such as `NPU`, `CPU` and `depends`.
        instructions: of one inference, counted by an emulator; never a latency.
        provenance: what the numbers rest on, in a sentence.
        notes: remarks for people.
        details: backend-specific values for scripts. `layers` and `pools` are drawn where they are there: a list of
            {name, op_type, output_shape, macc, weights_bytes, internal_bytes, external_bytes, latency_ms or None, and maybe
            processor, reason, advice, source}, and one of {name, bytes}.
    """

    model: str
    sha256: str
    backend: str
    tool: str
    version: str
    parameters: int | None = None
    weights_bytes: int | None = None
    activations_bytes: int | None = None
    activations_internal_bytes: int | None = None
    activations_external_bytes: int | None = None
    io_bytes: int | None = None
    macc: int | None = None
    latency_ms: float | None = None
    latency_p10_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_kind: LatencyKind = "none"
    device: str = ""
    threads: int | None = None
    latency_reason: str = ""
    uncertainty_percent: float | None = None
    fits: bool | None = None
    overflows: tuple[Overflow, ...] = ()
    operators: dict[str, int] = field(default_factory=dict)
    instructions: int | None = None
    provenance: str = ""
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class Progress(Protocol):
    """Called as work goes on: units done, units in all (None when unknown)."""

    def __call__(self, done: int, total: int | None) -> None: ...


@dataclass(frozen=True)
class CalibrationCheck:
    """What was found out about calibration images.

    Attributes:
        name: `size`, `duplicates`, `classes`, `preprocessing`, `overlap`, ...
        verdict: `unknown` when it can't be told.
        finding: one line for people.
    """

    name: str
    verdict: Literal["ok", "warning", "unknown"]
    finding: str


@dataclass(frozen=True)
class CalibrationData:
    """Images to calibrate on, read when they are asked for: never all in memory.

    Attributes:
        image: reads the one at an index: float32 (1, C, H, W), preprocessed as the model's spec says.
        count: number of images.
        sha256: of the images' names and bytes, for the record.
        source: folder or annotation file they came from; `random` when they are noise, unfit for accuracy.
        images: (name, SHA-256) of each, for the record; empty for noise.
        checks: what is known about them already, for the record.
    """

    image: Callable[[int], np.ndarray]
    count: int
    sha256: str
    source: str
    images: tuple[tuple[str, str], ...] = ()
    checks: tuple[CalibrationCheck, ...] = ()

    def batches(self) -> Iterator[np.ndarray]:
        """All images, one after the other: float32 (1, C, H, W), preprocessed."""
        return map(self.image, range(self.count))


@dataclass(frozen=True)
class Evaluator:
    """Judges every form of one model: the same images, thresholds and code, whichever file.

    Attributes:
        score: `metric` of an ONNX file, float or int8, 0..1, the mean over all classes.
        metric: what is scored, `AP50` or `AP`.
        sha256: of the images, their ground truth and the thresholds; scores compare only where it is equal.
        journal: folder that outlives the run, where a search keeps what it has finished; None keeps nothing.
    """

    score: Callable[[Path], float]
    metric: str
    sha256: str
    journal: Path | None = None


@dataclass(frozen=True)
class QuantizationResult:
    """Attributes:
    record: what was done (method, tool versions, calibration), JSON-able; also stored in the file's metadata.
    tables: what people should see of it.
    worst: what lost most by the target's own measure, in words, by what it is: `output`, `layer`, ...
    """

    record: dict[str, Any]
    tables: tuple[Table, ...] = ()
    worst: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """What a folder for firmware is made of.

    Attributes:
        model: the file, `int8`.
        spec, coding: of the model.
        thresholds: which boxes are detections on the device.
        picture: uint8 (H, W, 3) RGB, for the test vector; `picture_source` says where it came from.
        detect: detections in pixels of the network's input, from float32 outputs with batch 1 in the order of
            `coding.output_names`, by `thresholds` with a limit of `max_detections`.
        notes: what whoever takes the folder should know, such as that the calibration was on noise.
    """

    model: ModelFile
    spec: DetectorSpec
    coding: BoxCoding
    thresholds: Thresholds
    picture: np.ndarray
    picture_source: str
    detect: Callable[[Sequence[np.ndarray]], Detections]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeployReport:
    """Attributes:
    folder: what was written.
    files: paths in it.
    boxes: detections in the test vector's picture.
    """

    folder: Path
    files: tuple[str, ...]
    boxes: int


class PlacedNetwork(Protocol):
    """A network that runs somewhere else than in onnxruntime: as another program, or on a device."""

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """What it answers to preprocessed images.

        Args:
            images: float32 (B, C, H, W), as the model's spec says; turning them into the network's own input is its affair.

        Returns:
            Each output by its name in the ONNX file, float32 (B, ...), in real values.

        Raises:
            StdetError: it couldn't be run, or it failed.
        """


class DeployTarget(ABC):
    """A board or family of boards that int8 models are made for; its `stdet.interfaces.target.TargetFacts` say the rest.

    Attributes:
        logs: folder that keeps what external tools say and write; set before `bench` is called; None keeps nothing.
    """

    name: str
    logs: Path | None = None

    @abstractmethod
    def quantize(
        self,
        model: Path,
        output: Path,
        calibration: CalibrationData | None,
        config: Quantization,
        progress: Progress | None = None,
        evaluator: Evaluator | None = None,
    ) -> QuantizationResult:
        """Write the int8 form of the float ONNX `model` to `output`, atomically; reports may go beside it.

        Args:
            calibration: None when the facts' `needs` say that it takes no images.
            config: the validated `quantization` section, of the class that the facts name.
            evaluator: for the modes that judge by accuracy. Whether the result keeps to `config.max_drop` is for the
                caller to judge.

        Raises:
            QuantizationError: the model can't be quantized as asked; nothing is written to `output`.
        """

    def assess(self, model: Path) -> BenchReport:
        """What can be told of `model` at once, without a tool or a run: whether it fits, and how fast it is.

        Raises:
            StdetError: this target can't tell.
        """
        raise StdetError(f"target {self.name} can't tell whether a model fits before it runs")

    @abstractmethod
    def bench(self, model: Path, backend: str, progress: Progress | None = None) -> BenchReport:
        """Measure or estimate `model` (float or QDQ ONNX) with `backend`, one of the facts' `backends`.

        Raises:
            StdetError: unknown backend, or one whose tool is missing.
        """

    def check_tools(self, backends: Collection[str], places: Collection[str]) -> None:  # noqa: B027
        """Whether what these need is installed and there: asked before a run begins. Default: they need nothing.

        Args:
            backends: that `bench` will be called with.
            places: that `network` will be.

        Raises:
            StdetError: a tool is missing; the hint says what to install.
        """

    def network(self, model: Path, place: str, folder: Path, section: str = "evaluation") -> PlacedNetwork:
        """The network of an ONNX file, ready to run at `place`. Default: this target has no other place than the host.

        Args:
            place: one of the facts' `runs_on`, but `host`.
            folder: for all that has to be made for it, logs included; exists, and outlives the network.
            section: of the config that asks, `evaluation` or `prediction`: it may say more.

        Raises:
            StdetError: there is no such place, its tool is missing, or the model can't run there.
        """
        raise StdetError(f"target {self.name} runs no model at `{place}`", "use target: host")

    def deploy(self, deployment: Deployment, folder: Path) -> DeployReport:
        """Write the folder that a firmware engineer takes, all of it or nothing. Default: there is none for the target.

        Raises:
            StdetError: the target has no firmware, or the model doesn't suit it.
        """
        raise StdetError(f"target {self.name} writes no firmware", "choose a board of `stdet list targets`")
