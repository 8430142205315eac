"""What a group of models tells the config layer about itself, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from stdet.interfaces.advice import Advice
from stdet.interfaces.heads import HeadForm
from stdet.structures import DetectorSpec, Preprocess


class Options(BaseModel):
    """Base of the option models that components add to a config section. Unknown keys are errors.

    The fields of a subclass become legal keys of the section it is registered for; their descriptions are what
    `stdet config schema` prints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False, defer_build=True)


def _inside(value: str) -> str:
    path = PurePath(value)
    if path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError("a folder inside the run folder: a relative path without `..`")
    return value


InsideRun = Annotated[str, AfterValidator(_inside)]
"""Name of a folder that lies in the run folder, whatever it says."""


@dataclass(frozen=True)
class ModelFamily:
    """Facts that hold for a family of models.

    Attributes:
        model_type: value of `model.model_type`.
        trainer_name: value that `training.trainer_name` may have.
        preprocess: what published weights of the family expect; config keys override it one by one. Its size is the
            default input size.
        unused_preprocessing: fields of `Preprocess` that the family's networks do without (`scale`, `offset`, `mean`,
            `std`): config keys for them are accepted and not applied, and the user is told.
        augmentation: registered transform that makes training samples, such as `yolox` or `ssd`.
        scheduler: registered scheduler used when the config names none.
        no_aug_epochs: last epochs without strong augmentation when the config doesn't say.
        ema: whether weights are averaged when the config doesn't say.
        size_multiple: input height and width must be multiples of this.
        min_size: smallest input side, pixels.
        model_options: extra keys of the `model` section.
        width_option: the one of them that is a factor on all channel counts; empty where there is none. Published weights
            have its default.
        training_options: extra keys of the `training` section.
        optimizer_defaults: keyword arguments by optimizer name, used where the config is silent.
        box_coding: output convention.
        strides: output strides, finest first.
        refused: config keys that people may expect here, with the reason why the family has none
            (`{"model.width_mult": "..."}`).
        weights: `package:file`, the JSON list of published weights in the family's package; see
            `stdet.interfaces.published`.
        heads: more values of `model.head`, for outputs of other tools' networks.
        quantization_aware: whether int8 can be simulated in training; False where `torch.fx` can't trace `forward`.
        advice: what to propose to whoever has no config yet.
    """

    model_type: str
    trainer_name: str
    preprocess: Preprocess
    augmentation: str
    scheduler: str
    ema: bool
    size_multiple: int
    min_size: int
    box_coding: str
    strides: tuple[int, ...]
    no_aug_epochs: int = 0
    model_options: type[Options] = Options
    training_options: type[Options] = Options
    optimizer_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    weights: str = ""
    heads: tuple[HeadForm, ...] = ()
    unused_preprocessing: tuple[str, ...] = ()
    width_option: str = ""
    quantization_aware: bool = True
    advice: Advice = Advice()

    def spec(
        self,
        model_name: str,
        class_names: tuple[str, ...],
        preprocess: Preprocess | None = None,
        options: dict[str, Any] | None = None,
    ) -> DetectorSpec:
        """What a model of the family is, with the family's own preprocessing and options where none are given."""
        return DetectorSpec(
            model_name,
            self.model_type,
            class_names,
            preprocess or self.preprocess,
            self.box_coding,
            self.strides,
            self.model_options().model_dump() if options is None else options,
        )
