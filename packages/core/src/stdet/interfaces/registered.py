"""What the object behind a registered string must be, so that a plugin's slip is told as the plugin's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from stdet.interfaces.dataset import DatasetWriter, ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.heads import HeadForm
from stdet.interfaces.target import NEUTRAL, TargetFacts
from stdet.interfaces.transform import RecipeOptions


def fault_of(role: str, found: Any) -> str:
    """What `found` is and what is wanted, as a clause that begins with `which` or `whose`; empty when it will do.

    Args:
        role: what the string was registered as, a key of `_CHECKS`.
    """
    return _CHECKS[role](found)


def _target(found: Any) -> str:
    return _abstract(found) if callable(found) else f"which is {_shown(found)}; wanted is something that can be called"


def _options(found: Any) -> str:
    return _subclass(found, Options) or _incomplete(found)


def _recipe_options(found: Any) -> str:
    return _subclass(found, RecipeOptions) or _incomplete(found)


def _reader_facts(found: Any) -> str:
    if not isinstance(found, ReaderFacts):
        return f"which is {_shown(found)}; wanted is a {_name(ReaderFacts)}"
    fault = _options(found.options)
    return f"whose options {fault.removeprefix('which ')}" if fault else ""


def _target_facts(found: Any) -> str:
    if not isinstance(found, TargetFacts):
        return f"which is {_shown(found)}; wanted is a {_name(TargetFacts)}"
    for name, section in found.sections.items():
        if name not in NEUTRAL:
            return f"which has a section `{name}`; wanted are some of {', '.join(NEUTRAL)}"
        if fault := _subclass(section, NEUTRAL[name]) or _incomplete(section):
            return f"whose section `{name}` {fault.removeprefix('which ')}"
    return ""


def _writer(found: Any) -> str:
    return _subclass(found, DatasetWriter) or _abstract(found)


def _family(found: Any) -> str:
    if not isinstance(found, ModelFamily):
        return f"which is {_shown(found)}; wanted is a {_name(ModelFamily)}"
    if not isinstance(found.model_type, str) or not found.model_type or "/" in found.model_type:
        return f"whose model_type is {found.model_type!r}; wanted is a text without `/`"
    for role in ("model_options", "training_options"):
        if fault := _options(getattr(found, role)):
            return f"whose {role} {fault.removeprefix('which ')}"
    for head in found.heads if isinstance(found.heads, tuple) else (found.heads,):
        if not isinstance(head, HeadForm):
            return f"whose heads hold something of type {type(head).__name__}; wanted is a tuple of {_name(HeadForm)}"
    return ""


_CHECKS: dict[str, Callable[[Any], str]] = {
    "target": _target,
    "options": _options,
    "recipe options": _recipe_options,
    "reader facts": _reader_facts,
    "target facts": _target_facts,
    "family": _family,
    "writer": _writer,
}


def _subclass(found: Any, base: type) -> str:
    if isinstance(found, type) and issubclass(found, base):
        return ""
    return f"which is {_shown(found)}; wanted is a subclass of {_name(base)}"


def _abstract(found: Any) -> str:
    if not inspect.isabstract(found):
        return ""
    return f"which is {_shown(found)} without {', '.join(sorted(found.__abstractmethods__))}; wanted is a whole one"


def _incomplete(options: type[BaseModel]) -> str:
    """Fields whose types can't be found out; pydantic says so only when the class is used."""
    if options.__pydantic_complete__ or options.model_rebuild(raise_errors=False):
        return ""
    return f"which is {_shown(options)}, whose fields have types that can't be resolved"


def _shown(found: Any) -> str:
    return f"the class {found.__qualname__}" if isinstance(found, type) else f"of type {type(found).__name__}"


def _name(wanted: type) -> str:
    return f"{wanted.__module__}.{wanted.__qualname__}"
