"""A third party's plugin under `mypy --strict`, against the installed wheels: the types reach the author of a plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGIN = '''\
"""What acme adds to stdet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, ReaderFacts
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.scheduler import ScheduleLength, Scheduler
from stdet.interfaces.target import Benchmarking, TargetFacts
from stdet.interfaces.transform import RecipeOptions, Transform, TransformContext
from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import Register, RegisterDataset, RegisterModel, RegisterTarget
from stdet.structures import Annotation, DetectorSpec, Preprocess, Sample

STDET_API_VERSION = 2


@hookimpl
def stdet_register_models(register: RegisterModel) -> None:
    register("acme_net", "acme:AcmeNet", "one convolution", family="acme:ACME")


@hookimpl
def stdet_register_schedulers(register: Register) -> None:
    register("acme_flat", "acme:Flat", "the same rate", options="acme:FlatOptions")


@hookimpl
def stdet_register_transforms(register: Register) -> None:
    register("acme_same", "acme:Same", "the image as it is", options="acme:SameOptions")


@hookimpl
def stdet_register_datasets(register: RegisterDataset) -> None:
    register("acme_noise", "acme:Noise", "noise without a file", facts="acme:NOISE")


@hookimpl
def stdet_register_targets(register: RegisterTarget) -> None:
    register("acme_board", "acme_board:Board", "a board", facts="acme:BOARD")


class NoiseOptions(Options):
    count: int = Field(4, gt=0, description="images a split")


class AcmeBenchmarking(Benchmarking):
    clock_mhz: int = Field(100, gt=0, description="of the core")


NOISE = ReaderFacts(options=NoiseOptions, needs=())
BOARD = TargetFacts(sections={"benchmarking": AcmeBenchmarking}, backends=("formula",), default_backends=("formula",))


class Noise(DetectionDataset):
    def __init__(self, request: DatasetRequest) -> None:
        assert isinstance(request.options, NoiseOptions)
        self.class_names = request.class_names or ("thing",)
        self.count = request.options.count

    def __len__(self) -> int:
        return self.count

    def annotation(self, index: int) -> Annotation:
        nothing = np.zeros(0, np.int64)
        boxes = np.zeros((0, 4), np.float32)
        return Annotation(index, None, 64, 64, boxes, nothing, nothing.astype(bool), nothing.astype(np.float32))

    def read_image(self, index: int) -> npt.NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)


class SameOptions(RecipeOptions):
    flip: bool = Field(False, description="does nothing")


class FlatOptions(Options):
    factor: float = Field(1.0, gt=0, description="times the base rate")


class Flat(Scheduler):
    def __init__(self, length: ScheduleLength, options: FlatOptions) -> None:
        self.last = length.total_steps - 1
        self.factor = options.factor

    def learning_rate(self, step: int, base_lr: float) -> float:
        return base_lr * self.factor if step < self.last else 0.0


ACME = ModelFamily(
    model_type="acme",
    trainer_name="acme",
    preprocess=Preprocess(64, 64),
    augmentation="yolox",
    scheduler="acme_flat",
    ema=False,
    size_multiple=8,
    min_size=32,
    box_coding="acme",
    strides=(8,),
)


class AcmeNet(Detector):
    output_names = ("found",)

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Conv2d(3, 4 + spec.num_classes, 8, 8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(images),)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"total": raw[0].square().mean() + 0 * targets.boxes.sum()}

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (raw[0].flatten(2).transpose(1, 2),)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        return Candidates(outputs[0][..., :4], torch.sigmoid(outputs[0][..., 4:]))

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias"})


class Same(Transform):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return sample if context.strong else context.draw()


def names_of(dataset: DetectionDataset, request: DatasetRequest) -> list[str]:
    return [*dataset.class_names, request.split]
'''

SLIPS = {
    "a name that is no text": ('register("acme_net", ', "register(7, "),
    "a family that is missing": (', family="acme:ACME"', ""),
    "a field that does not exist": ("options.factor", "options.faktor"),
    "an attribute of the length that does not exist": ("length.total_steps", "length.steps"),
    "a size that is no number": ("Preprocess(64, 64)", 'Preprocess("64", 64)'),
    "a detector whose losses are no dict": (
        'return {"total": raw[0].square().mean()',
        'return {"total", raw[0].square().mean()',
    ),
    "facts that are no text": ('facts="acme:NOISE"', "facts=NOISE"),
    "options where facts are wanted": ('facts="acme:BOARD"', 'options="acme:BOARD"'),
    "sections that are no classes": ('{"benchmarking": AcmeBenchmarking}', '{"benchmarking": 7}'),
    "a dataset without a length": ("def __len__(self) -> int", "def __len__(self) -> str"),
    "a schedule whose steps are texts": ("step: int, base_lr", "step: str, base_lr"),
}


@pytest.mark.timeout(900)
def test_a_plugin_is_fine_under_strict_checking_and_the_slips_of_its_author_are_found(
    install: Any, tmp_path: Path
) -> None:
    """One run for all files: most of its time goes into torch's own types."""
    environment = install("stdet-core")
    (tmp_path / "acme.py").write_text(PLUGIN)
    for number, (right, wrong) in enumerate(SLIPS.values()):
        assert right in PLUGIN
        (tmp_path / f"slip_{number}.py").write_text(PLUGIN.replace(right, wrong, 1))
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(environment.python)]
    command += ["--config-file", "", *(path.name for path in sorted(tmp_path.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    files = {line.partition(".py:")[0] for line in done.stdout.splitlines() if ": error:" in line}
    missed = [slip for number, slip in enumerate(SLIPS) if f"slip_{number}" not in files]
    assert missed == [], done.stdout + done.stderr
    assert "acme" not in files, done.stdout
