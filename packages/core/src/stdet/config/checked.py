"""A config that was checked, and what follows from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import yaml

from stdet.config import schema as sections
from stdet.errors import ConfigError
from stdet.interfaces.family import ModelFamily, Options
from stdet.structures import COLOR_CHANNELS, Preprocess


@dataclass(frozen=True)
class Contributed:
    """The config keys of the chosen components, checked."""

    model: Options = Options()
    reader: Options = Options()
    augmentation: Options = Options()
    training: Options = Options()
    scheduler: Options = Options()


@dataclass(frozen=True)
class Config:
    """A checked config: every section with its defaults filled in.

    Attributes:
        options: the keys that the chosen components added.
        family: of the model, None for somebody else's ONNX without `model.model_type`.
        notes: keys that are there but do nothing with this choice of components, each in a sentence.
    """

    operation_mode: str
    general: sections.General
    model: sections.Model
    dataset: sections.Dataset
    preprocessing: sections.Preprocessing
    training: sections.Training
    postprocessing: sections.Postprocessing
    quantization: sections.Quantization
    evaluation: sections.Evaluation
    prediction: sections.Prediction
    benchmarking: sections.Benchmarking
    tools: sections.Tools
    deployment: sections.Deployment
    mlflow: sections.Mlflow
    hydra: sections.Hydra
    options: Contributed = Contributed()
    family: ModelFamily | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The config as nested JSON values, component keys in the sections they belong to."""
        out: dict[str, Any] = {"operation_mode": self.operation_mode}
        for name in sections.SECTIONS:
            out[name] = getattr(self, name).model_dump(mode="json", exclude_none=True)
        for section, parts in (
            ("model", (self.options.model,)),
            ("dataset", (self.options.reader, self.options.augmentation)),
            ("training", (self.options.training, self.options.scheduler)),
        ):
            for part in parts:
                out[section] |= part.model_dump(mode="json", exclude_none=True)
        if self.general.global_seed is None:
            out["general"]["global_seed"] = None  # None means something here: not seeded
        if self.general.logger is None:
            out["general"]["logger"] = None
        return {name: value for name, value in out.items() if value}


def preprocess_of(config: Config) -> Preprocess:
    """The preprocessing that a config describes: its keys over the family's defaults.

    Raises:
        ConfigError: the config names no model family.
    """
    if config.family is None:
        raise ConfigError("the config names no model", "set model.model_name or model.model_type")
    return merge_preprocess(config.family.preprocess, config.model, config.preprocessing)


def merge_preprocess(base: Preprocess, model: sections.Model, section: sections.Preprocessing) -> Preprocess:
    """What the sections say, over `base` where they are silent."""
    color_mode = section.color_mode or base.color_mode
    channels = COLOR_CHANNELS[color_mode]

    def per_channel(given: tuple[float, ...] | None, default: tuple[float, ...]) -> tuple[float, ...]:
        values = given or default
        return _fit(values, channels)

    resize_mode = section.resizing.aspect_ratio or base.resize_mode
    return dataclasses.replace(
        base,
        height=model.input_shape[1] if model.input_shape else base.height,
        width=model.input_shape[2] if model.input_shape else base.width,
        resize_mode="letterbox" if resize_mode == "padding" else resize_mode,
        interpolation=section.resizing.interpolation or base.interpolation,
        pad_value=base.pad_value if section.pad_value is None else section.pad_value,
        color_mode=color_mode,
        scale=base.scale if section.rescaling.scale is None else section.rescaling.scale,
        offset=base.offset if section.rescaling.offset is None else section.rescaling.offset,
        mean=per_channel(section.mean, base.mean),
        std=per_channel(section.std, base.std),
    )


def _fit(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A default for three equal channels serves any number of them; other counts must match."""
    return (values[0],) * channels if len(set(values)) == 1 else values


def to_yaml(config: Config) -> str:
    """The config with every default filled in; loading it gives an equal config."""
    return yaml.safe_dump(config.document(), sort_keys=False, allow_unicode=True)
