"""Checking a config against the sections and the components it chooses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stdet.config import schema as sections
from stdet.config.convert import convert
from stdet.config.problems import ConfigProblems, Problem, nearest
from stdet.config.source import COMMAND_LINE, Source, fill_now, read_source
from stdet.errors import ConfigError, StdetError
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.published import IMAGENET, choose_weights
from stdet.structures import COLOR_CHANNELS, Preprocess

TRAINING_MODES = ("training", "chain_tqe", "chain_tqeb")
EVALUATING_MODES = ("evaluation", "chain_tqe", "chain_tqeb", "chain_eqe", "chain_eqeb")
QUANTIZING_MODES = ("quantization", "chain_tqe", "chain_tqeb", "chain_eqe", "chain_eqeb", "chain_qb")
DATA_MODE = "data"
"""Stands for the operation mode where a data tool reads a config: no stage runs, so no key is needed for one."""
SPLIT_KEYS = ("train_split", "val_split", "test_split")
FORCED_AUGMENTATION_EPOCHS = 4
"""Without a `no_aug_epochs` of its own, a short run keeps strong augmentation for three quarters of its epochs."""


class Catalogue(Protocol):
    """What the config layer asks of the registered components; unknown names raise `StdetError`."""

    def names(self, kind: str) -> list[str]: ...

    def options(self, kind: str, name: str) -> type[Options]: ...

    def family(self, model_name: str) -> ModelFamily: ...

    def families(self) -> dict[str, ModelFamily]: ...


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


def load(
    path: Path,
    overrides: Sequence[str],
    catalogue: Catalogue,
    *,
    operation_mode: str | None = None,
    now: datetime | None = None,
) -> Config:
    """Read and check a config file.

    Args:
        overrides: `key=value` each, on top of the file.
        operation_mode: replaces the file's; `DATA_MODE` for the data tools.
        now: time for `${now:...}`; the present when None.

    Raises:
        ConfigError: the file can't be read, or `ConfigProblems` with every mistake in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}", "check the path") from error
    return load_text(text, str(path), overrides, catalogue, operation_mode=operation_mode, now=now)


def load_text(
    text: str,
    name: str,
    overrides: Sequence[str],
    catalogue: Catalogue,
    *,
    operation_mode: str | None = None,
    now: datetime | None = None,
) -> Config:
    """As `load`, from text; `name` stands for the file in messages."""
    given = list(overrides)
    if operation_mode not in (None, DATA_MODE):
        given.append(f"operation_mode={operation_mode}")
    now = now or datetime.now()
    return _Checker(read_source(text, name, given, now), catalogue, now, operation_mode == DATA_MODE).check()


