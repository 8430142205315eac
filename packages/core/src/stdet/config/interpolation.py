"""`${section.key}` in a config: replaced by the value of that key. Nothing else is looked up, and the work is bounded.

A reference is absolute (`${dataset.seed}`, `${dataset.class_names[0]}`) or relative (`${.seed}` beside the key itself, one
more dot for each section above). A value that is one reference takes the other's type; inside a longer text it becomes text.
"""

from __future__ import annotations

import re
from typing import Any

MAX_TEXT = 100_000
"""Characters that all references of a config may become: each can double what another made of it."""
MAX_DEPTH = 50

_REFERENCE = re.compile(r"(?<!\\)\$\{([^{}]*)\}")
_KEY = re.compile(r"\.*[\w-]+(?:\.[\w-]+|\[\d+\])*")
_STEP = re.compile(r"[\w-]+")

Path = tuple[str | int, ...]


class InterpolationError(ValueError):
    """A reference that leads nowhere.

    Attributes:
        key: dotted key of the value that holds it.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with every reference replaced.

    Raises:
        InterpolationError: a reference to a key that isn't there, in a circle, to a function, or that grows without end.
    """
    return dict(_Resolver(tree).value(tree, ()))


class _Resolver:
    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree
        self._known: dict[Path, Any] = {}
        self._open: list[Path] = []
        self._text = 0

    def value(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: self.at(value[key], (*path, key)) for key in value}
        if isinstance(value, list):
            return [self.at(item, (*path, index)) for index, item in enumerate(value)]
        return self._filled(value, path) if isinstance(value, str) else value

    def at(self, value: Any, path: Path) -> Any:
        """The resolved `value` of `path`, made once."""
        if path not in self._known:
            if path in self._open or len(self._open) > MAX_DEPTH:
                self._fail(path, f"it comes back to itself through {_dotted(self._open[-1])}")
            self._open.append(path)
            self._known[path] = self.value(value, path)
            self._open.pop()
        return self._known[path]

    def _filled(self, text: str, path: Path) -> Any:
        if "${" not in text:
            return text
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return self._count(self._target(whole[1], path), path)
        filled = _REFERENCE.sub(lambda match: self._as_text(match[1], path), text)
        return self._count(filled.replace(r"\${", "${"), path)

    def _as_text(self, reference: str, path: Path) -> str:
        found = self._target(reference, path)
        if isinstance(found, dict | list):
            self._fail(path, f"${{{reference}}} is a section or a list, which is no part of a text")
        return str(found)

    def _target(self, reference: str, path: Path) -> Any:
        if ":" in reference:
            self._fail(path, f"${{{reference}}} asks for a function; there are `${{now:...}}` and `${{section.key}}`")
        if not _KEY.fullmatch(reference):
            self._fail(path, f"${{{reference}}} is no key")
        up = len(reference) - len(reference.lstrip("."))
        base: Path = path[: max(0, len(path) - up)] if up else ()
        steps = [*base, *_STEP.findall(reference)]
        node: Any = self._tree
        reached: list[str | int] = []
        for step in steps:
            is_list = isinstance(node, list)
            if is_list and str(step).isdigit() and int(step) < len(node):
                step = int(step)
            elif not isinstance(node, dict) or step not in node:
                self._fail(path, f"${{{reference}}}: there is no `{_dotted((*reached, step))}`")
            node = node[step]
            reached.append(step)
        return self.at(node, tuple(reached))

    def _count(self, value: Any, path: Path) -> Any:
        """`value`, once its characters are added to what references have become so far."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict | list):
                waiting += item.values() if isinstance(item, dict) else item
                self._text += 1
            else:
                self._text += len(item) if isinstance(item, str) else 1
            if self._text > MAX_TEXT:
                self._fail(path, f"the references of this config become more than {MAX_TEXT} characters")
        return value

    def _fail(self, path: Path, message: str) -> None:
        raise InterpolationError(_dotted(path), message)


def _dotted(path: Path | list[str | int]) -> str:
    return ".".join(map(str, path))
