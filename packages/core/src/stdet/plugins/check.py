"""`stdet plugins check`: everything that a plugin's strings name, resolved with its type, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from typing import Literal

from stdet.errors import Interrupted, StdetError
from stdet.known import known
from stdet.plugins.choice import CHOICE, owner
from stdet.plugins.loader import SLOW_IMPORT_MS, PluginState, installed, load_plugins
from stdet.plugins.survey import Survey
from stdet.plugins.watched import LIMIT_S, Teller, bound_memory, watched
from stdet.registry import KINDS, Entry, resolve

HEAVY = ("torch", "torchvision", "onnxruntime", "matplotlib")
"""What neither a plugin module nor its facts and options may import: every quick command imports them."""
MODULE = "the plugin module"
_ROLES = (("family", "family"), ("facts", ""), ("options", ""), ("writer", "writer"), ("target", "target"))
"""Fields of an entry and the roles of what they name, light ones first; an empty role depends on the kind."""
_BY_KIND = {
    "datasets": "reader facts",
    "targets": "target facts",
    "transforms": "recipe options",
    "schedulers": "options",
}


@dataclass(frozen=True)
class Finding:
    """Something about a plugin that was looked at.

    Attributes:
        plugin, distribution: whose.
        what: the string, the name or the requirement.
        verdict: `fault` keeps something from working.
        finding: what it is, or what is wrong with it.
        ms: how long its import took, milliseconds (of a string: of the processor); None where nothing was imported.
    """

    plugin: str
    distribution: str
    what: str
    verdict: Literal["ok", "warning", "fault"]
    finding: str
    ms: float | None = None


def check(found: Survey, name: str | None = None, limit_s: float = LIMIT_S) -> list[Finding]:
    """Look at every plugin, or at those called `name`.

    Args:
        found: all plugins.
        limit_s: how long one import may take, seconds.

    Raises:
        StdetError: no plugin is called `name`.
        Interrupted: the user pressed Ctrl-C.
    """
    findings: list[Finding] = []
    for state in chosen(found, name):
        findings += [*_loading(state), *_requirements(state), *_collisions(state, found.entries)]
        if state.state == "loaded":
            findings += _resolved(state, limit_s)
    return findings


def chosen(found: Survey, name: str | None) -> list[PluginState]:
    """The plugins called `name`, by entry point or distribution; all without one.

    Raises:
        StdetError: there are none.
    """
    states = [s for s in found.states if name is None or name in (s.name, s.distribution)]
    if not states:
        there = ", ".join(sorted({s.name for s in found.states}))
        raise StdetError(f"no plugin is called `{name}`", f"there are: {there}")
    return states


def _loading(state: PluginState) -> Iterator[Finding]:
    fault = state.state not in ("loaded", "left out")
    verdict: Literal["ok", "warning", "fault"] = "fault" if fault else "warning" if state.reason else "ok"
    about = f"{state.state}: {state.reason}" if state.reason else state.state
    yield Finding(state.name, state.distribution, MODULE, verdict, about, state.import_ms)


def _requirements(state: PluginState) -> Iterator[Finding]:
    """What its metadata ask for and isn't there."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        declared = distribution(state.distribution).requires or ()
    except PackageNotFoundError:
        return
    for text in declared:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            yield Finding(state.name, state.distribution, text, "fault", "is no requirement that pip understands")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = distribution(wanted.name).version
        except PackageNotFoundError:
            yield Finding(state.name, state.distribution, text, "fault", f"not installed: pip install '{wanted}'")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield Finding(state.name, state.distribution, text, "fault", f"{version} is installed")


def _collisions(state: PluginState, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Names that another distribution registers, too, or that are a name of a package of ours."""
    claims: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in entries:
        claims[entry.kind, entry.name].add(entry.distribution)
    for kind in KINDS:
        for name in known().names(kind):
            claims[kind, name].add(known().provider(kind, name) or "")
    for (kind, name), claimed in sorted(claims.items()):
        others = sorted(claimed - {state.distribution})
        if state.distribution in claimed and others:
            noun = kind.removesuffix("s")
            text = f"{', '.join(others)} has a {noun} of this name, so a config must say {state.distribution}/{name}"
            ours = state.distribution in known().distributions
            yield Finding(state.name, state.distribution, f"{noun} `{name}`", "warning" if ours else "fault", text)


def _resolved(state: PluginState, limit_s: float) -> Iterator[Finding]:
    """Look at every string; one that ends the process is passed over the next time."""
    seen: list[str] = []
    while True:
        answer = watched("stdet.plugins.check", [state.name, state.distribution, json.dumps(seen)], limit_s)
        if answer.stopped:
            raise Interrupted(f"stopped while looking at the plugin `{state.name}` of {state.distribution}")
        begun = ""
        for line in answer.lines:
            begun = line.get("begin", "")
            if "what" in line:
                yield Finding(state.name, state.distribution, **line)
                seen.append(line["what"])
        if not begun:
            return
        end = answer.end or "it ended the process before it was done"
        yield Finding(state.name, state.distribution, begun, "fault", end)
        if begun == MODULE:
            return
        seen.append(begun)


# --- the child ------------------------------------------------------------------------------------------------------


def _main(path: str, name: str, dist: str, seen: str) -> None:
    bound_memory()
    teller, passed = Teller(path), set(json.loads(seen))
    point = next(p for p in installed([]) if p.name == name and owner(p)[0] == dist)
    teller.tell(begin=MODULE)
    entries = _load_alone(point)
    import stdet.interfaces.registered  # noqa: F401  what every facts module imports isn't the plugin's time

    early = _heavy()
    if early:
        teller.tell(what=MODULE, verdict="warning", finding=f"imports {early}, which every command waits for")
    for field, role in _ROLES:
        for entry in entries:
            if text := getattr(entry, field):
                shown = role or _BY_KIND[entry.kind]
                what = f"{entry.kind.removesuffix('s')} `{entry.name}`: {shown} `{text}`"
                if what not in passed:
                    _look(teller, what, entry, shown, text, early)
    teller.tell(done=True)


def _load_alone(point: EntryPoint) -> list[Entry]:
    """What one plugin registers, also when it is left out elsewhere."""
    os.environ.pop(CHOICE, None)
    catalogue, _ = load_plugins([point])
    return [entry for kind in KINDS for entry in catalogue.entries(kind)]


def _heavy() -> str:
    return ", ".join(module for module in HEAVY if module in sys.modules)


def _look(teller: Teller, what: str, entry: Entry, role: str, text: str, early: str) -> None:
    teller.tell(begin=what)
    began = time.process_time()
    try:
        found = resolve(entry, role, text)
    except StdetError as error:
        teller.tell(what=what, verdict="fault", finding=" ".join(error.message.split()))
        return
    ms = round((time.process_time() - began) * 1e3, 1)
    kind = f"a {type(found).__name__}" if not isinstance(found, type) else f"the class {found.__qualname__}"
    late = "" if role in ("target", "writer") or early else _heavy()
    if late:
        teller.tell(what=what, verdict="fault", finding=f"{kind}, whose import brings {late}", ms=ms)
    elif role not in ("target", "writer") and ms > SLOW_IMPORT_MS:
        teller.tell(what=what, verdict="warning", finding=f"{kind}; every command that uses it waits", ms=ms)
    else:
        teller.tell(what=what, verdict="ok", finding=kind, ms=ms)


if __name__ == "__main__":
    _main(*sys.argv[1:])
