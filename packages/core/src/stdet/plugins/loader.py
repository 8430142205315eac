"""Who is loaded, in what state, against which API. pluggy calls the hooks; this file decides whose."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, Literal

import pluggy

from stdet.errors import PluginError
from stdet.isolation import ForeignError, isolated, told
from stdet.known import known
from stdet.plugins import API_VERSION, hookspecs
from stdet.registry import KINDS, Catalogue, Entry

log = logging.getLogger(__name__)

GROUP = "stdet"
CHOICE = "STDET_PLUGINS"
"""Environment variable: the plugins to load, by entry-point or distribution name, with commas. Not set or empty: all."""
CORE = "stdet-core"
SLOW_IMPORT_MS = 1000.0
"""A plugin module registers strings; one that needs longer than this imports what it should not."""

State = Literal["loaded", "broken", "duplicate", "wrong-api", "left out"]


@dataclass(frozen=True)
class PluginState:
    """One entry point of the group `stdet`, and what became of it.

    Attributes:
        name: of the entry point.
        distribution, version: that declares it.
        state: `loaded`, or why not in a word.
        reason: why not, in a sentence; of a loaded one, what is wrong with it nevertheless.
        api_version: the API it declares, None when it got too little far to tell.
        import_ms: how long its import and its hooks took, milliseconds; None when it was not imported.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""
    api_version: int | None = None
    import_ms: float | None = field(default=None, compare=False)


def load_plugins(found: Iterable[EntryPoint] | None = None) -> tuple[Catalogue, list[PluginState]]:
    """Load every plugin on its own: one that is broken is set aside with its reason, and the others go on.

    `STDET_PLUGINS` narrows what is loaded; core itself always is.

    Args:
        found: entry points to load instead of the installed ones.

    Raises:
        PluginError: `STDET_PLUGINS` names a plugin that isn't there.
        Interrupted: the user pressed Ctrl-C while a plugin was imported.
    """
    states: list[PluginState] = []
    points = sorted(_installed(states) if found is None else found, key=lambda p: (p.name, _owner(p)[0]))
    chosen = _chosen(points)
    entries: list[Entry] = []
    for point in points:
        distribution, version = _owner(point)
        rivals = _rivals(point, chosen)
        if point not in chosen:
            states.append(PluginState(point.name, distribution, version, "left out", f"{CHOICE} does not name it"))
        elif rivals:
            reason = f"{', '.join(rivals)} uses the entry-point name `{point.name}` too"
            states.append(PluginState(point.name, distribution, version, "duplicate", reason))
        else:
            others = ",".join(p.name for p in chosen if p is not point)
            before = [e for e in entries if e.distribution == distribution]
            state, staged = _load(point, before, f"{CHOICE}={others} leaves it out")
            states.append(state)
            entries += staged
    missing = {s.distribution: s.reason for s in states if s.state != "loaded"}
    return Catalogue(entries, missing, (s.distribution for s in states)), states


def _installed(states: list[PluginState]) -> list[EntryPoint]:
    """The entry points of every distribution; one whose metadata can't be read is added to `states`."""
    try:
        return list(entry_points(group=GROUP))
    except Exception:  # one unreadable file among all installed ones: find out whose, and leave it out
        pass
    points: dict[str, list[EntryPoint]] = {}
    for distribution in distributions():
        try:
            points.setdefault(distribution.name, list(distribution.entry_points.select(group=GROUP)))
        except Exception as error:
            where = str(getattr(distribution, "_path", distribution))
            states.append(PluginState("?", where, "", "broken", f"its entry points can't be read: {told(error)}"))
    return [point for found in points.values() for point in found]


