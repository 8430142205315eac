"""Which plugins are loaded: `STDET_PLUGINS` for one command, `stdet plugins disable` until they are enabled again.

Nothing here imports a plugin: it works whatever they do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from importlib.metadata import EntryPoint
from pathlib import Path

from stdet.errors import ArtifactError, PluginError
from stdet.known import known
from stdet.plugins.files import file_of

CHOICE = "STDET_PLUGINS"
"""Environment variable: the plugins to load, by entry-point or distribution name, with commas. Not set or empty: all that
aren't disabled."""
CORE = "stdet-core"
FORMAT = "stdet.disabled-plugins/1"


def owner(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution, the file's name for a one-file plugin; metadata of strangers may lack either."""
    try:
        name, version = (point.dist.name, point.dist.version) if point.dist else (None, None)
    except Exception:
        name = version = None
    return str(name or file_of(point) or f"unknown ({point.value})"), str(version or "")


def called(point: EntryPoint) -> set[str]:
    """What a plugin may be called: its entry-point name and its distribution."""
    return {point.name, owner(point)[0]}


def left_out(points: Collection[EntryPoint]) -> dict[EntryPoint, str]:
    """The plugins that aren't to be loaded, each with the reason; core never is one.

    Raises:
        PluginError: `STDET_PLUGINS` names a plugin that isn't there.
        ArtifactError: the list of disabled plugins can't be read.
    """
    wanted = {name.strip() for name in os.environ.get(CHOICE, "").split(",")} - {""}
    if wanted:
        require(wanted, points, f"{CHOICE} names")
        return {p: f"{CHOICE} does not name it" for p in points if not called(p) & (wanted | {CORE})}
    names = disabled()
    return {p: f"disabled; `stdet plugins enable {p.name}`" for p in points if called(p) & names}


def rivals(point: EntryPoint, others: Iterable[EntryPoint]) -> list[str]:
    """Other distributions with the same entry-point name. A stranger is no rival to one of ours."""
    own = owner(point)[0]
    if own in known().distributions:
        return []
    return sorted({owner(other)[0] for other in others if other.name == point.name} - {own})


def require(names: Collection[str], points: Collection[EntryPoint], who: str) -> None:
    """Raises:
    PluginError: one of `names` is no plugin of `points`; lists what there is.
    """
    there = {name for point in points for name in called(point)}
    if unknown := sorted(set(names) - there):
        raise PluginError(
            f"{who} {', '.join(f'`{name}`' for name in unknown)}, which is not installed",
            f"there are: {', '.join(sorted({point.name for point in points}))}",
        )


def list_file() -> Path | None:
    """Where the disabled plugins are listed, one file for all of a user's environments; None without a home."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:
        return None
    return Path(base) / "stdet" / "disabled_plugins.json"


def disabled() -> frozenset[str]:
    """Names of disabled plugins, as they were given.

    Raises:
        ArtifactError: the list is there and can't be read.
    """
    path = list_file()
    if path is None:
        return frozenset()
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        names = listed["disabled"] if listed["format"] == FORMAT else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("not a list of names")
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}, the list of disabled plugins, can't be read: {error}", "delete it") from error
    return frozenset(names)


def set_disabled(name: str, off: bool, points: Collection[EntryPoint]) -> Path:
    """Disable or enable a plugin for every later command; returns the file that says so.

    Args:
        name: of the entry point or the distribution; to be enabled, it needs not be installed any more.

    Raises:
        PluginError: no such plugin, it is core, or it isn't disabled.
        ArtifactError: the list can't be read or written.
    """
    path = list_file()
    if path is None:
        raise ArtifactError("there is no home folder to keep a list of disabled plugins", f"set {CHOICE} or HOME")
    names = disabled()
    same = {name}.union(*(called(point) for point in points if name in called(point)))
    if off:
        require([name], points, "there is no plugin")
        if CORE in same:
            raise PluginError("stdet-core can't be disabled: nothing works without it")
        names |= {name}
    elif names & same:
        names -= same
    else:
        raise PluginError(f"`{name}` is not disabled", f"disabled are: {', '.join(sorted(names)) or 'none'}")
    from stdet.artifacts import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "disabled": sorted(names)})
    return path
