"""Checking a config against the sections and the components it chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from stdet.artifacts import is_onnx
from stdet.config import schema as sections
from stdet.config.checked import Config, Contributed
from stdet.config.components import Chooser, Chosen, Contribution
from stdet.config.convert import convert
from stdet.config.optimizers import OptimizerReader
from stdet.config.problems import ConfigProblems, Problem, in_one_line, nearest
from stdet.config.rules import Catalogue, Rules
from stdet.config.source import COMMAND_LINE, Source, fill_now, read_source
from stdet.errors import ConfigError, StdetError, UnavailableError
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import NEUTRAL, Benchmarking, TargetFacts, TargetSections
from stdet.modes import DATA, ELSEWHERE, MODES, Mode

MAX_UNKNOWN = 50
"""Unknown keys of a section that are each compared with what is known."""
FORCED_AUGMENTATION_EPOCHS = 4
"""Without a `no_aug_epochs` of its own, a short run keeps strong augmentation for three quarters of its epochs."""


def load(
    path: Path,
    overrides: Sequence[str],
    catalogue: Catalogue,
    *,
    operation_mode: str | None = None,
    data_only: bool = False,
    now: datetime | None = None,
) -> Config:
    """Read and check a config file.

    Args:
        overrides: `key=value` each, on top of the file.
        operation_mode: replaces the file's.
        data_only: for the data tools: no stage will run, so no key is needed for one.
        now: time for `${now:...}`; the present when None.

    Raises:
        ConfigError: the file can't be read, or `ConfigProblems` with every mistake in it.
    """
    return load_text(
        read_text(path), str(path), overrides, catalogue, operation_mode=operation_mode, data_only=data_only, now=now
    )


def read_text(path: Path) -> str:
    """Raises:
    ConfigError: the file can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no text, so it is no config; nor is it a model", "name a YAML, ONNX or .pth file"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error}", "check the path") from error


def load_text(
    text: str,
    name: str,
    overrides: Sequence[str],
    catalogue: Catalogue,
    *,
    operation_mode: str | None = None,
    data_only: bool = False,
    now: datetime | None = None,
) -> Config:
    """As `load`, from text; `name` stands for the file in messages."""
    given = list(overrides)
    if operation_mode is not None:
        given.append(f"operation_mode={operation_mode}")
    now = now or datetime.now()
    return _Checker(read_source(text, name, given, now), catalogue, now, data_only).check()


