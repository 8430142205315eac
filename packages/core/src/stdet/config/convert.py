"""Texts that spell numbers, turned into numbers where a field wants one."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from stdet.config.numbers import parse_number


def convert(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """`values` with number expressions parsed, for the fields of `model` that can't hold text; nested ones too."""
    return {
        key: _convert(model.model_fields[key].annotation, value) if key in model.model_fields else value
        for key, value in values.items()
    }


def _convert(annotation: Any, value: Any) -> Any:
    kinds = set(_kinds(annotation))
    nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if isinstance(value, dict) and nested:
        return convert(nested[0], value)
    if _is_names(annotation) and isinstance(value, str):
        return _names(value)
    if kinds & {str, Path, Any} or Literal in kinds:
        return value
    if isinstance(value, list):
        return [_number(item) for item in value]
    return _number(value)


def _number(value: Any) -> Any:
    parsed = parse_number(value) if isinstance(value, str) else None
    return value if parsed is None else parsed


def _is_names(annotation: Any) -> bool:
    """Whether a field is a list of texts."""
    parts = (annotation, *get_args(annotation))
    return any(get_origin(part) is tuple and set(get_args(part)) == {str, ...} for part in parts)


_TUPLE = re.compile(r"""\(\s*(?:'[^']*'|"[^"]*")(?:\s*,\s*(?:'[^']*'|"[^"]*"))*\s*,?\s*\)""")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)["]""")


def _names(text: str) -> Any:
    """The names in `('a', 'b')`, as the reference's examples write a list; other texts as they are."""
    if not _TUPLE.fullmatch(text.strip()):
        return text
    return [one or other for one, other in _QUOTED.findall(text)]


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows: unions, `Annotated` and the items of tuples opened up."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [Literal]
    if origin in (Union, types.UnionType, tuple, list):
        return [kind for part in get_args(annotation) if part is not ... for kind in _kinds(part)]
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    return [annotation]
