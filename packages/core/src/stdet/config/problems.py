"""What is wrong in a config file, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from stdet.errors import ConfigError, StdetError


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        place: `file:line`, or `command line`.
        key: dotted config key.
        message: what is wrong, with what was found.
        allowed: what would be right, if it can be listed.
        nearest: the name that was probably meant.
        superfluous: whether the key has no place here, and isn't one that is misspelt.
    """

    place: str
    key: str
    message: str
    allowed: str = ""
    nearest: str = ""
    superfluous: bool = False

    @property
    def line(self) -> int:
        """Of the file, from 1; 0 for the command line and for what is nowhere."""
        number = self.place.rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    def __str__(self) -> str:
        text = f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"
        if self.nearest:
            text += f"; did you mean `{self.nearest}`?"
        return f"{text}; allowed: {self.allowed}" if self.allowed else text


class ConfigProblems(ConfigError):
    """All mistakes of a config at once, in the order of its lines."""

    def __init__(self, name: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        count = len(self.problems)
        head = f"{count} mistake{'s' if count != 1 else ''} in {name}"
        super().__init__(
            "\n".join([head, *(f"  {p}" for p in self.problems)]),
            "`stdet config schema` lists every key with its meaning",
        )


def in_one_line(error: StdetError) -> str:
    """A mistake that another part found, in one line."""
    return f"{error.message} ({error.hint})" if error.hint else error.message


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar of `names`, or an empty string when none is similar."""
    close = difflib.get_close_matches(name, list(names), 1, cutoff=0.6)
    return close[0] if close else ""
