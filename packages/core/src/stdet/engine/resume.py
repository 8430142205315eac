"""Which training a checkpoint belongs to, and whether a run can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stdet.data.loader import TrainLoader
from stdet.errors import ArtifactError
from stdet.interfaces.detector import Detector
from stdet.nn.distributed import world_size

if TYPE_CHECKING:
    from stdet.engine.trainer import TrainSettings

CONFIG_KEYS = ("quantization_aware",)
"""Facts that go by the name of their config key."""


@dataclass(frozen=True)
class RunFacts:
    """What must be the same in a run that goes on as the one before; None where an old checkpoint doesn't say.

    Attributes:
        model: the spec.
        optimizer: class name, and the options of each parameter group but for the current rate.
        images_per_step: in all processes together.
    """

    model: dict[str, Any]
    steps_per_epoch: int
    ema: bool
    quantization_aware: str | None
    accumulate: int
    data_seed: int
    images_per_step: int | None
    optimizer: list[Any] | None

    def document(self) -> dict[str, Any]:
        """What a checkpoint says beside its spec, settings and seed."""
        return {"images_per_step": self.images_per_step, "optimizer": self.optimizer}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], path: Path) -> RunFacts:
        """Those of the run that saved `state` in `path`.

        Raises:
            ArtifactError: the file lacks what every checkpoint of a training has.
        """
        try:
            settings, run = state["settings"], state.get("run") or {}
            return cls(
                state["spec"],
                state["steps_per_epoch"],
                settings["ema"],
                settings.get("quantization_aware"),
                settings["accumulate"],
                state["data_seed"],
                run.get("images_per_step"),
                run.get("optimizer"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{path} is no whole checkpoint of a training: {error} is missing", "use an older checkpoint of the run"
            ) from error

    def differences(self, mine: RunFacts) -> list[str]:
        """What is another in `mine`, in words."""
        told = [
            (
                field.name if field.name in CONFIG_KEYS else field.name.replace("_", " "),
                getattr(self, field.name),
                getattr(mine, field.name),
            )
            for field in fields(self)
            if field.name != "optimizer" and not (field.name == "images_per_step" and self.images_per_step is None)
        ]
        told += _optimizer_differences(self.optimizer, mine.optimizer)
        return [f"{name}: {theirs} there, {own} here" for name, theirs, own in told if theirs != own]


def _optimizer_differences(theirs: list[Any] | None, mine: list[Any] | None) -> list[tuple[str, Any, Any]]:
    """Name, value there, value here: of the class, else of the first option that differs."""
    if theirs is None or mine is None or theirs == mine:
        return []
    if theirs[0] != mine[0] or len(theirs[1]) != len(mine[1]):
        return [("optimizer", theirs[0], mine[0])]
    return [
        (f"optimizer {key}", there.get(key), here.get(key))
        for there, here in zip(theirs[1], mine[1], strict=True)
        for key in there | here
        if there.get(key) != here.get(key)
    ][:1]


def facts_of(
    detector: Detector, loader: TrainLoader, optimizer: torch.optim.Optimizer, settings: TrainSettings
) -> RunFacts:
    """Those of a run that is about to begin."""
    return RunFacts(
        detector.spec.to_dict(),
        -(-len(loader) // settings.accumulate),
        settings.ema,
        settings.quantization_aware,
        settings.accumulate,
        loader.seed,
        loader.batch_size * world_size() * settings.accumulate,
        [type(optimizer).__name__, [_options(group) for group in optimizer.param_groups]],
    )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Of a parameter group, in the types that a checkpoint gives back."""
    return {
        "learning_rate" if key == "base_lr" else key: list(value) if isinstance(value, tuple) else value
        for key, value in group.items()
        if key not in ("params", "lr", "foreach", "fused")
    }
