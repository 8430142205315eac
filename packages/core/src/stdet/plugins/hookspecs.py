"""The five hooks. Each is given a `register` function and calls it once a component; targets are strings
(`"package.module:attribute"`), so listing and validating import nothing."""

from __future__ import annotations

from typing import Protocol

import pluggy

hookspec = pluggy.HookspecMarker("stdet")


class RegisterModel(Protocol):
    def __call__(self, name: str, target: str, summary: str, *, family: str) -> None:
        """Args:
        name: what configs say in `model.model_name`.
        target: `"module:function"`; called as `function(spec: DetectorSpec) -> Detector`.
        summary: one line for `stdet list models`.
        family: `"module:NAME"` of a `stdet.interfaces.family.ModelFamily`, in a module that imports no torch.
        """


class Register(Protocol):
    def __call__(self, name: str, target: str, summary: str, *, options: str | None = None) -> None:
        """Args:
        name: what configs say.
        target: `"module:attribute"`.
        summary: one line for `stdet list`.
        options: `"module:Class"` of a `stdet.interfaces.family.Options` subclass that describes the component's own
            config keys, in a module that imports no torch.
        """


class RegisterTarget(Protocol):
    def __call__(self, name: str, target: str, summary: str, *, facts: str | None = None) -> None:
        """Args:
        name, target, summary: as `Register`.
        facts: `"module:NAME"` of a `stdet.interfaces.target.TargetFacts`, in a module that imports no torch; without
            one the target adds no keys and has no bench backend.
        """


class RegisterDataset(Protocol):
    def __call__(
        self, name: str, target: str, summary: str, *, facts: str | None = None, writer: str | None = None
    ) -> None:
        """Args:
        name, target, summary: as `Register`.
        facts: `"module:NAME"` of a `stdet.interfaces.dataset.ReaderFacts`, in a module that imports no torch; without
            one the reader needs images and annotations, and adds no keys.
        writer: `"module:Class"` of a `stdet.interfaces.dataset.DatasetWriter` that writes what the reader reads.
        """


@hookspec
def stdet_register_models(register: RegisterModel) -> None:
    """Detectors."""


@hookspec
def stdet_register_datasets(register: RegisterDataset) -> None:
    """Readers; a target is called as `target(request: DatasetRequest) -> DetectionDataset`."""


@hookspec
def stdet_register_transforms(register: Register) -> None:
    """Training recipes; a target is called as `target(options) -> Transform`; options, of
    `stdet.interfaces.transform.RecipeOptions`, extend the `dataset` section."""


@hookspec
def stdet_register_schedulers(register: Register) -> None:
    """Schedules; a target is called as `target(length: ScheduleLength, options) -> Scheduler`; options extend
    `training` and its optimizer block."""


@hookspec
def stdet_register_targets(register: RegisterTarget) -> None:
    """Deploy targets; a target is called as `target(sections: TargetSections) -> DeployTarget`."""