def _owner(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution; metadata of strangers may lack either."""
    try:
        name, version = (point.dist.name, point.dist.version) if point.dist else (None, None)
    except Exception:
        name = version = None
    return str(name or f"unknown ({point.value})"), str(version or "")


def _chosen(points: Collection[EntryPoint]) -> list[EntryPoint]:
    """The plugins that `STDET_PLUGINS` asks for, core always among them."""
    wanted = {name.strip() for name in os.environ.get(CHOICE, "").split(",")} - {""}
    if not wanted:
        return list(points)
    there = {name for point in points for name in (point.name, _owner(point)[0])}
    if unknown := sorted(wanted - there):
        raise PluginError(
            f"{CHOICE} names {', '.join(f'`{name}`' for name in unknown)}, which is not installed",
            f"there are: {', '.join(sorted({point.name for point in points}))}",
        )
    return [p for p in points if {p.name, _owner(p)[0]} & wanted or _owner(p)[0] == CORE]


def _rivals(point: EntryPoint, chosen: Iterable[EntryPoint]) -> list[str]:
    """Other distributions with the same entry-point name. A stranger is no rival to one of ours."""
    own = _owner(point)[0]
    if own in known().distributions:
        return []
    return sorted({_owner(other)[0] for other in chosen if other.name == point.name} - {own})


def _load(point: EntryPoint, before: Collection[Entry], hint: str) -> tuple[PluginState, list[Entry]]:
    """Import one plugin and stage what it registers; nothing is kept unless all of it went well.

    Args:
        before: what other plugins of the same distribution registered.
        hint: how to leave it out.
    """
    distribution, version = _owner(point)
    began = time.perf_counter()
    state, staged = PluginState(point.name, distribution, version, "broken"), []
    doing, failed = f"importing the plugin `{point.name}` of {distribution}", f"{point.value} can't be imported: "
    try:
        module = isolated(point.load, doing, hint)
        failed = ""
        declared = isolated(lambda: getattr(module, "STDET_API_VERSION", None), doing, hint)
        if type(declared) is not int or declared != API_VERSION:
            shown = isolated(lambda: repr(declared), doing, hint)
            reason = f"made for plugin API {shown}, this stdet-core has API {API_VERSION}"
            number = declared if type(declared) is int else None
            state = replace(state, state="wrong-api", reason=reason, api_version=number)
        else:
            state = replace(state, api_version=declared)
            staged = isolated(lambda: _registrations(module, distribution, version, before), doing, hint)
            state = replace(state, state="loaded")
    except ForeignError as error:
        state = replace(state, reason=failed + str(error).removeprefix("PluginValidationError: "))
    return _timed(state, (time.perf_counter() - began) * 1e3, hint), staged


def _timed(state: PluginState, import_ms: float, hint: str) -> PluginState:
    """The state with how long it took; a slow one is named."""
    state = replace(state, import_ms=round(import_ms, 1))
    if import_ms <= SLOW_IMPORT_MS:
        return state
    slow = f"its import takes {import_ms:.0f} ms; a plugin module only registers strings"
    log.warning("plugin `%s` of %s: %s (%s)", state.name, state.distribution, slow, hint)
    return replace(state, reason="; ".join(filter(None, (state.reason, slow))))


def _registrations(module: Any, distribution: str, version: str, before: Collection[Entry]) -> list[Entry]:
    manager = pluggy.PluginManager("stdet")
    manager.add_hookspecs(hookspecs)
    manager.register(module, distribution)
    manager.check_pending()  # a misspelt hook would otherwise just never be called
    staged: list[Entry] = list(before)
    for kind in KINDS:
        getattr(manager.hook, f"stdet_register_{kind}")(register=_stager(kind, distribution, version, staged))
    return staged[len(before) :]


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
        name: str, target: str, summary: str, *, facts: str | None = None, writer: str | None = None
    ) -> None:
        stage(name, target, summary, facts=facts, writer=writer)

    def register_target(name: str, target: str, summary: str, *, facts: str | None = None) -> None:
        stage(name, target, summary, facts=facts)

    def register(name: str, target: str, summary: str, *, options: str | None = None) -> None:
        stage(name, target, summary, options=options)

    own: dict[str, Callable[..., None]] = {
        "models": register_model,
        "datasets": register_dataset,
        "targets": register_target,
    }
    return own.get(kind, register)
