"""YAML text and overrides to a plain tree of values, with the place that each key came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import yaml

from stdet.config.interpolation import InterpolationError, resolve
from stdet.config.problems import ConfigProblems, Problem

MAX_NODES = 20_000
"""Values in a config, aliases counted each time: a few lines of YAML can spell billions."""

COMMAND_LINE = "command line"
"""The place of a key that an override set."""

_NOW = re.compile(r"\$\{now:([^}]*)\}")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, reading `5e-4` as a number, as YAML 1.2 does."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def compose(text: str) -> yaml.Node | None:
    """The nodes of a config with their places in `text`, none of them built.

    Raises:
        yaml.YAMLError: malformed.
    """
    return yaml.compose(text, Loader=_Loader)


@dataclass
class Source:
    """A config before validation.

    Attributes:
        name: of the file, for messages.
        tree: sections to keys to values; interpolations resolved, blank and `None` texts are None.
        places: dotted key to `file:line` or `command line`.
        problems: keys given twice, and overrides that aren't `key=value`.
    """

    name: str
    tree: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: str) -> str:
        """Where `key`, or the nearest section above it, stands."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return self.name


def read_source(text: str, name: str, overrides: Sequence[str], now: datetime) -> Source:
    """Raises:
    ConfigProblems: malformed YAML, or an interpolation that leads nowhere.
    """
    places: dict[str, str] = {}
    problems: list[Problem] = []
    try:
        root = compose(text)
        tree = _Builder(name, places, problems).mapping(root, "") if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigProblems(name, [Problem(place, "", f"malformed YAML: {error.problem or error.context}")]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigProblems(name, [Problem(name, "", f"malformed YAML: {error}")]) from error
    for override in overrides:
        _apply(override, tree, places, problems)
    return Source(name, _resolve(fill_now(tree, now), name, places), places, problems)


class _Builder:
    """Constructs plain values from YAML nodes, noting lines, refusing keys given twice."""

    def __init__(self, name: str, places: dict[str, str], problems: list[Problem]) -> None:
        self._name = name
        self._places = places
        self._problems = problems
        self._nodes = 0
        self._scalars = _Loader("")

    def mapping(self, node: yaml.Node, path: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(None, None, "a config is a mapping of sections", node.start_mark)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            dotted = f"{path}.{key}" if path else key
            place = f"{self._name}:{key_node.start_mark.line + 1}"
            if key in result:
                self._problems.append(Problem(place, dotted, f"given twice, first at {self._places[dotted]}"))
            self._places[dotted] = place
            result[key] = self.value(value_node, dotted)
        return result

    def value(self, node: yaml.Node, path: str) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_NODES} values", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise yaml.MarkedYAMLError(None, None, f"the tag {node.tag} has no meaning here", node.start_mark)
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # no key is a date; 2024-13-01 is a name like any other
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, KeyError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            shown = f"{node.value[:40]} …" if len(node.value) > 40 else node.value
            raise yaml.MarkedYAMLError(None, None, f"{shown!r} is no {kind}", node.start_mark) from error
        if isinstance(value, str) and not _is_writable(value):
            raise yaml.MarkedYAMLError(None, None, f"{value!a} holds a character that no file can", node.start_mark)
        return value


def _is_writable(text: str) -> bool:
    """Whether a text can be a file's name or content: no half of a surrogate pair, no zero byte."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _apply(override: str, tree: dict[str, Any], places: dict[str, str], problems: list[Problem]) -> None:
    """One override of the command line: `a.b=value` or `+a.b=value` sets a key, `~a.b` takes it away."""
    if override.startswith("~"):
        _take_away(override[1:], tree, places, problems)
        return
    key, equals, text = override.removeprefix("++").removeprefix("+").partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        problems.append(Problem(COMMAND_LINE, override, "an override is written key=value, such as training.epochs=3"))
        return
    try:
        value = _override_value(text, key.strip(), problems)
    except yaml.MarkedYAMLError as error:
        problems.append(Problem(COMMAND_LINE, key.strip(), str(error.problem)))
        return
    section = tree
    for part in parts[:-1]:
        if not isinstance(section.get(part), dict):
            section[part] = {}
        section = section[part]
    section[parts[-1]] = value
    places[".".join(parts)] = COMMAND_LINE


def _override_value(text: str, key: str, problems: list[Problem]) -> Any:
    """What a text on the command line means: YAML, or where it is none the text itself.

    Raises:
        yaml.MarkedYAMLError: it is no value of the type that it claims.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        node = yaml.ScalarNode("tag:yaml.org,2002:str", text)
    return None if node is None else _Builder(COMMAND_LINE, {}, problems).value(node, key)


def _take_away(key: str, tree: dict[str, Any], places: dict[str, str], problems: list[Problem]) -> None:
    """Delete a key or a section; `~key=value` deletes it whatever its value is."""
    *path, last = key.partition("=")[0].strip().split(".")
    section: Any = tree
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        problems.append(Problem(COMMAND_LINE, f"~{key}", "there is no such key to take away"))
        return
    del section[last]
    gone = ".".join((*path, last))
    for dotted in [d for d in places if d == gone or d.startswith(f"{gone}.")]:
        del places[dotted]


def fill_now(value: Any, now: datetime) -> Any:
    """`${now:%Y}` everywhere, with one time for the whole config."""
    if isinstance(value, dict):
        return {key: fill_now(item, now) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_now(item, now) for item in value]
    return _NOW.sub(lambda match: now.strftime(match.group(1)), value) if isinstance(value, str) else value


def _resolve(tree: dict[str, Any], name: str, places: dict[str, str]) -> dict[str, Any]:
    try:
        resolved = resolve(tree)
    except InterpolationError as error:
        place = Source(name, {}, places).place(error.key)
        raise ConfigProblems(name, [Problem(place, error.key, f"interpolation failed: {error}")]) from error
    return {str(key): _blank_to_none(value) for key, value in resolved.items()}


def _blank_to_none(value: Any) -> Any:
    """Texts that mean "not given": blank ones, and `None` in any letter case."""
    if isinstance(value, dict):
        return {str(key): _blank_to_none(item) for key, item in value.items()}
    if isinstance(value, str) and (not value.strip() or value.strip().lower() == "none"):
        return None
    return value
