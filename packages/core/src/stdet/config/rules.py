"""What must hold between sections, and what is allowed but does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stdet.config import schema as sections
from stdet.config.checked import merge_preprocess
from stdet.config.problems import in_one_line
from stdet.errors import StdetError
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.heads import HeadForm
from stdet.interfaces.published import IMAGENET, choose_weights
from stdet.structures import COLOR_CHANNELS, Preprocess

TRAINING_MODES = ("training", "chain_tqe", "chain_tqeb")
EVALUATING_MODES = ("evaluation", "chain_tqe", "chain_tqeb", "chain_eqe", "chain_eqeb")
QUANTIZING_MODES = ("quantization", "chain_tqe", "chain_tqeb", "chain_eqe", "chain_eqeb", "chain_qb")
DATA_MODE = "data"
"""Stands for the operation mode where a data tool reads a config: no stage runs, so no key is needed for one."""
SPLIT_KEYS = ("train_split", "val_split", "test_split")


class Catalogue(Protocol):
    """What the config layer asks of the registered components; unknown names raise `StdetError`."""

    def names(self, kind: str) -> list[str]: ...

    def options(self, kind: str, name: str) -> type[Options]: ...

    def family(self, model_name: str) -> ModelFamily: ...

    def families(self) -> dict[str, ModelFamily]: ...

    def heads(self) -> dict[str, HeadForm]: ...

    def family_of_type(self, model_type: str) -> ModelFamily | None: ...


@dataclass(frozen=True)
class Rules:
    """Judges a config whose sections are each right in themselves.

    Attributes:
        family: of the model, None where the config names none.
        built: the checked sections by name.
        contributed: the checked keys of the chosen components, by field of `Contributed`.
        given: what the file and the command line say, before any default.
        problem: called with key, message and what is allowed, for each mistake.
        note: called with each key that is there but does nothing.
    """

    mode: str
    family: ModelFamily | None
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
        if self.mode in QUANTIZING_MODES:
            self._quantization()
        asked = "board" in (self.given.get("benchmarking") or {})
        if asked or self.mode.endswith("b") or self.mode in ("benchmarking", *QUANTIZING_MODES):
            self._board()

    def _board(self) -> None:
        try:
            self.catalogue.options("targets", self.built["benchmarking"].board)
        except StdetError as error:
            self.problem("benchmarking.board", in_one_line(error))

    def _augmentation(self) -> None:
        augmentation = self.contributed.get("augmentation")
        given = self.given.get("dataset") or {}
        if getattr(augmentation, "enable_mixup", None) is False and {"mixup_prob", "mixup_scale"} & given.keys():
            self.note("dataset.mixup_prob and mixup_scale do nothing while enable_mixup is False")
        if getattr(augmentation, "random_size", None) is not None and given.get("multiscale_range"):
            self.note("dataset.multiscale_range does nothing beside random_size")
        kept = given.get("cache_images", "none") != "none" or getattr(augmentation, "mosaic_buffer", 0)
        if given.get("cache_limit_gib") and not kept:
            self.note("dataset.cache_limit_gib does nothing without cache_images")

    def _model(self) -> None:
        mode, family, built = self.mode, self.family, self.built
        model, dataset, preprocessing = built["model"], built["dataset"], built["preprocessing"]
        needed = mode in TRAINING_MODES or (mode != DATA_MODE and model.model_path is None)
        if model.model_name is None and needed:
            self.problem("model.model_name", f"missing; {mode} needs it", ", ".join(self.catalogue.names("models")))
        if mode in TRAINING_MODES and model.model_path is not None and model.model_path.suffix == ".onnx":
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
        if model.pretrained and mode != DATA_MODE:
            self._pretrained(family, model)
        if model.input_shape is not None:
            self._size(family, model.input_shape, preprocessing.color_mode or family.preprocess.color_mode)
        try:
            self._note_preprocess(family, merge_preprocess(family.preprocess, model, preprocessing))
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
        elif self.mode in TRAINING_MODES or self.mode == "export":
            self.problem("model.head", f"is for an ONNX of another tool, which {self.mode} can't use")

    def _pretrained(self, family: ModelFamily, model: sections.Model) -> None:
        if self.mode not in TRAINING_MODES and model.pretrained_dataset == IMAGENET:
            self.problem("model.pretrained_dataset", f"a classifier detects nothing, so {self.mode} can't use it")
        elif model.model_path is not None and model.pretrained_dataset != IMAGENET:
            self.note("model.pretrained: nothing to fetch, model.model_path counts")
        elif model.model_path is None and model.model_name is not None:
            shape = model.pretrained_input_shape
            width = model.input_shape[2] if model.input_shape else family.preprocess.width
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

    def _note_preprocess(self, family: ModelFamily, mine: Preprocess) -> None:
        """Published weights and another preprocessing: honoured, but said."""
        theirs = family.preprocess
        names = ("resize_mode", "interpolation", "color_mode", "scale", "offset", "mean", "std")
        other = [
            f"{n} {getattr(mine, n)} (weights: {getattr(theirs, n)})"
            for n in names
            if getattr(mine, n) != getattr(theirs, n)
        ]
        if other:
            self.note(
                f"preprocessing differs from what published {family.model_type} weights expect: {', '.join(other)}"
            )

    def _training(self) -> None:
        family, training = self.family, self.built["training"]
        if family is not None and training.trainer_name not in (None, family.trainer_name):
            self.problem("training.trainer_name", f"found {training.trainer_name!r}", family.trainer_name)
        if training.no_aug_epochs is not None and training.no_aug_epochs > training.epochs:
            self.problem("training.no_aug_epochs", f"{training.no_aug_epochs} is more than epochs ({training.epochs})")
        if training.start_epoch and not training.resume_training_from:
            self.problem("training.start_epoch", "has a meaning only with resume_training_from")
        if training.start_epoch is not None and training.start_epoch >= training.epochs:
            self.problem("training.start_epoch", f"{training.start_epoch} is not below epochs ({training.epochs})")

    def _quantization_aware(self) -> None:
        mode, key = self.mode, "training.quantization_aware"
        training, model, target = (self.built[name] for name in ("training", "model", "quantization"))
        if mode not in TRAINING_MODES:
            self.note(f"{key} does nothing in {mode}, which trains nothing")
            return
        trained = model.model_path is not None or (model.pretrained and model.pretrained_dataset != IMAGENET)
        if not trained and training.resume_training_from is None:
            self.problem(key, "fine-tunes trained weights: set model.model_path to a checkpoint")
        if training.fp16:
            self.problem(key, "can't be combined with fp16, whose bfloat16 rounds as coarsely as int8 does")
        if training.compile:
            self.problem(key, "can't be combined with compile: the simulation runs operator by operator")
        if mode in QUANTIZING_MODES:
            self._simulates_what_is_made(key, training.quantization_aware, target)

    def _simulates_what_is_made(self, key: str, weights: str, target: sections.Quantization) -> None:
        wanted = (weights, "per_channel")
        made = (target.onnx_quant_parameters.weightType.capitalize(), target.granularity)
        if made != wanted:
            self.problem(key, f"simulates weights {' '.join(wanted)}, but quantization makes them {' '.join(made)}")
        extra = target.onnx_extra_options
        others = {
            f"quantizer: {target.quantizer}": target.quantizer != "onnx_quantizer",
            "SequentialMSE": extra.SequentialMSE,
            "BiasCorrection": extra.BiasCorrection,
            "Int4Share": extra.Int4Share > 0,
        }
        if any(others.values()):
            named = ", ".join(name for name, on in others.items() if on)
            self.problem(
                key, f"trains for a file with these very weights and biases; quantization changes them by {named}"
            )

    def _quantization(self) -> None:
        mode, section, model = self.mode, self.built["quantization"], self.built["model"]
        if section.operating_mode == "full_auto" and section.max_drop is None:
            self.problem("quantization.max_drop", "missing; full_auto searches under this budget")
        if section.random_calibration and _judges(section):
            self.problem(
                "quantization.random_calibration", "ranges from noise can't be judged by accuracy; leave out max_drop"
            )
        if section.operating_mode == "normalise":
            if mode not in ("quantization", "chain_qb"):
                self.problem(
                    "quantization.operating_mode", f"normalise has no place in {mode}", "quantization, chain_qb"
                )
            if section.max_drop is not None:
                self.problem("quantization.max_drop", "normalise has no float model to compare with")
            if model.model_path is None or model.model_path.suffix != ".onnx":
                self.problem("model.model_path", "normalise needs the ONNX file of another tool")

    def _data(self) -> None:
        mode, dataset, quantization = self.mode, self.built["dataset"], self.built["quantization"]
        for key in SPLIT_KEYS if dataset.dataset_name in ("coco", "yolo", "synthetic") else ():
            if getattr(dataset, key) is not None:
                self.problem(
                    f"dataset.{key}", f"has no meaning with dataset_name {dataset.dataset_name}; VOC has split lists"
                )
        if dataset.dataset_name == "synthetic":
            return
        needed: list[str] = []
        if mode in TRAINING_MODES:
            needed += [*dataset.needed_keys("train"), *dataset.needed_keys("val")]
        elif mode in EVALUATING_MODES or (mode in QUANTIZING_MODES and _judges(quantization)):
            needed += dataset.needed_keys(dataset.evaluation_split())
        takes_images = quantization.random_calibration is None and quantization.operating_mode != "normalise"
        if mode in QUANTIZING_MODES and dataset.quantization_path is None and takes_images:
            needed += dataset.needed_keys("train")
        if mode == "prediction":
            needed.append("prediction_path")
        for key in dict.fromkeys(needed):
            if getattr(dataset, key) is None:
                alternative = (
                    " (or quantization_path)" if mode in QUANTIZING_MODES and mode not in TRAINING_MODES else ""
                )
                self.problem(f"dataset.{key}", f"missing; {mode} needs it{alternative if 'train' in key else ''}")


def _judges(section: sections.Quantization) -> bool:
    """Whether quantizing takes evaluation images."""
    return section.max_drop is not None or section.iterative_quant_parameters.inspection_map > 0