class _Checker:
    """Collects every problem of one config, and builds the result when there is none."""

    def __init__(self, source: Source, catalogue: Catalogue, now: datetime, data_only: bool) -> None:
        self._source = source
        self._catalogue = catalogue
        self._now = now
        self._data_only = data_only
        self._problems: list[Problem] = list(source.problems)
        self._wrong = {problem.key for problem in source.problems}
        self._notes: list[str] = []
        self._raw: dict[str, dict[str, Any]] = {}
        self._refused: Callable[[str], str | None] = sections.REFUSED.get

    def check(self) -> Config:
        mode = self._mode()
        self._split_sections()
        family = self._family(mode)
        chosen = Chooser(mode, self._raw, self._catalogue, self._component_problem).choose(family)
        self._refused = lambda key: _refused(key, chosen)
        self._default_training(family)
        self._raw["dataset"]["dataset_name"] = chosen.reader_name
        if chosen.recipe is not None:
            self._raw["dataset"]["augmentation"] = chosen.recipe
        contributed = self._contributions(chosen)
        built = {name: self._section(name, _class_of(name, chosen.target)) for name in sections.SECTIONS}
        if not self._raw["hydra"]:
            run = sections.HydraRun(dir=fill_now(sections.HydraRun().dir, self._now))
            built["hydra"] = sections.Hydra(run=run)
        if None not in built.values():
            Rules(
                mode,
                family,
                chosen.reader,
                chosen.target,
                built,
                contributed,
                {name: keys for name, keys in self._source.tree.items() if isinstance(keys, dict)},
                self._catalogue,
                self._problem,
                self._notes.append,
            ).check()
        if self._problems:
            raise ConfigProblems(self._source.name, self._problems)
        built["training"] = _with_family_defaults(built["training"], family)
        built["benchmarking"] = _with_target_defaults(built, chosen)
        return Config(
            mode=mode,
            **built,
            options=Contributed(**contributed),
            family=family,
            reader=chosen.reader,
            target=chosen.target,
            notes=tuple(self._notes),
            places=dict(self._source.places),
        )

    def _component_problem(self, key: str, error: StdetError) -> None:
        self._problem(key, in_one_line(error))

    def _problem(self, key: str, message: str, allowed: str = "", near: str = "", superfluous: bool = False) -> None:
        """Report a mistake. A key has one at a time: what is wrong in itself isn't also missing or contradictory."""
        if key not in self._wrong:
            self._wrong.add(key)
            self._problems.append(Problem(self._source.place(key), key, message, allowed, near, superfluous))

    # --- the parts -------------------------------------------------------------------------------------------------

    def _mode(self) -> Mode:
        if self._data_only:
            return DATA
        mode, allowed = self._source.tree.get("operation_mode"), tuple(MODES)
        if mode is None:
            self._problem("operation_mode", "missing", ", ".join(allowed))
        elif not isinstance(mode, str):
            self._problem("operation_mode", f"found {mode!r}", ", ".join(allowed))
        elif mode in ELSEWHERE:
            self._problem("operation_mode", f"{mode} is not in this version", ", ".join(allowed))
        elif mode not in allowed:
            self._problem("operation_mode", f"found {mode!r}", ", ".join(allowed), nearest(str(mode), allowed))
        return MODES.get(str(mode), Mode(str(mode)))

    def _split_sections(self) -> None:
        for name, value in self._source.tree.items():
            if name == "operation_mode":
                continue
            if name not in sections.SECTIONS:
                near = nearest(name, [*sections.SECTIONS, "operation_mode"])
                allowed = ", ".join(sections.SECTIONS) if not near else ""
                if reason := sections.REFUSED.get(name):
                    self._problem(name, f"has no meaning here: {reason}", superfluous=True)
                else:
                    self._problem(name, "unknown section", allowed, near, superfluous=not near)
            elif value is not None and not isinstance(value, dict):
                self._problem(name, f"a section is a mapping of keys, found {value!r}")
            else:
                self._raw[name] = dict(value or {})
        for name in sections.SECTIONS:
            self._raw.setdefault(name, {})
        for alias, key in sections.ALIASES.items():
            section, _, other = alias.partition(".")
            self._merge_alias(section, other, key)
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

    def _family(self, mode: Mode) -> ModelFamily | None:
        raw = self._raw["model"]
        name, kind = raw.get("model_name"), raw.get("model_type")
        family: ModelFamily | None = None
        try:
            if name is not None:
                family = self._catalogue.family(str(name))
            elif kind is not None:
                family = self._catalogue.family_of_type(str(kind))
        except UnavailableError as error:
            path = raw.get("model_path")
            if not (isinstance(path, str) and is_onnx(Path(path))) or mode.trains or mode.evaluates or mode.predicts:
                self._problem("model.model_type" if name is None else "model.model_name", in_one_line(error))
            return None
        except StdetError as error:
            self._problem("model.model_type" if name is None else "model.model_name", in_one_line(error))
            return None
        if family is None and kind is not None:
            families = self._catalogue.families()
            self._problem("model.model_type", f"found {kind!r}", ", ".join(families), nearest(str(kind), families))
        elif family and kind is not None and str(kind).rpartition("/")[2] != family.model_type:
            self._problem("model.model_type", f"found {kind!r}, but `{name}` is of type `{family.model_type}`")
        return family

    def _default_training(self, family: ModelFamily | None) -> None:
        """Values that depend on each other: the optimizer block with its section-level defaults, the scheduler."""
        raw = self._raw["training"]
        OptimizerReader(self._source, family, self._problem, self._notes.append, self._validate).read(raw)
        if raw.get("scheduler") is None and family is not None:
            raw["scheduler"] = family.scheduler

    # --- component keys ------------------------------------------------------------------------------------------

    def _contributions(self, chosen: Chosen) -> dict[str, Any]:
        """Take the keys of the chosen components out of the raw sections, checked."""
        taken: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for part in chosen.contributions:
            self._refuse_stolen_keys(part, owners)
            taken[part.field] = self._take(part.section, part.options)
        for name in sections.SECTIONS:
            if (
                chosen.family is None
                and self._raw["model"].get("model_name")
                and name in ("model", "dataset", "training")
            ):
                # The model is unknown, so nobody can tell which keys it would add: that mistake is enough to report.
                fields = sections.SECTIONS[name].model_fields
                self._raw[name] = {key: value for key, value in self._raw[name].items() if key in fields}
            if name in chosen.unchecked:
                self._leave_unchecked(name, chosen.unchecked[name])
            self._refuse_leftovers(name, chosen)
        return taken

    def _refuse_stolen_keys(self, part: Contribution, owners: dict[str, str]) -> None:
        """A key means one thing: a component can't add one that the section, or another component, has already."""
        for key in part.options.model_fields:
            dotted = f"{part.section}.{key}"
            owner = "stdet" if key in sections.SECTIONS[part.section].model_fields else owners.get(dotted)
            if owner is not None:
                self._problem(
                    dotted, f"{part.owner} adds this key, but it is {owner}'s; its package must call its own otherwise"
                )
            owners[dotted] = part.owner

    def _leave_unchecked(self, section: str, reason: str) -> None:
        """Keys that may be those of a component that isn't there, and that this mode doesn't need."""
        fields, raw = sections.SECTIONS[section].model_fields, self._raw[section]
        # a target may extend a block of a section, too
        unknown = [k for k, v in raw.items() if k not in fields or (section in NEUTRAL and isinstance(v, dict))]
        for key in unknown:
            del self._raw[section][key]
        if unknown:
            self._notes.append(f"{section}.{', '.join(unknown)}: not checked and not used: {reason}")

    def _take(self, section: str, options: type[Options]) -> Options:
        raw = self._raw[section]
        own = {key: raw.pop(key) for key in options.model_fields if key in raw}
        made = self._validate(options, {k: v for k, v in own.items() if v is not None}, section)
        return made if isinstance(made, Options) else options.model_construct()

    def _refuse_leftovers(self, section: str, chosen: Chosen) -> None:
        """Every key that neither the section nor a chosen component knows: refused with a reason, if there is one."""
        raw, fields = self._raw[section], _class_of(section, chosen.target).model_fields
        parts = [part for part in chosen.contributions if part.section == section]
        known = [*fields, *(key for part in parts for key in part.options.model_fields)]
        unknown = [k for k in raw if k not in fields]
        for key in unknown[MAX_UNKNOWN:]:
            del raw[key]
        if len(unknown) > MAX_UNKNOWN:
            self._problem(section, f"{len(unknown)} keys that nobody knows; the first {MAX_UNKNOWN} are told apart")
        for key in unknown[:MAX_UNKNOWN]:
            dotted = f"{section}.{key}"
            value = raw.pop(key)
            if reason := self._refused(dotted):
                self._problem(dotted, f"has no meaning here: {reason}", superfluous=True)
            elif note := self._printed_by_the_guide(dotted, chosen.family):
                self._notes.append(f"{dotted}: {note}")
            elif owner := self._owner_of(section, key):
                self._problem(dotted, f"belongs to {owner}, which this config doesn't use", superfluous=True)
            else:
                near = nearest(key, known)
                allowed = "" if near else ", ".join(sorted(known))
                self._problem(dotted, f"unknown key (found {value!r})", allowed, near, superfluous=not near)

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
                if key in self._options_of(kind, name).model_fields:
                    return f"the {kind.removesuffix('s')} `{name}`"
        for kind, family in self._catalogue.families().items():
            options = {"model": family.model_options, "training": family.training_options}.get(section)
            if options and key in options.model_fields:
                return f"models of type `{kind}`"
        for owner, facts in self._catalogue.targets().items() if section in NEUTRAL else ():
            if key in facts.section(section).model_fields:
                return f"the target `{owner}`"
        return ""

    def _options_of(self, kind: str, name: str) -> type[Options]:
        try:
            return self._catalogue.reader(name).options if kind == "datasets" else self._catalogue.options(kind, name)
        except StdetError:
            return Options  # a broken plugin is reported by the commands that need it

    # --- validation --------------------------------------------------------------------------------------------------

    def _section(self, name: str, model: type[Options]) -> Any:
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
        reason = self._refused(key)
        found = item.get("input")
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            near = nearest(str(item["loc"][-1]), fields)
            message = f"has no meaning here: {reason}" if reason else f"unknown key (found {found!r})"
            allowed = "" if near or reason else ", ".join(fields)
            self._problem(key, message, allowed, "" if reason else near, superfluous=bool(reason) or not near)
        elif item["type"] in ("literal_error", "enum"):
            allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            self._problem(key, f"found {found!r}", allowed, nearest(str(found), allowed.split(", ")))
        elif item["type"] == "missing":
            self._problem(key, "missing")
        else:
            shown = "" if isinstance(found, dict) else f"; found {found!r}"
            self._problem(key, f"{item['msg'].removeprefix('Value error, ').lower()}{shown}")


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


def _class_of(section: str, target: TargetFacts | None) -> type[Options]:
    """What checks a section: the target's own class where it extends it."""
    return target.section(section) if target is not None and section in NEUTRAL else sections.SECTIONS[section]


def _with_target_defaults(built: Mapping[str, Any], chosen: Chosen) -> Benchmarking:
    section, facts = built["benchmarking"], chosen.target
    backends = section.backends
    if backends is None and facts is not None:
        sections = TargetSections(**{name: built[name] for name in NEUTRAL})
        backends = (*facts.default_backends, *facts.asked_backends(sections))
    return section.model_copy(update={"board": chosen.board, "backends": backends})  # type: ignore[no-any-return]


def _refused(key: str, chosen: Chosen) -> str | None:
    """Why there is no such key, where the model's family, the target or the dialect itself knows."""
    of_family = chosen.family.refused.get(key) if chosen.family else None
    of_target = chosen.target.refused.get(key) if chosen.target else None
    return of_family or of_target or sections.REFUSED.get(key)
