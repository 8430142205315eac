"""A config of the reference, or of an older dialect, as one of ours: its text with as few lines changed as needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from stdet.config import schema as sections
from stdet.config.load import load_text
from stdet.config.problems import ConfigProblems, Problem
from stdet.config.rules import Catalogue
from stdet.config.source import compose, read_source

MOVED = {"general.model_path": "model.model_path", "general.model_type": "model.model_type"}
"""Keys of the reference's older dialect that have another place now."""
ROUNDS = 20
"""A checker reports so many keys of a section at a time."""


@dataclass(frozen=True)
class Change:
    """Attributes:
    line: of the old text, from 1.
    key: dotted, as it was.
    what: was done, and why.
    """

    line: int
    key: str
    what: str


@dataclass(frozen=True)
class Converted:
    """Attributes:
    text: YAML of ours, a comment at each change; the rest is as it was.
    changes: by line of the old text.
    remaining: mistakes that only a person can mend.
    """

    text: str
    changes: tuple[Change, ...]
    remaining: tuple[Problem, ...]


def convert_text(text: str, name: str, catalogue: Catalogue) -> Converted:
    """Rename what is called otherwise here, move what stands elsewhere, and comment out what has no place, with the reason.

    Nothing of the text is executed, and no file that it names is opened.

    Args:
        name: of the file, for messages.

    Raises:
        ConfigProblems: malformed YAML.
    """
    document = _Document(text, name)
    document.rename_aliases()
    document.move()
    remaining: tuple[Problem, ...] = ()
    for _ in range(ROUNDS):
        try:
            load_text(document.text, name, (), catalogue)
            remaining = ()
            break
        except ConfigProblems as error:
            remaining = error.problems
            if not document.leave_out([problem for problem in remaining if problem.superfluous]):
                break
    return Converted(document.text, tuple(sorted(document.changes, key=lambda c: c.line)), remaining)


@dataclass(frozen=True)
class _Found:
    """A key of the text, with the mapping that it stands in."""

    key: yaml.Node
    value: yaml.Node
    parent: yaml.MappingNode

    @property
    def line(self) -> int:
        return self.key.start_mark.line

    @property
    def last_line(self) -> int:
        return max(self.line, _last_line(self.value))


def _last_line(node: yaml.Node) -> int:
    """The last line of a value: a block's mark lies behind what follows it, its last leaf's doesn't."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark
    return end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line


class _Document:
    """The text, edited line by line."""

    def __init__(self, text: str, name: str) -> None:
        try:
            read_source(text, name, (), datetime.now())
        except ConfigProblems as error:
            if not all(problem.key for problem in error.problems):
                raise  # no YAML; a reference that leads nowhere has a key, and is left to a person
        self.text = text
        self.changes: list[Change] = []
        self._origin = list(range(len(text.splitlines()) + 1))  # of each line now, its number in the old text

    def rename_aliases(self) -> None:
        """Keys that are called otherwise here."""
        for alias, new in sections.ALIASES.items():
            section = alias.partition(".")[0]
            if (found := self._find(alias)) is None:
                continue
            other = self._find(f"{section}.{new}")
            if other is None:
                self._rename(alias, found, new)
            elif _plain(found.value) in (None, _plain(other.value)):
                self._comment_out(alias, found, f"says what `{new}` says")

    def move(self) -> None:
        """Keys that stand in another section here."""
        for old, new in MOVED.items():
            section, _, key = new.partition(".")
            if (found := self._find(old)) is None or not isinstance(found.value, yaml.ScalarNode):
                continue
            there, value = self._find(new), found.value.value
            self._comment_out(old, found, f"moved to {new}" if there is None else f"{new} says it")
            if there is None and value.strip():
                self._insert(section, f"{key}: {json.dumps(value, ensure_ascii=False)}  # was {old}")

    def leave_out(self, problems: list[Problem]) -> bool:
        """Comment out the keys of `problems`; whether any was there."""
        before = len(self.changes)
        for problem in problems:
            if (found := self._find(problem.key)) is not None:
                self._comment_out(problem.key, found, problem.message)
        return len(self.changes) > before

    # --- the text ----------------------------------------------------------------------------------------------------

    def _find(self, dotted: str) -> _Found | None:
        """The last key of this name, as loading takes it."""
        node, found = compose(self.text), None
        for part in dotted.split("."):
            if not isinstance(node, yaml.MappingNode):
                return None
            pair = next(((k, v) for k, v in reversed(node.value) if k.value == part), None)
            if pair is None:
                return None
            found, node = _Found(*pair, node), pair[1]
        return found

    def _rename(self, dotted: str, found: _Found, new: str) -> None:
        start, end = found.key.start_mark.index, found.key.end_mark.index
        self.text = self.text[:start] + new + self.text[end:]
        self._note(dotted, found, f"was `{found.key.value}`")

    def _comment_out(self, dotted: str, found: _Found, reason: str) -> None:
        if found.parent.flow_style:
            self._cut(found)
            self._note(dotted, found, f"without {found.key.value}: {reason}")
            return
        lines, indent = self.text.splitlines(keepends=True), found.key.start_mark.column
        for number in range(found.line, found.last_line + 1):
            line = lines[number]
            rest = line[indent:] if not line[:indent].strip() else line.lstrip(" ")
            lines[number] = f"{' ' * indent}# {rest}" if rest.strip() else line
        self.text = "".join(lines)
        self._note(dotted, found, reason)

    def _cut(self, found: _Found) -> None:
        """Take a key out of a mapping in braces; the lines of the text keep their numbers."""
        pairs = found.parent.value
        at = next(i for i, (key, _) in enumerate(pairs) if key is found.key)
        start, end = found.key.start_mark.index, found.value.end_mark.index
        if at + 1 < len(pairs):
            end = pairs[at + 1][0].start_mark.index
        elif at:
            start = pairs[at - 1][1].end_mark.index
        self.text = self.text[:start] + "\n" * self.text[start:end].count("\n") + self.text[end:]

    def _note(self, dotted: str, found: _Found, reason: str) -> None:
        """Put the reason above a place that was edited."""
        line = self.text.splitlines()[found.line]
        indent = " " * (len(line) - len(line.lstrip(" ")))
        self.changes.append(Change(self._origin[found.line] + 1, dotted, reason))
        self._insert_line(found.line, f"{indent}# stdet: {' '.join(reason.split())}")

    def _insert(self, section: str, line: str) -> None:
        """A new first line of a section, which is made where there is none."""
        found = self._find(section)
        if found is None or not isinstance(found.value, yaml.MappingNode) or found.value.flow_style:
            self.text = self.text.rstrip("\n") + f"\n{section}:\n  {line}\n"
        else:
            first = found.value.value[0][0].start_mark
            self._insert_line(first.line, " " * first.column + line)

    def _insert_line(self, at: int, line: str) -> None:
        lines = self.text.splitlines(keepends=True)
        lines.insert(at, line + "\n")
        self._origin.insert(at, self._origin[at])
        self.text = "".join(lines)


def _plain(node: yaml.Node) -> Any:
    return (node.value.strip() or None) if isinstance(node, yaml.ScalarNode) else list(_leaves(node))


def _leaves(node: yaml.Node) -> Iterator[str]:
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        for item in part if isinstance(part, tuple) else (part,):
            yield from _leaves(item) if isinstance(item, yaml.CollectionNode) else (str(item.value),)
