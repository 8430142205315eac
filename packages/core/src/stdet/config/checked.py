"""A config that was checked, and what follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stdet.config import schema as sections
from stdet.config.source import COMMAND_LINE
from stdet.errors import ConfigError
from stdet.interfaces import target as targets
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import TargetFacts, TargetSections
from stdet.interfaces.transform import RecipeOptions
from stdet.modes import Mode
from stdet.structures import COLOR_CHANNELS, Preprocess


@dataclass(frozen=True)
class Contributed:
    """The config keys of the chosen components, checked."""

    model: Options = Options()
    reader: Options = Options()
    augmentation: RecipeOptions = RecipeOptions()
    training: Options = Options()
    scheduler: Options = Options()


@dataclass(frozen=True)
class Config:
    """A checked config: every section with its defaults filled in.

    Attributes:
        options: the keys that the chosen components added.
        family: of the model, None for somebody else's ONNX without `model.model_type`.
        reader: facts of `dataset.dataset_name`; None where no data set is read and the reader isn't installed.
        target: facts of `benchmarking.board`, likewise.
        places: dotted key to `file:line` or `command line`, of every key that was given.
        notes: keys that are there but do nothing with this choice of components, each in a sentence.
    """

    mode: Mode
    general: sections.General
    model: sections.Model
    dataset: sections.Dataset
    preprocessing: sections.Preprocessing
    training: sections.Training
    postprocessing: sections.Postprocessing
    quantization: targets.Quantization
    evaluation: targets.Evaluation
    prediction: targets.Prediction
    benchmarking: targets.Benchmarking
    tools: targets.Tools
    deployment: targets.Deployment
    mlflow: sections.Mlflow
    hydra: sections.Hydra
    options: Contributed = Contributed()
    family: ModelFamily | None = None
    reader: ReaderFacts | None = None
    target: TargetFacts | None = None
    notes: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def target_sections(self) -> TargetSections:
        """What the deploy target is given."""
        return TargetSections(**{name: getattr(self, name) for name in targets.NEUTRAL})

    @property
    def tool_dir(self) -> Path:
        """Where tools that are no run write: where the command line says, and never among the runs that the file names."""
        run = Path(self.hydra.run.dir)
        return run if self.places.get("hydra.run.dir") == COMMAND_LINE else Path("tool_outputs") / run.name

    def names_split(self, split: str) -> bool:
        """Whether the config says where the images of `train`, `val` or `test` are."""
        return names_split(self.dataset, self.reader, split)

    def can_read(self, split: str) -> bool:
        """Whether nothing is missing that the reader needs to find a split."""
        return self.reader is not None and not missing_keys(self.dataset, self.reader, split)

    def evaluation_split(self) -> str:
        """`test` when the config has a test set, else `val`."""
        return evaluation_split(self.dataset, self.reader)

    def document(self) -> dict[str, Any]:
        """The config as nested JSON values, component keys in the sections they belong to."""
        out: dict[str, Any] = {"operation_mode": self.mode.name}
        for name in sections.SECTIONS:
            out[name] = getattr(self, name).model_dump(mode="json", exclude_none=True)
        for section, parts in (
            ("model", (self.options.model,)),
            ("dataset", (self.options.reader, self.options.augmentation)),
            ("training", (self.options.training, self.options.scheduler)),
        ):
            for part in parts:
                out[section] |= part.model_dump(mode="json", exclude_none=True)
        if self.family is not None and (self.model.model_path is None or self.mode.trains):
            out["preprocessing"] = _applied(preprocess_of(self), self.family.unused_preprocessing)
        if self.general.global_seed is None:
            out["general"]["global_seed"] = None  # None means something here: not seeded
        if self.general.logger is None:
            out["general"]["logger"] = None
        return {name: value for name, value in out.items() if value}


def _applied(p: Preprocess, unused: Collection[str]) -> dict[str, Any]:
    """A `preprocessing` section that says all that is done to a pixel."""
    rescaling = {name: getattr(p, name) for name in ("scale", "offset") if name not in unused}
    channels = {name: list(getattr(p, name)) for name in ("mean", "std") if name not in unused}
    return {
        **({"rescaling": rescaling} if rescaling else {}),
        "resizing": {"interpolation": p.interpolation, "aspect_ratio": p.resize_mode},
        "color_mode": p.color_mode,
        **channels,
        "pad_value": p.pad_value,
    }


def missing_keys(section: sections.Dataset, reader: ReaderFacts, split: str) -> list[str]:
    """The keys without which the reader can't find a split, and that aren't given."""
    if reader.split_lists and reader.list_is_enough and getattr(section, f"{split}_split"):
        return []
    return [key for need in reader.needs if getattr(section, key := f"{split}_{need}") is None]


def names_split(section: sections.Dataset, reader: ReaderFacts | None, split: str) -> bool:
    """Whether a `dataset` section says where a split is; a reader that needs no path has every split."""
    if reader is not None and not reader.needs:
        return True
    return any(getattr(section, f"{split}_{key}") for key in ("images_path", "annotations_path", "split"))


def evaluation_split(section: sections.Dataset, reader: ReaderFacts | None) -> str:
    """`test` when the section has a test set, else `val`."""
    return "test" if names_split(section, reader, "test") else "val"


def preprocess_of(config: Config) -> Preprocess:
    """The preprocessing that a config describes: its keys over the family's defaults.

    Raises:
        ConfigError: the config names no model family.
    """
    if config.family is None:
        raise ConfigError("the config names no model", "set model.model_name or model.model_type")
    return merge_preprocess(
        config.family.preprocess, config.model, config.preprocessing, config.family.unused_preprocessing
    )


NORMALISATION: dict[str, Any] = {"scale": 1.0, "offset": 0.0, "mean": (0.0,), "std": (1.0,)}
"""Fields of `Preprocess` that together make a pixel the network's input, and the values that change nothing."""