class _Checker:
    """Collects every problem of one config, and builds the result when there is none."""

    def __init__(self, source: Source, catalogue: Catalogue, now: datetime, data_only: bool) -> None:
        self._source = source
        self._catalogue = catalogue
        self._now = now
        self._data_only = data_only
        self._problems: list[Problem] = list(source.problems)
        self._notes: list[str] = []
        self._raw: dict[str, dict[str, Any]] = {}

    def check(self) -> Config:
        mode = self._operation_mode()
        self._split_sections()
        family = self._family()
        self._default_training(family)
        contributed = self._contributions(family)
        built = {name: self._section(name, model) for name, model in sections.SECTIONS.items()}
        if not self._raw["hydra"]:
            run = sections.HydraRun(dir=fill_now(sections.HydraRun().dir, self._now))
            built["hydra"] = sections.Hydra(run=run)
        if None not in built.values():
            self._check_together(mode, family, built, contributed)
        if self._problems:
            raise ConfigProblems(self._source.name, self._problems)
        built["training"] = _with_family_defaults(built["training"], family)
        return Config(
            operation_mode=mode, **built, options=Contributed(**contributed), family=family, notes=tuple(self._notes)
        )

    def _problem(self, key: str, message: str, allowed: str = "", near: str = "") -> None:
        """Report a mistake. A key has one at a time: what is wrong in itself isn't also missing or contradictory."""
        if key not in {problem.key for problem in self._problems}:
            self._problems.append(Problem(self._source.place(key), key, message, allowed, near))

    # --- the parts -------------------------------------------------------------------------------------------------

    def _operation_mode(self) -> str:
        if self._data_only:
            return DATA_MODE
        mode, allowed = self._source.tree.get("operation_mode"), get_args(sections.OperationMode)
        if mode is None:
            self._problem("operation_mode", "missing", ", ".join(allowed))
        elif mode in ("deployment", "chain_qd", "compression"):
            self._problem("operation_mode", f"{mode} is not in this version", ", ".join(allowed))
        elif mode not in allowed:
            self._problem("operation_mode", f"found {mode!r}", ", ".join(allowed), nearest(str(mode), allowed))
        return str(mode)

    def _split_sections(self) -> None:
        for name, value in self._source.tree.items():
            if name == "operation_mode":
                continue
            if name not in sections.SECTIONS:
                near = nearest(name, [*sections.SECTIONS, "operation_mode"])
                self._problem(name, "unknown section", ", ".join(sections.SECTIONS) if not near else "", near)
            elif value is not None and not isinstance(value, dict):
                self._problem(name, f"a section is a mapping of keys, found {value!r}")
            else:
                self._raw[name] = dict(value or {})
        for name in sections.SECTIONS:
            self._raw.setdefault(name, {})
        for alias, key in sections.ALIASES.items():
            section, _, other = alias.partition(".")
            self._merge_alias(section, other, key)
        dataset = self._raw["dataset"]
        if isinstance(dataset.get("dataset_name"), str):
            dataset["dataset_name"] = sections.FORMATS.get(dataset["dataset_name"], dataset["dataset_name"])
        if dataset.get("dataset_name") is None and any(dataset.get(key) for key in SPLIT_KEYS):
            dataset["dataset_name"] = "voc"  # the guide's VOC block names no format, but only VOC has split lists
        if self._raw["dataset"].get("training_path", "") is None:
            del self._raw["dataset"]["training_path"]  # the guide's examples carry it blank

    def _merge_alias(self, section: str, alias: str, key: str) -> None:
        raw = self._raw[section]
        if alias not in raw:
            return
        value = raw.pop(alias)
        places = [self._source.place(f"{section}.{name}") for name in (alias, key)]
        if key in raw and COMMAND_LINE in places and places[0] != places[1]:
            # an override wins, whichever of the two names the file uses
            raw[key] = value if places[0] == COMMAND_LINE else raw[key]
        elif key in raw and value is not None and raw[key] != value:
            self._problem(f"{section}.{alias}", f"says {value!r}, but `{key}` says {raw[key]!r}; they mean the same")
        elif value is not None:
            raw[key] = value
            self._source.places.setdefault(f"{section}.{key}", self._source.place(f"{section}.{alias}"))

    def _family(self) -> ModelFamily | None:
        raw = self._raw["model"]
        name, kind = raw.get("model_name"), raw.get("model_type")
        try:
            if name is not None:
                family = self._catalogue.family(str(name))
                if kind is not None and kind != family.model_type:
                    self._problem("model.model_type", f"found {kind!r}, but `{name}` is of type `{family.model_type}`")
                return family
            families = self._catalogue.families() if kind is not None else {}
        except StdetError as error:
            self._problem("model.model_name", f"{error.message} ({error.hint})" if error.hint else error.message)
            return None
        if kind is not None and kind not in families:
            self._problem("model.model_type", f"found {kind!r}", ", ".join(families), nearest(str(kind), families))
        return families.get(str(kind))

    def _default_training(self, family: ModelFamily | None) -> None:
        """Values that depend on each other: the optimizer block with its section-level defaults, the scheduler."""
        raw = self._raw["training"]
        optimizer = raw.get("optimizer")
        if isinstance(optimizer, str):
            raw["optimizer"] = optimizer = {optimizer: {}}
        if optimizer is None and (family is not None or {"learning_rate", "momentum", "weight_decay"} & raw.keys()):
            raw["optimizer"] = optimizer = {"SGD": {}}
        if isinstance(optimizer, dict):
            raw["optimizer"] = {
                name: self._optimizer_block(str(name), block if isinstance(block, dict) else {}, family)
                if block is None or isinstance(block, dict)
                else block
                for name, block in optimizer.items()
            }
        for key in ("learning_rate", "momentum", "weight_decay"):
            raw.pop(key, None)
        if raw.get("scheduler") is None and family is not None:
            raw["scheduler"] = family.scheduler

    def _optimizer_block(self, name: str, block: dict[str, Any], family: ModelFamily | None) -> dict[str, Any]:
        raw, block = self._raw["training"], dict(block)
        for key in ("warmup_lr", "min_lr_ratio"):  # the guide writes these keys of the schedule into the optimizer
            if key in block:
                raw[key] = block.pop(key)
                self._source.places[f"training.{key}"] = self._source.place(f"training.optimizer.{name}.{key}")
        model = sections.SgdOptions if name == "SGD" else sections.AdamOptions
        for key in ("learning_rate", "momentum", "weight_decay"):
            if raw.get(key) is None:
                continue
            if key not in model.model_fields:
                self._problem(f"training.{key}", f"{name} has no {key}")
            elif block.get(key) is None:
                block[key] = raw[key]
            elif block[key] != raw[key]:
                self._notes.append(f"training.{key}: the {name} block's {block[key]} counts, not {raw[key]}")
        defaults = family.optimizer_defaults.get(name, {}) if family else {}
        return {"learning_rate": 0.01} | defaults | {key: value for key, value in block.items() if value is not None}

    # --- component keys ------------------------------------------------------------------------------------------

    def _contributions(self, family: ModelFamily | None) -> dict[str, Options]:
        """Take the keys of the chosen components out of the raw sections, checked."""
        reader = self._raw["dataset"].get("dataset_name") or "coco"
        scheduler = self._raw["training"].get("scheduler")
        taken: dict[str, Options] = {}
        parts: list[tuple[str, str, str, str, type[Options] | None]] = [
            ("reader", "dataset", "datasets", str(reader), self._options("datasets", reader, "dataset.dataset_name")),
            ("scheduler", "training", "schedulers", str(scheduler), None),
        ]
        if scheduler is not None:
            parts[1] = (*parts[1][:4], self._options("schedulers", scheduler, "training.scheduler"))
        if family is not None:
            recipe = family.augmentation
            parts += [
                ("model", "model", "models", family.model_type, family.model_options),
                ("training", "training", "models", family.model_type, family.training_options),
                (
                    "augmentation",
                    "dataset",
                    "transforms",
                    recipe,
                    self._options("transforms", recipe, "model.model_name"),
                ),
            ]
        for field, section, _, _, options in parts:
            if options is not None:
                taken[field] = self._take(section, options)
        for name in sections.SECTIONS:
            if family is None and self._raw["model"].get("model_name") and name in ("model", "dataset", "training"):
                # The model is unknown, so nobody can tell which keys it would add: that mistake is enough to report.
                fields = sections.SECTIONS[name].model_fields
                self._raw[name] = {key: value for key, value in self._raw[name].items() if key in fields}
            self._refuse_leftovers(name, family, [p for p in parts if p[1] == name])
        return taken

    def _options(self, kind: str, name: object, key: str) -> type[Options] | None:
        try:
            return self._catalogue.options(kind, str(name))
        except StdetError as error:
            self._problem(key, f"{error.message} ({error.hint})" if error.hint else error.message)
            return None

    def _take(self, section: str, options: type[Options]) -> Options:
        raw = self._raw[section]
        own = {key: raw.pop(key) for key in options.model_fields if key in raw}
        made = self._validate(options, {k: v for k, v in own.items() if v is not None}, section)
        return made if isinstance(made, Options) else options.model_construct()

    def _refuse_leftovers(
        self, section: str, family: ModelFamily | None, parts: list[tuple[str, str, str, str, type[Options] | None]]
    ) -> None:
        """Every key that neither the section nor a chosen component knows: refused with a reason, if there is one."""
        raw, fields = self._raw[section], sections.SECTIONS[section].model_fields
        known = [*fields, *(key for *_, options in parts if options for key in options.model_fields)]
        for key in [k for k in raw if k not in fields]:
            dotted = f"{section}.{key}"
            value = raw.pop(key)
            reason = (family.refused.get(dotted) if family else None) or sections.REFUSED.get(dotted)
            if reason:
                self._problem(dotted, f"has no meaning here: {reason}")
            elif note := self._printed_by_the_guide(dotted, family):
                self._notes.append(f"{dotted}: {note}")
            elif owner := self._owner_of(section, key):
                self._problem(dotted, f"belongs to {owner}, which this config doesn't use")
            else:
                near = nearest(key, known)
                self._problem(dotted, f"unknown key (found {value!r})", "" if near else ", ".join(sorted(known)), near)

    def _printed_by_the_guide(self, dotted: str, family: ModelFamily | None) -> str:
        """Keys that the guide's own blocks carry beside a choice they don't belong to."""
        if dotted == "training.gamma" and family is not None and family.scheduler == "cosine":
            return "does nothing with this scheduler; multi-step uses it"
        return ""

    def _owner_of(self, section: str, key: str) -> str:
        """The registered component that would take `section.key`."""
        kinds = {"dataset": ("datasets", "transforms"), "training": ("schedulers",)}.get(section, ())
        for kind in kinds:
            for name in self._catalogue.names(kind):
                try:
                    if key in self._catalogue.options(kind, name).model_fields:
                        return f"the {kind.removesuffix('s')} `{name}`"
                except StdetError:
                    continue  # a broken plugin is reported by the commands that need it
        for kind, family in self._catalogue.families().items():
            options = {"model": family.model_options, "training": family.training_options}.get(section)
            if options and key in options.model_fields:
                return f"models of type `{kind}`"
        return ""

    # --- validation --------------------------------------------------------------------------------------------------

    def _section(self, name: str, model: type[sections.Section]) -> Any:
        return self._validate(
            model, {k: v for k, v in self._raw[name].items() if v is not None or _none_counts(name, k)}, name
        )

    def _validate(self, model: type[BaseModel], values: dict[str, Any], section: str) -> BaseModel | None:
        """The checked section. Mistakes are reported and left out of it, so that what remains can be judged too; None
        when the rest makes no section either."""
        try:
            return model.model_validate(convert(model, values))
        except ValidationError as error:
            items = error.errors(include_url=False)
        for item in items:
            self._report(model, section, item)
        wrong = {item["loc"][0] for item in items if item["loc"]}
        try:
            return model.model_validate(convert(model, {k: v for k, v in values.items() if k not in wrong}))
        except ValidationError:
            return None

    def _report(self, model: type[BaseModel], section: str, item: Any) -> None:
        key = ".".join([section, *(str(part) for part in item["loc"])])
        reason = sections.REFUSED.get(key)
        found = item.get("input")
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            near = nearest(str(item["loc"][-1]), fields)
            message = f"has no meaning here: {reason}" if reason else f"unknown key (found {found!r})"
            self._problem(key, message, "" if near or reason else ", ".join(fields), "" if reason else near)
        elif item["type"] in ("literal_error", "enum"):
            allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            self._problem(key, f"found {found!r}", allowed, nearest(str(found), allowed.split(", ")))
        elif item["type"] == "missing":
            self._problem(key, "missing")
        else:
            shown = "" if isinstance(found, dict) else f"; found {found!r}"
            self._problem(key, f"{item['msg'].removeprefix('Value error, ').lower()}{shown}")

    # --- across sections ---------------------------------------------------------------------------------------------

    def _check_together(
        self, mode: str, family: ModelFamily | None, built: dict[str, Any], contributed: dict[str, Options]
    ) -> None:
        self._check_model(mode, family, built)
        self._check_training(mode, family, built["training"])
        if built["training"].quantization_aware is not None:
            self._check_quantization_aware(mode, built)
        self._check_data(mode, built["dataset"], built["quantization"])
        if mode in QUANTIZING_MODES:
            self._check_quantization(mode, built["quantization"], built["model"])
        board = built["benchmarking"].board
        if mode.endswith("b") or mode in ("benchmarking", *QUANTIZING_MODES) or "board" in self._raw["benchmarking"]:
            self._options("targets", board, "benchmarking.board")
        augmentation = contributed.get("augmentation")
        given = self._source.tree.get("dataset") or {}
        if getattr(augmentation, "enable_mixup", None) is False and {"mixup_prob", "mixup_scale"} & given.keys():
            self._notes.append("dataset.mixup_prob and mixup_scale do nothing while enable_mixup is False")
        if getattr(augmentation, "random_size", None) is not None and given.get("multiscale_range"):
            self._notes.append("dataset.multiscale_range does nothing beside random_size")
        kept = given.get("cache_images", "none") != "none" or getattr(augmentation, "mosaic_buffer", 0)
        if given.get("cache_limit_gib") and not kept:
            self._notes.append("dataset.cache_limit_gib does nothing without cache_images")

    def _check_model(self, mode: str, family: ModelFamily | None, built: dict[str, Any]) -> None:
        model, dataset, preprocessing = built["model"], built["dataset"], built["preprocessing"]
        needed = mode in TRAINING_MODES or (mode != DATA_MODE and model.model_path is None)
        if model.model_name is None and needed:
            self._problem("model.model_name", f"missing; {mode} needs it", ", ".join(self._catalogue.names("models")))
        if mode in TRAINING_MODES and model.model_path is not None and model.model_path.suffix == ".onnx":
            self._problem("model.model_path", f"an ONNX file can't be trained; found {str(model.model_path)!r}")
        if model.num_classes is not None and dataset.class_names and model.num_classes != len(dataset.class_names):
            self._problem(
                "model.num_classes", f"is {model.num_classes}, but dataset.class_names has {len(dataset.class_names)}"
            )
        unused = [
            k for k in ("pretrained_dataset", "pretrained_input_shape") if getattr(model, k) and not model.pretrained
        ]
        if unused:
            self._notes.append(f"model.{' and '.join(unused)}: nothing to do while pretrained is False")
        if family is None:
            return
        if model.pretrained and mode != DATA_MODE:
            self._check_pretrained(mode, family, model)
        if model.input_shape is not None:
            self._check_size(family, model.input_shape, preprocessing.color_mode or family.preprocess.color_mode)
        try:
            self._note_preprocess(family, _merge_preprocess(family, model, preprocessing))
        except ValueError as error:
            self._problem("preprocessing", str(error))

    def _check_pretrained(self, mode: str, family: ModelFamily, model: sections.Model) -> None:
        if mode not in TRAINING_MODES and model.pretrained_dataset == IMAGENET:
            self._problem("model.pretrained_dataset", f"a classifier detects nothing, so {mode} can't use it")
        elif model.model_path is not None and model.pretrained_dataset != IMAGENET:
            self._notes.append("model.pretrained: nothing to fetch, model.model_path counts")
        elif model.model_path is None and model.model_name is not None:
            shape = model.pretrained_input_shape
            width = model.input_shape[2] if model.input_shape else family.preprocess.width
            try:
                choose_weights(family, model.model_name, model.pretrained_dataset, shape[2] if shape else None, width)
            except StdetError as error:
                self._problem("model.pretrained", f"{error.message} ({error.hint})")

    def _check_size(self, family: ModelFamily, shape: tuple[int, int, int], color_mode: str) -> None:
        channels, *size = shape
        if channels != COLOR_CHANNELS[color_mode]:
            self._problem(
                "model.input_shape",
                f"has {channels} channels, but color_mode {color_mode} has {COLOR_CHANNELS[color_mode]}",
            )
        if any(side % family.size_multiple or side < family.min_size for side in size):
            rule = f"multiples of {family.size_multiple}, at least {family.min_size}"
            self._problem("model.input_shape", f"found height {size[0]}, width {size[1]}", rule)

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
            self._notes.append(
                f"preprocessing differs from what published {family.model_type} weights expect: {', '.join(other)}"
            )

    def _check_training(self, mode: str, family: ModelFamily | None, training: sections.Training) -> None:
        if family is not None and training.trainer_name not in (None, family.trainer_name):
            self._problem("training.trainer_name", f"found {training.trainer_name!r}", family.trainer_name)
        if training.no_aug_epochs is not None and training.no_aug_epochs > training.epochs:
            self._problem("training.no_aug_epochs", f"{training.no_aug_epochs} is more than epochs ({training.epochs})")
        if training.start_epoch and not training.resume_training_from:
            self._problem("training.start_epoch", "has a meaning only with resume_training_from")
        if training.start_epoch is not None and training.start_epoch >= training.epochs:
            self._problem("training.start_epoch", f"{training.start_epoch} is not below epochs ({training.epochs})")

    def _check_quantization_aware(self, mode: str, built: dict[str, Any]) -> None:
        key = "training.quantization_aware"
        training, model, target = built["training"], built["model"], built["quantization"]
        if mode not in TRAINING_MODES:
            self._notes.append(f"{key} does nothing in {mode}, which trains nothing")
            return
        trained = model.model_path is not None or (model.pretrained and model.pretrained_dataset != IMAGENET)
        if not trained and training.resume_training_from is None:
            self._problem(key, "fine-tunes trained weights: set model.model_path to a checkpoint")
        if training.fp16:
            self._problem(key, "can't be combined with fp16, whose bfloat16 rounds as coarsely as int8 does")
        if training.compile:
            self._problem(key, "can't be combined with compile: the simulation runs operator by operator")
        wanted = (training.quantization_aware, "per_channel")
        made = (target.onnx_quant_parameters.weightType.capitalize(), target.granularity)
        if mode in QUANTIZING_MODES and made != wanted:
            self._problem(key, f"simulates weights {' '.join(wanted)}, but quantization makes them {' '.join(made)}")

    def _check_quantization(self, mode: str, section: sections.Quantization, model: sections.Model) -> None:
        if section.operating_mode == "full_auto" and section.max_drop is None:
            self._problem("quantization.max_drop", "missing; full_auto searches under this budget")
        if section.random_calibration and _judges(section):
            self._problem(
                "quantization.random_calibration", "ranges from noise can't be judged by accuracy; leave out max_drop"
            )
        if section.operating_mode == "normalise":
            if mode not in ("quantization", "chain_qb"):
                self._problem(
                    "quantization.operating_mode", f"normalise has no place in {mode}", "quantization, chain_qb"
                )
            if section.max_drop is not None:
                self._problem("quantization.max_drop", "normalise has no float model to compare with")
            if model.model_path is None or model.model_path.suffix != ".onnx":
                self._problem("model.model_path", "normalise needs the ONNX file of another tool")

    def _check_data(self, mode: str, dataset: sections.Dataset, quantization: sections.Quantization) -> None:
        for key in SPLIT_KEYS if dataset.dataset_name in ("coco", "yolo", "synthetic") else ():
            if getattr(dataset, key) is not None:
                self._problem(
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
                self._problem(f"dataset.{key}", f"missing; {mode} needs it{alternative if 'train' in key else ''}")


def _judges(section: sections.Quantization) -> bool:
    """Whether quantizing takes evaluation images."""
    return section.max_drop is not None or section.iterative_quant_parameters.inspection_map > 0


def _none_counts(section: str, key: str) -> bool:
    """Keys whose None isn't "not given"."""
    return section == "general" and key in ("global_seed", "logger")


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        nested = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)


def _with_family_defaults(training: sections.Training, family: ModelFamily | None) -> sections.Training:
    if family is None:
        return training
    closed = min(family.no_aug_epochs, training.epochs // FORCED_AUGMENTATION_EPOCHS)
    return training.model_copy(
        update={
            "trainer_name": family.trainer_name,
            "ema": family.ema if training.ema is None else training.ema,
            "no_aug_epochs": closed if training.no_aug_epochs is None else training.no_aug_epochs,
        }
    )


def preprocess_of(config: Config) -> Preprocess:
    """The preprocessing that a config describes: its keys over the family's defaults.

    Raises:
        ConfigError: the config names no model family.
    """
    if config.family is None:
        raise ConfigError("the config names no model", "set model.model_name or model.model_type")
    return _merge_preprocess(config.family, config.model, config.preprocessing)


def _merge_preprocess(family: ModelFamily, model: sections.Model, section: sections.Preprocessing) -> Preprocess:
    base = family.preprocess
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
