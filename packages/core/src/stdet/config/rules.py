"""What must hold between sections, and what is allowed but does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stdet.artifacts import is_onnx
from stdet.config import schema as sections
from stdet.config.checked import (
    evaluation_split,
    mean_of_raw_pixels,
    merge_preprocess,
    missing_keys,
    rescaled_range,
    unlike_published,
)
from stdet.config.problems import in_one_line, nearest
from stdet.errors import StdetError
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.heads import HeadForm
from stdet.interfaces.published import IMAGENET, choose_weights
from stdet.interfaces.scheduler import ScheduleOptions
from stdet.interfaces.target import HOST, NEUTRAL, QuantizationNeeds, TargetFacts, TargetRequest, TargetSections
from stdet.interfaces.transform import RecipeOptions
from stdet.modes import DATA, Mode
from stdet.structures import COLOR_CHANNELS

SPLIT_KEYS = ("train_split", "val_split", "test_split")


class Catalogue(Protocol):
    """What the config layer asks of the registered components; unknown names raise `StdetError`."""

    def names(self, kind: str) -> list[str]: ...

    def options(self, kind: str, name: str) -> type[Options]: ...

    def family(self, model_name: str) -> ModelFamily: ...

    def families(self) -> dict[str, ModelFamily]: ...

    def heads(self) -> dict[str, HeadForm]: ...

    def family_of_type(self, model_type: str) -> ModelFamily | None: ...

    def reader(self, name: str) -> ReaderFacts: ...

    def target(self, name: str) -> TargetFacts: ...

    def targets(self) -> dict[str, TargetFacts]: ...


@dataclass(frozen=True)
class Rules:
    """Judges a config whose sections are each right in themselves.

    Attributes:
        family, reader, target: facts of the model, the reader and the board; None where there is none to ask.
        built: the checked sections by name.
        contributed: the checked keys of the chosen components, by field of `Contributed`.
        given: what the file and the command line say, before any default.
        problem: called with key, message and what is allowed, for each mistake.
        note: called with each key that is there but does nothing.
    """

    mode: Mode
    family: ModelFamily | None
    reader: ReaderFacts | None
    target: TargetFacts | None
    built: Mapping[str, Any]
    contributed: Mapping[str, Options]
    given: Mapping[str, Any]
    catalogue: Catalogue
    problem: Callable[..., None]
    note: Callable[[str], None]

    def check(self) -> None:
        self._model()
        self._training()
        self._data()
        self._augmentation()
        if self.built["training"].quantization_aware is not None:
            self._quantization_aware()
        if self.mode.quantizes:
            self._quantization()
        for section in ("evaluation", "prediction"):
            place, allowed = self.built[section].target, self.target.runs_on if self.target else (HOST,)
            if place not in allowed:
                self.problem(f"{section}.target", f"found {place!r}", ", ".join(allowed), nearest(place, allowed))
        if self.target is not None:
            self._target(self.target)

    def _target(self, facts: TargetFacts) -> None:
        for backend in self.built["benchmarking"].backends or ():
            if backend not in facts.backends:
                self.problem(
                    "benchmarking.backends",
                    f"found {backend!r}",
                    ", ".join(facts.backends) or "none",
                    nearest(backend, facts.backends),
                )
        trained = self.built["training"].quantization_aware if self.mode.trains else None
        sections = TargetSections(**{name: self.built[name] for name in NEUTRAL})
        request = TargetRequest(self.mode, sections, self.built["model"].model_path, trained)
        if self.mode.uses_target:
            for mistake in facts.check(request):
                self.problem(mistake.key, mistake.message, mistake.allowed)
        for sentence in facts.idle(request):
            self.note(sentence)
        setup, other = self.built["deployment"].hardware_setup, self.built["benchmarking"].board
        if self.mode.deploys and setup and setup.board and other not in (None, setup.board):
            self.note(f"benchmarking.board: {other} is for benches; the firmware is for {setup.board}")

    def _augmentation(self) -> None:
        recipe, given = self.contributed.get("augmentation"), self.given.get("dataset") or {}
        assert isinstance(recipe, RecipeOptions | None)
        for sentence in recipe.idle(given) if recipe else ():
            self.note(sentence)
        kept = given.get("cache_images", "none") != "none" or (recipe and recipe.recent_partners())
        if given.get("cache_limit_gib") and not kept:
            self.note("dataset.cache_limit_gib does nothing without cache_images")

    def _model(self) -> None:
        mode, family, built = self.mode, self.family, self.built
        model, dataset, preprocessing = built["model"], built["dataset"], built["preprocessing"]
        needed = mode.trains or (mode is not DATA and model.model_path is None)
        if model.model_name is None and needed:
            self.problem(
                "model.model_name", f"missing; {mode.name} needs it", ", ".join(self.catalogue.names("models"))
            )
        if mode.trains and model.model_path is not None and is_onnx(model.model_path):
            self.problem("model.model_path", f"an ONNX file can't be trained; found {str(model.model_path)!r}")
        if model.num_classes is not None and dataset.class_names and model.num_classes != len(dataset.class_names):
            self.problem(
                "model.num_classes", f"is {model.num_classes}, but dataset.class_names has {len(dataset.class_names)}"
            )
        if model.head is not None:
            self._head(model)
        unused = [
            k for k in ("pretrained_dataset", "pretrained_input_shape") if getattr(model, k) and not model.pretrained
        ]
        if unused:
            self.note(f"model.{' and '.join(unused)}: nothing to do while pretrained is False")
        if family is None:
            return
        if model.pretrained and mode is not DATA:
            self._pretrained(family, model)
        if model.input_shape is not None:
            self._size(family, model.input_shape, preprocessing.color_mode or family.preprocess.color_mode)
        try:
            self._note_preprocess(family, model, preprocessing)
        except ValueError as error:
            self.problem("preprocessing", str(error))

    def _head(self, model: sections.Model) -> None:
        known = self.catalogue.heads()
        if model.head not in known:
            self.problem(
                "model.head", f"found {model.head!r}", "; ".join(f"{n}: {h.summary}" for n, h in known.items())
            )
        elif self.family is not None:
            self.problem("model.head", f"model_type {self.family.model_type} says already how outputs are read")
        elif self.mode.trains or "export" in self.mode.stages:
            self.problem("model.head", f"is for an ONNX of another tool, which {self.mode.name} can't use")

    def _pretrained(self, family: ModelFamily, model: sections.Model) -> None:
        if not self.mode.trains and model.pretrained_dataset == IMAGENET:
            self.problem("model.pretrained_dataset", f"a classifier detects nothing, so {self.mode.name} can't use it")
        elif model.model_path is not None and model.pretrained_dataset != IMAGENET:
            self.note("model.pretrained: nothing to fetch, model.model_path counts")
        elif model.model_path is None and model.model_name is not None:
            shape = model.pretrained_input_shape
            width = model.input_shape[2] if model.input_shape else family.preprocess.width
            if name := family.width_option:
                own, published = (
                    getattr(self.contributed["model"], name),
                    family.model_options.model_fields[name].default,
                )
                if own != published:
                    self.problem(f"model.{name}", f"is {own}, but published weights have {published}")
            try:
                choose_weights(family, model.model_name, model.pretrained_dataset, shape[2] if shape else None, width)
            except StdetError as error:
                self.problem("model.pretrained", in_one_line(error))

    def _size(self, family: ModelFamily, shape: tuple[int, int, int], color_mode: str) -> None:
        channels, *size = shape
        if channels != COLOR_CHANNELS[color_mode]:
            self.problem(
                "model.input_shape",
                f"has {channels} channels, but color_mode {color_mode} has {COLOR_CHANNELS[color_mode]}",
            )
        if any(side % family.size_multiple or side < family.min_size for side in size):
            rule = f"multiples of {family.size_multiple}, at least {family.min_size}"
            self.problem("model.input_shape", f"found height {size[0]}, width {size[1]}", rule)

    def _note_preprocess(self, family: ModelFamily, model: sections.Model, section: sections.Preprocessing) -> None:
        """What the family does without, and what published weights don't expect: said."""
        given = {"mean": section.mean, "std": section.std, "scale": section.rescaling.scale}
        given["offset"] = section.rescaling.offset
        idle = [name for name in family.unused_preprocessing if given.get(name) is not None]
        if idle:
            self.note(
                f"preprocessing: {family.model_type} networks take pixels as they are; "
                f"{', '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing"
            )
        elif mean_of_raw_pixels(section):
            low, high = rescaled_range(section)
            self.note(
                "preprocessing: mean and std are applied to pixels as they are, and scale and offset do nothing, since they "
                f"make {low:.3g} to {high:.3g} of pixels, where no such mean can be"
            )
        mine = merge_preprocess(family.preprocess, model, section, family.unused_preprocessing)
        if other := unlike_published(family, mine):
            self.note(other)

    def _training(self) -> None:
        family, training = self.family, self.built["training"]
        if family is not None and training.trainer_name not in (None, family.trainer_name):
            self.problem("training.trainer_name", f"found {training.trainer_name!r}", family.trainer_name)
        if training.no_aug_epochs is not None and training.no_aug_epochs > training.epochs:
            self.problem("training.no_aug_epochs", f"{training.no_aug_epochs} is more than epochs ({training.epochs})")
        schedule = self.contributed.get("scheduler")
        if self.mode.trains and isinstance(schedule, ScheduleOptions):
            for sentence in schedule.notes(training.epochs):
                self.note(sentence)
        if training.sync_batch_norm and training.device == "cpu":
            self.problem("training.sync_batch_norm", "works on CUDA devices only, and training.device is cpu")
        if training.start_epoch and not training.resume_training_from:
            self.problem("training.start_epoch", "has a meaning only with resume_training_from")
        if training.start_epoch is not None and training.start_epoch >= training.epochs:
            self.problem("training.start_epoch", f"{training.start_epoch} is not below epochs ({training.epochs})")

    def _quantization_aware(self) -> None:
        mode, key = self.mode, "training.quantization_aware"
        training, model = self.built["training"], self.built["model"]
        if not mode.trains:
            self.note(f"{key} does nothing in {mode.name}, which trains nothing")
            return
        if self.family is not None and not self.family.quantization_aware:
            self.problem(key, f"int8 of models of type `{self.family.model_type}` can't be simulated in training")
        trained = model.model_path is not None or (model.pretrained and model.pretrained_dataset != IMAGENET)
        if not trained and training.resume_training_from is None:
            self.problem(key, "fine-tunes trained weights: set model.model_path to a checkpoint")
        if training.fp16:
            self.problem(key, "can't be combined with fp16, whose bfloat16 rounds as coarsely as int8 does")
        if training.compile:
            self.problem(key, "can't be combined with compile: the simulation runs operator by operator")
        if training.sync_batch_norm:
            self.problem(key, "can't be combined with sync_batch_norm: the statistics stay as they were learned")

    def _needs(self) -> QuantizationNeeds:
        """What quantizing takes; nothing where nothing is quantized."""
        if not self.mode.quantizes or self.target is None:
            return QuantizationNeeds(calibration=False)
        return self.target.needs(self.built["quantization"])

    def _quantization(self) -> None:
        section = self.built["quantization"]
        if section.random_calibration and self._judges():
            self.problem(
                "quantization.random_calibration", "ranges from noise can't be judged by accuracy; leave out max_drop"
            )

    def _judges(self) -> bool:
        """Whether quantizing takes evaluation images."""
        return self.built["quantization"].max_drop is not None or self._needs().evaluation_images

    def _data(self) -> None:
        mode, dataset, quantization = self.mode, self.built["dataset"], self.built["quantization"]
        if mode.predicts and dataset.prediction_path is None:
            self.problem("dataset.prediction_path", f"missing; {mode.name} needs it")
        reader = self.reader
        if reader is None:
            return
        for key in SPLIT_KEYS if not reader.split_lists else ():
            if getattr(dataset, key) is not None:
                self.problem(
                    f"dataset.{key}",
                    f"has no meaning with dataset_name {dataset.dataset_name}, which has no split lists",
                )
        needed: list[str] = []
        if mode.trains:
            needed += [*missing_keys(dataset, reader, "train"), *missing_keys(dataset, reader, "val")]
        elif mode.evaluates or (mode.quantizes and self._judges()):
            needed += missing_keys(dataset, reader, evaluation_split(dataset, reader))
        takes_images = self._needs().calibration and quantization.random_calibration is None
        if takes_images and dataset.quantization_path is None:
            needed += missing_keys(dataset, reader, "train")
        for key in dict.fromkeys(needed):
            alternative = " (or quantization_path)" if mode.quantizes and not mode.trains and "train" in key else ""
            self.problem(f"dataset.{key}", f"missing; {mode.name} needs it{alternative}")