def merge_preprocess(
    base: Preprocess, model: sections.Model, section: sections.Preprocessing, unused: Collection[str] = ()
) -> Preprocess:
    """What a `preprocessing` section says, over `base`.

    Whoever gives one of scale, offset, mean and std describes the whole normalisation: the others become neutral. Scale and
    offset are left out beside a mean of pixels that they didn't touch, as `mean_of_raw_pixels` tells.

    Args:
        base: what counts where the section is silent.
        unused: fields that the model does without; those keys aren't applied.

    Raises:
        ValueError: mean or std don't fit the number of channels.
    """
    color_mode = section.color_mode or base.color_mode
    channels = COLOR_CHANNELS[color_mode]
    given = {name: getattr(section.rescaling, name) for name in ("scale", "offset")}
    given |= {"mean": section.mean, "std": section.std}
    given = {name: value for name, value in given.items() if value is not None and name not in unused}
    if mean_of_raw_pixels(section):
        given = {name: value for name, value in given.items() if name not in ("scale", "offset")}
    whole = (NORMALISATION if given else {name: getattr(base, name) for name in NORMALISATION}) | given
    resize_mode = section.resizing.aspect_ratio or base.resize_mode
    return dataclasses.replace(
        base,
        height=model.input_shape[1] if model.input_shape else base.height,
        width=model.input_shape[2] if model.input_shape else base.width,
        resize_mode="letterbox" if resize_mode == "padding" else resize_mode,
        interpolation=section.resizing.interpolation or base.interpolation,
        pad_value=base.pad_value if section.pad_value is None else section.pad_value,
        color_mode=color_mode,
        scale=whole["scale"],
        offset=whole["offset"],
        mean=_fit(whole["mean"], channels),
        std=_fit(whole["std"], channels),
    )


def mean_of_raw_pixels(section: sections.Preprocessing) -> bool:
    """Whether `mean` can't be that of what `scale` and `offset` make of pixels: the reference's files have all of them, and
    applied one after the other they leave an almost constant image. The reference applies mean and std."""
    scale, offset = section.rescaling.scale, section.rescaling.offset
    if section.mean is None or (scale is None and offset is None):
        return False
    low, high = rescaled_range(section)
    return (low, high) != (0, 255) and any(not low <= value <= high for value in section.mean)


def rescaled_range(section: sections.Preprocessing) -> tuple[float, float]:
    """What `scale` and `offset` make of pixels 0..255, the smaller bound first."""
    start = section.rescaling.offset or 0.0
    end = start + 255 * (1.0 if section.rescaling.scale is None else section.rescaling.scale)
    return min(start, end), max(start, end)


def unlike_published(family: ModelFamily, mine: Preprocess) -> str:
    """A sentence on what published weights of the family don't expect; empty when there is nothing."""
    theirs = family.preprocess
    names = ("resize_mode", "interpolation", "color_mode", *NORMALISATION)
    other = [
        f"{n} {getattr(mine, n)} (weights: {getattr(theirs, n)})"
        for n in names
        if getattr(mine, n) != getattr(theirs, n)
    ]
    start = f"preprocessing differs from what published {family.model_type} weights expect: "
    return start + ", ".join(other) if other else ""


def given_preprocess(config: Config) -> tuple[str, ...]:
    """The fields of `Preprocess` that a config itself sets and that are applied."""
    section, unused = config.preprocessing, config.family.unused_preprocessing if config.family else ()
    names = [n for n in ("color_mode", "mean", "std", "pad_value") if getattr(section, n) is not None]
    names += [n for n in ("scale", "offset") if getattr(section.rescaling, n) is not None]
    if section.resizing.interpolation is not None:
        names.append("interpolation")
    if section.resizing.aspect_ratio is not None:
        names.append("resize_mode")
    names += ["height", "width"] if config.model.input_shape else []
    return tuple(name for name in names if name not in unused)


def _fit(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A default for three equal channels serves any number of them; other counts must match."""
    return (values[0],) * channels if len(set(values)) == 1 else values


def to_yaml(config: Config) -> str:
    """The config with every default filled in; loading it gives an equal config."""
    return yaml.safe_dump(config.document(), sort_keys=False, allow_unicode=True)


def absent_files(config: Config) -> list[tuple[str, Path]]:
    """(key, path) of every file and folder that a config names and that isn't there."""
    section, found = config.dataset, []
    keys = [
        f"{split}_{what}" for split in ("train", "val", "test") for what in ("images_path", "annotations_path", "split")
    ]
    for key in (*keys, "prediction_path", "quantization_path", "classes_file_path"):
        value = getattr(section, key)
        found += [(f"dataset.{key}", path) for path in (value if isinstance(value, tuple) else (value,))]
    found.append(("model.model_path", config.model.model_path))
    found.append(("evaluation.baseline", config.evaluation.baseline))
    found.append(("benchmarking.images", config.benchmarking.images))
    resume = config.training.resume_training_from
    found.append(("training.resume_training_from", resume if isinstance(resume, Path) else None))
    absent = [(key, path) for key, path in found if path is not None and not path.exists()]
    return [(key, path) for key, path in absent if key != "dataset.prediction_path" or not path.as_posix().isdecimal()]
