"""Who is loaded, in what state, against which API. pluggy calls the hooks; `choice` decides whose."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, Literal

import pluggy

from stdet.isolation import ForeignError, isolated, told
from stdet.plugins import API_VERSION, hookspecs
from stdet.plugins.choice import CHOICE, left_out, owner, rivals
from stdet.plugins.files import file_of, file_points
from stdet.registry import KINDS, Catalogue, Entry

log = logging.getLogger(__name__)

GROUP = "stdet"
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


def load_plugins(
    found: Iterable[EntryPoint] | None = None,
    begun: Callable[[str, str], object] | None = None,
    lost: Mapping[str, str] | None = None,
) -> tuple[Catalogue, list[PluginState]]:
    """Load every plugin on its own: one that is broken is set aside with its reason, and the others go on.

    `STDET_PLUGINS` and the list of disabled plugins narrow what is loaded; core itself always is.

    Args:
        found: entry points to load instead of the installed ones.
        begun: called before each import with the plugin, as in "`acme` of acme-detectors", and how to leave it out.
        lost: plugins, by what `begun` calls them, not to be imported: why, in a clause.

    Raises:
        PluginError: `STDET_PLUGINS` names a plugin that isn't there.
        ArtifactError: the list of disabled plugins can't be read.
        Interrupted: the user pressed Ctrl-C while a plugin was imported.
    """
    states: list[PluginState] = []
    points = sorted(installed(states) if found is None else found, key=lambda p: (p.name, owner(p)[0]))
    out = left_out(points)
    chosen = [point for point in points if point not in out]
    entries: list[Entry] = []
    for point in points:
        distribution, version = owner(point)
        same_name = rivals(point, chosen)
        key = f"`{point.name}` of {distribution}"
        if point in out:
            states.append(PluginState(point.name, distribution, version, "left out", out[point]))
        elif same_name:
            reason = f"{', '.join(same_name)} uses the entry-point name `{point.name}` too"
            states.append(PluginState(point.name, distribution, version, "duplicate", reason))
        elif lost and key in lost:
            states.append(PluginState(point.name, distribution, version, "broken", lost[key]))
        else:
            others = ",".join(p.name for p in chosen if p is not point)
            hint = f"{CHOICE}={others} leaves it out, `stdet plugins disable {point.name}` for good"
            if begun is not None:
                begun(key, hint)
            before = [e for e in entries if e.distribution == distribution]
            state, staged = _load(point, before, hint)
            states.append(state)
            entries += staged
    missing = {s.distribution: s.reason for s in states if s.state != "loaded"}
    return Catalogue(entries, missing, (s.distribution for s in states)), states


def installed(states: list[PluginState]) -> list[EntryPoint]:
    """The entry points of every distribution, and one-file plugins. A distribution whose metadata can't be read is added to
    `states`."""
    return [*_packaged(states), *file_points()]


def _packaged(states: list[PluginState]) -> list[EntryPoint]:
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


def _load(point: EntryPoint, before: Collection[Entry], hint: str) -> tuple[PluginState, list[Entry]]:
    """Import one plugin and stage what it registers; nothing is kept unless all of it went well.

    Args:
        before: what other plugins of the same distribution registered.
        hint: how to leave it out.
    """
    distribution, version = owner(point)
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
    ms = (time.perf_counter() - began) * 1e3
    if file_of(point):  # it holds the component itself, and may import what it needs
        return replace(state, import_ms=round(ms, 1)), staged
    return _timed(state, ms, hint), staged


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
