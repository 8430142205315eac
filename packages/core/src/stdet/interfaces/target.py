"""What a deploy target tells the config layer about itself, and the sections that it may extend. No torch here.

The sections below hold the neutral keys: those that core itself obeys. A target brings subclasses with keys of its own
(`TargetFacts.sections`); a config is checked against these, and they reach the target as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Never

from pydantic import BeforeValidator, Field

from stdet.interfaces.family import InsideRun, Options
from stdet.modes import Mode

HOST = "host"
"""Where models run by default: on this computer, in onnxruntime or torch."""

Scorer = Literal["stdet", "pycocotools"]
"""Who computes average precision."""


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Quantization(Options):
    """Base of a target's `quantization` section."""

    export_dir: InsideRun = Field("quantized_models", description="folder of the int8 file, inside the run folder")
    max_drop: float | None = Field(
        None,
        ge=0,
        description="points (hundredths) of max_drop_metric that int8 may lose against float; needs val or test",
    )
    max_drop_metric: Literal["AP50", "AP"] = Field("AP50", description="what the budget is for, mean over all classes")
    random_calibration: Annotated[int, Field(gt=0)] | None = Field(
        None, description="calibrate on so many noise images: for size and speed only, unfit for accuracy"
    )
    allow_overlap: bool = Field(False, description="calibrate on images that the evaluation uses, too")


class Benchmarking(Options):
    """Base of a target's `benchmarking` section."""

    board: Annotated[str, BeforeValidator(_lower)] | None = Field(
        None, description="`stdet list targets`; any letter case; default: a generic one"
    )
    backends: tuple[str, ...] | None = Field(
        None, min_length=1, description="how to measure or estimate; default: what the target does without any tool"
    )
    images: Path | None = Field(
        None,
        description="folder whose first images an emulator feeds, prepared as the model's file says; default: noise",
    )


class Evaluation(Options):
    """Base of a target's `evaluation` section."""

    target: str = Field(HOST, description="where the model runs: here in onnxruntime, or a place that the board names")
    scorer: Scorer = Field(
        "stdet", description="who computes average precision: stdet, or pycocotools, slower; same numbers"
    )
    baseline: Path | None = Field(
        None, description="report of another run, reports/evaluate_….json: which differences are beyond chance"
    )
    min_ap: float | None = Field(None, ge=0, le=1, description="fail when AP, 0..1, is below; everything is written")


class Prediction(Options):
    """Base of a target's `prediction` section."""

    target: str = Field(HOST, description="where the model runs: here in onnxruntime, or a place that the board names")
    outputs: tuple[Literal["pictures", "json", "coco", "csv", "jsonl"], ...] = Field(
        ("pictures", "json"), description="what is written of the detections; pictures of a video are a video"
    )
    max_frames: int | None = Field(None, gt=0, description="look at so many images or frames at most; default: all")


class Tools(Options):
    """Base of a target's `tools` section: the external tools that it drives."""


class HardwareSetup(Options):
    """Base of a target's `deployment.hardware_setup`."""

    board: Annotated[str, BeforeValidator(_lower)] | None = Field(
        None, description="what the firmware is for, any letter case; default: benchmarking.board"
    )


class Deployment(Options):
    """Base of a target's `deployment` section."""

    hardware_setup: HardwareSetup | None = Field(None, description="the board, and what is wired to it")


NEUTRAL: dict[str, type[Options]] = {
    "quantization": Quantization,
    "evaluation": Evaluation,
    "prediction": Prediction,
    "benchmarking": Benchmarking,
    "tools": Tools,
    "deployment": Deployment,
}
"""The sections that a target may extend."""


@dataclass(frozen=True)
class TargetSections:
    """The checked sections of a config that are a target's; each an instance of the class that its facts name."""

    quantization: Quantization = Quantization()
    evaluation: Evaluation = Evaluation()
    prediction: Prediction = Prediction()
    benchmarking: Benchmarking = Benchmarking()
    tools: Tools = Tools()
    deployment: Deployment = Deployment()


@dataclass(frozen=True)
class QuantizationNeeds:
    """What quantizing takes beside the model.

    Attributes:
        calibration: images, or noise where `random_calibration` asks for it.
        scorer: a function that scores candidates, where the config names evaluation images.
        evaluation_images: it can't do without them.
    """

    calibration: bool = True
    scorer: bool = False
    evaluation_images: bool = False


@dataclass(frozen=True)
class TargetRequest:
    """What a target may know of a config when it judges its own keys.

    Attributes:
        mode: what will be run.
        sections: the target's own sections.
        model_path: `model.model_path`.
        trained_for: the type of the weights (`Int8`, `Int4`) that a training before simulates; None when none does.
    """

    mode: Mode
    sections: TargetSections
    model_path: Path | None = None
    trained_for: str | None = None


@dataclass(frozen=True)
class Mistake:
    """Something in a config that can't be honoured.

    Attributes:
        key: dotted config key.
        message: what is wrong.
        allowed: what would be right, if it can be listed.
    """

    key: str
    message: str
    allowed: str = ""


def _needs_calibration(quantization: Quantization) -> QuantizationNeeds:
    return QuantizationNeeds()


def _none(sections: TargetSections) -> tuple[str, ...]:
    return ()


def _nothing(request: TargetRequest) -> Iterable[Never]:
    return ()


@dataclass(frozen=True)
class TargetFacts:
    """Facts that hold for a board or a family of boards.

    Attributes:
        sections: section name to the class with the target's own keys, a subclass of that of `NEUTRAL`.
        backends: names that `benchmarking.backends` may hold.
        default_backends: those that run when the config names none; they need no tool and no board.
        runs_on: values that `evaluation.target` and `prediction.target` may have.
        needs: what quantizing with these settings takes.
        check: judges the target's keys together; called when each is right in itself.
        idle: a sentence for each of the target's keys that the config gives and that does nothing in this mode.
        refused: config keys that people may expect here, with the reason why there is none.
        over_budget: what to try when int8 loses more than `quantization.max_drop`, for the hint of that error.
        asked_backends: those that the target's keys ask for beside the default ones, when the config names none.
    """

    sections: Mapping[str, type[Options]] = field(default_factory=dict)
    backends: tuple[str, ...] = ()
    default_backends: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = (HOST,)
    needs: Callable[[Quantization], QuantizationNeeds] = _needs_calibration
    check: Callable[[TargetRequest], Iterable[Mistake]] = _nothing
    idle: Callable[[TargetRequest], Iterable[str]] = _nothing
    refused: Mapping[str, str] = field(default_factory=dict)
    over_budget: str = ""
    asked_backends: Callable[[TargetSections], tuple[str, ...]] = _none

    def section(self, name: str) -> type[Options]:
        """The class that checks a section."""
        return self.sections.get(name, NEUTRAL[name])
