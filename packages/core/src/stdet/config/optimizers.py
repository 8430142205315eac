"""`training.optimizer`: the optimizers of torch by their class names, each with the keyword arguments of its signature.

SGD, Adam and AdamW are written down here, so that checking a config that names them needs no torch; the others' keys are
read from their signatures. Names are looked up in `MODULES` alone: nothing is imported because a config says so.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from stdet.config.problems import in_one_line, nearest
from stdet.config.source import Source
from stdet.errors import ConfigError
from stdet.interfaces.family import ModelFamily

if TYPE_CHECKING:
    import torch

MODULES = ("torch.optim",)
"""Where optimizer classes are looked up."""

UNFIT = {
    "LBFGS": "it wants the loss computed again within a step",
    "SparseAdam": "it takes sparse gradients, and these models have dense ones",
    "Muon": "it takes matrices alone, and these models have convolutions and biases",
}
"""Optimizers that can't train these models, with the reason."""

NOT_OURS = {
    "maximize": "the loss is made small, not large",
    "differentiable": "nothing differentiates through the optimizer",
    "capturable": "steps aren't captured as CUDA graphs",
}
"""Keyword arguments that can't do their work in this training loop, with the reason."""

SECTION_LEVEL = ("learning_rate", "momentum", "weight_decay")
"""Keys of the optimizer that may also stand in the `training` section itself."""

Share = Annotated[float, Field(ge=0, le=1)]


class OptimizerOptions(BaseModel):
    """The keys of one optimizer."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    learning_rate: float | None = Field(None, gt=0, description="base learning rate; `lr` of the class")


class _Foreseen(OptimizerOptions):
    weight_decay: float | None = Field(None, ge=0, description="weight decay")
    foreach: bool | None = Field(None, description="update many tensors in one call; default: on CUDA")
    fused: bool | None = Field(None, description="update them in one kernel")

    @model_validator(mode="after")
    def _one_implementation(self) -> Self:
        if self.foreach and self.fused:
            raise ValueError("foreach and fused are two implementations; choose one")
        return self


class SgdOptions(_Foreseen):
    momentum: float | None = Field(None, ge=0, lt=1, description="momentum")
    dampening: float | None = Field(None, ge=0, description="share of a gradient that the momentum leaves out")
    nesterov: bool | None = Field(None, description="Nesterov momentum")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: False to go without")
        if self.nesterov and self.dampening:
            raise ValueError("nesterov needs a dampening of 0; set nesterov: False to go without")
        return self


class AdamWOptions(_Foreseen):
    betas: tuple[Share, Share] | None = Field(None, description="decay of the two moments")
    eps: float | None = Field(None, gt=0, description="added to the denominator")
    amsgrad: bool | None = Field(None, description="the AMSGrad variant")


class AdamOptions(AdamWOptions):
    decoupled_weight_decay: bool | None = Field(None, description="decay the weights as AdamW does")


class Optimizer(BaseModel):
    """Exactly one optimizer with its options; other classes of torch.optim by their names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    SGD: SgdOptions | None = None
    Adam: AdamOptions | None = None
    AdamW: AdamWOptions | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = self._given()
        if len(given) != 1:
            raise ValueError(f"name exactly one optimizer, not {' and '.join(given) or 'none'}")
        return self

    def _given(self) -> dict[str, OptimizerOptions]:
        named = {name: getattr(self, name) for name in type(self).model_fields} | (self.model_extra or {})
        return {name: block for name, block in named.items() if block is not None}

    @property
    def name(self) -> str:
        """Of the class."""
        return next(iter(self._given()))

    @property
    def learning_rate(self) -> float:
        """Filled in when the config is silent."""
        value = self._given()[self.name].learning_rate
        assert value is not None
        return value

    @property
    def weight_decay(self) -> float:
        """0 also for a class that has none."""
        return getattr(self._given()[self.name], "weight_decay", None) or 0.0

    def extras(self) -> dict[str, Any]:
        """The class's own keyword arguments, those that are given."""
        return self._given()[self.name].model_dump(exclude_none=True, exclude={"learning_rate", "weight_decay"})


def torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimizer of `MODULES` by name. Imports torch."""
    import torch

    found = {name: value for module in MODULES for name, value in vars(_module(module)).items()}
    return {
        name: value
        for name, value in sorted(found.items())
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }


def _module(name: str) -> types.ModuleType:
    import importlib

    return importlib.import_module(name)


def options_of(name: str) -> type[OptimizerOptions]:
    """The keys of an optimizer. Imports torch unless it is SGD, Adam or AdamW.

    Raises:
        ConfigError: torch has no optimizer of this name, or none that can train these models.
    """
    foreseen: dict[str, type[OptimizerOptions]] = {"SGD": SgdOptions, "Adam": AdamOptions, "AdamW": AdamWOptions}
    return foreseen[name] if name in foreseen else _read_from_torch(name)


@functools.cache
def _read_from_torch(name: str) -> type[OptimizerOptions]:
    optimizers = torch_optimizers()
    fit = [known for known in optimizers if known not in UNFIT]
    if name in UNFIT:
        raise ConfigError(f"{name} can't train these models: {UNFIT[name]}", f"one of {', '.join(fit)}")
    if name not in optimizers:
        near = nearest(name, fit)
        raise ConfigError(
            f"unknown optimizer {name!r}", f"did you mean `{near}`?" if near else f"one of {', '.join(fit)}"
        )
    made: Any = optimizers[name]
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(made).parameters.items():
        if key == "lr":
            fields["learning_rate"] = (float, Field(parameter.default, gt=0))
        elif key != "params" and key not in NOT_OURS:
            fields[key] = (_without_tensors(parameter.annotation) | None, None)

    def accepted(options: OptimizerOptions) -> OptimizerOptions:
        import torch

        given = options.model_dump(exclude_none=True)
        try:
            made([torch.nn.Parameter(torch.zeros(1))], lr=given.pop("learning_rate"), **given)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(str(error)) from error
        return options

    return create_model(
        f"{name}Options",
        __base__=OptimizerOptions,
        __validators__={"accepted": model_validator(mode="after")(accepted)},  # type: ignore[dict-item]
        **fields,
    )


def _without_tensors(annotation: Any) -> Any:
    """The type of a keyword argument, less the tensors that it could also be."""
    import torch

    parts: Any = tuple(_without_tensors(part) for part in get_args(annotation) if part is not torch.Tensor)
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[parts]  # noqa: UP007 (of parts that are found while running)
    return tuple[parts] if get_origin(annotation) is tuple else annotation


@dataclass(frozen=True)
class OptimizerReader:
    """Brings what the `training` section says of the optimizer into one block, and reports what is wrong there.

    Attributes:
        source: of the config, for the places of keys.
        family: its optimizer defaults count where the config is silent.
        problem: called with key and message for each mistake.
        note: called with each key that is there but does nothing.
        validate: called with a model, values and the dotted key they stand at; reports mistakes, returns the rest.
    """

    source: Source
    family: ModelFamily | None
    problem: Callable[[str, str], None]
    note: Callable[[str], None]
    validate: Callable[[type[BaseModel], dict[str, Any], str], BaseModel | None]

    def read(self, raw: dict[str, Any]) -> None:
        """Replace `raw["optimizer"]`, and take the section-level keys of the optimizer out of `raw`."""
        optimizer = raw.get("optimizer")
        if isinstance(optimizer, str):
            optimizer = {optimizer: {}}
        if optimizer is None and (self.family is not None or set(SECTION_LEVEL) & raw.keys()):
            optimizer = {"SGD": {}}
        if isinstance(optimizer, dict):
            blocks = {str(name): self._block(str(name), block, raw) for name, block in optimizer.items()}
            optimizer = {name: block for name, block in blocks.items() if block is not None} or None
        raw["optimizer"] = optimizer
        for key in SECTION_LEVEL:
            raw.pop(key, None)

    def _block(self, name: str, block: object, raw: dict[str, Any]) -> object:
        """The options of one optimizer; None after a mistake that leaves nothing to check."""
        key = f"training.optimizer.{name}"
        try:
            model = options_of(name)
        except ConfigError as error:
            self.problem(key, in_one_line(error))
            return None
        if block is not None and not isinstance(block, dict):
            self.problem(key, f"the options of an optimizer are a mapping of keys; found {block!r}")
            return None
        given = self._merged(name, model, dict(block or {}), raw)
        for refused in [k for k in given if k in NOT_OURS]:
            self.problem(f"{key}.{refused}", f"has no meaning here: {NOT_OURS[refused]}")
            given.pop(refused)
        return self.validate(model, given, key) or model.model_construct(learning_rate=given["learning_rate"])

    def _merged(
        self, name: str, model: type[OptimizerOptions], block: dict[str, Any], raw: dict[str, Any]
    ) -> dict[str, Any]:
        for key in ("warmup_lr", "min_lr_ratio"):  # the guide writes these keys of the schedule into the optimizer
            if key in block:
                raw[key] = block.pop(key)
                self.source.places[f"training.{key}"] = self.source.place(f"training.optimizer.{name}.{key}")
        for key in SECTION_LEVEL:
            if raw.get(key) is None:
                continue
            if key not in model.model_fields:
                self.problem(f"training.{key}", f"{name} has no {key}")
            elif block.get(key) is None:
                block[key] = raw[key]
            elif block[key] != raw[key]:
                self.note(f"training.{key}: the {name} block's {block[key]} counts, not {raw[key]}")
        defaults = {"learning_rate": model.model_fields["learning_rate"].default or 0.01}
        defaults |= self.family.optimizer_defaults.get(name, {}) if self.family else {}
        return defaults | {key: value for key, value in block.items() if value is not None}
