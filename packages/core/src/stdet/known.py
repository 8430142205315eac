"""What our own packages bring, read from `plugins/known.json`: data that core knows of its plugins without importing any.

It tells a name that is misspelt from one whose package isn't installed, and ours from a stranger's of the same name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Defaults:
    """Components used where a config names none.

    Attributes:
        dataset: reader of data sets.
        dataset_with_split_lists: reader of data sets whose splits are lists of image names.
        board: deploy target.
    """

    dataset: str
    dataset_with_split_lists: str
    board: str


@dataclass(frozen=True)
class Known:
    """Attributes:
    distributions: our own that have a plugin.
    provides: kind of component, or `model_types`, to distribution to all its names.
    defaults: used where a config names none.
    templates: kind of a new plugin to the distribution that has its template, where it isn't core.
    """

    distributions: tuple[str, ...]
    provides: Mapping[str, Mapping[str, tuple[str, ...]]]
    defaults: Defaults
    templates: Mapping[str, str]

    def provider(self, kind: str, name: str) -> str | None:
        """Our distribution that brings `name`, or None."""
        return next((owner for owner, names in self.provides[kind].items() if name in names), None)

    def names(self, kind: str) -> list[str]:
        """Every name of ours of a kind."""
        return [name for names in self.provides[kind].values() for name in names]


@functools.cache
def known() -> Known:
    """The content of `plugins/known.json`."""
    data = json.loads(files("stdet").joinpath("plugins", "known.json").read_text(encoding="utf-8"))
    provides = {
        kind: {owner: tuple(names) for owner, names in owners.items()} for kind, owners in data["provides"].items()
    }
    return Known(tuple(data["distributions"]), provides, Defaults(**data["defaults"]), data["templates"])
