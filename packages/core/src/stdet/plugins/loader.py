"""Who is loaded, in what state, against which API. pluggy calls the hooks; this file decides whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Literal

import pluggy

from stdet.plugins import API_VERSION, hookspecs
from stdet.registry import KINDS, Catalogue, Entry

GROUP = "stdet"

State = Literal["loaded", "broken", "duplicate", "wrong-api"]


@dataclass(frozen=True)
class PluginState:
    """One entry point of the group `stdet`, and what became of it.

    Attributes:
        name: of the entry point.
        distribution, version: that declares it.
        state: `loaded`, or why not in a word.
        reason: why not, in a sentence.
        api_version: the API it declares, None when it got too little far to tell.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""
    api_version: int | None = None


def load_plugins(found: Iterable[EntryPoint] | None = None) -> tuple[Catalogue, list[PluginState]]:
    """Load every plugin on its own: one that is broken is set aside with its reason, and the others go on.

    Args:
        found: entry points to load instead of the installed ones.
    """
    points = sorted(entry_points(group=GROUP) if found is None else found, key=lambda p: (p.name, _owner(p)[0]))
    by_name: dict[str, set[str]] = defaultdict(set)
    for point in points:
        by_name[point.name].add(_owner(point)[0])
    states: list[PluginState] = []
    entries: list[Entry] = []
    for point in points:
        distribution, version = _owner(point)
        rivals = sorted(by_name[point.name] - {distribution})
        if rivals:
            reason = f"{', '.join(rivals)} uses the entry-point name `{point.name}` too"
            states.append(PluginState(point.name, distribution, version, "duplicate", reason))
            continue
        state, staged = _load(point, distribution, version)
        states.append(state)
        entries += staged
    missing = {s.distribution: s.reason for s in states if s.state != "loaded"}
    return Catalogue(entries, missing, (s.distribution for s in states)), states


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _load(point: EntryPoint, distribution: str, version: str) -> tuple[PluginState, list[Entry]]:
    """Import one plugin and stage what it registers; nothing is kept unless all of it went well."""
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # a plugin may fail in any way; it must not take the others with it
        reason = f"{point.value} can't be imported: {type(error).__name__}: {error}"
        return PluginState(point.name, distribution, version, "broken", reason), []
    declared = getattr(module, "STDET_API_VERSION", None)
    if declared != API_VERSION:
        reason = f"made for plugin API {declared}, this stdet-core has API {API_VERSION}"
        return PluginState(point.name, distribution, version, "wrong-api", reason, declared), []
    try:
        staged = _registrations(module, distribution, version)
    except (Exception, SystemExit) as error:  # half of a registration is worth nothing: all of it is dropped
        reason = str(error) if isinstance(error, pluggy.PluginValidationError) else f"{type(error).__name__}: {error}"
        return PluginState(point.name, distribution, version, "broken", reason, declared), []
    return PluginState(point.name, distribution, version, "loaded", api_version=declared), staged


def _registrations(module: ModuleType, distribution: str, version: str) -> list[Entry]:
    manager = pluggy.PluginManager("stdet")
    manager.add_hookspecs(hookspecs)
    manager.register(module, distribution)
    manager.check_pending()  # a misspelt hook would otherwise just never be called
    staged: list[Entry] = []
    for kind in KINDS:
        getattr(manager.hook, f"stdet_register_{kind}")(register=_stager(kind, distribution, version, staged))
    return staged


def _stager(kind: str, distribution: str, version: str, staged: list[Entry]) -> Callable[..., None]:
    """The `register` function that a hook is given."""

    def stage(name: str, target: str, summary: str, **targets: str | None) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"{name!r} is no name: a text without `/`, which stands between distribution and name")
        if not isinstance(summary, str):
            raise ValueError(f"the summary of `{name}` is {summary!r}, not a text")
        for text in (target, *(t for t in targets.values() if t is not None)):
            if not isinstance(text, str) or text.count(":") != 1 or not all(text.split(":")):
                raise ValueError(f'`{name}` is registered with {text!r}; a target is a string "module:attribute"')
        if any(e.kind == kind and e.name == name for e in staged):
            raise ValueError(f"`{name}` is registered twice")
        staged.append(Entry(kind, name, target, summary, distribution, version, **targets))

    def register_model(name: str, target: str, summary: str, *, family: str) -> None:
        stage(name, target, summary, family=family)

    def register_dataset(
        name: str, target: str, summary: str, *, options: str | None = None, writer: str | None = None
    ) -> None:
        stage(name, target, summary, options=options, writer=writer)

    def register(name: str, target: str, summary: str, *, options: str | None = None) -> None:
        stage(name, target, summary, options=options)

    if kind == "models":
        return register_model
    return register_dataset if kind == "datasets" else register
