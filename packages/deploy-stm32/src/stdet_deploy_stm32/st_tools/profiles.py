"""Profiles of the Neural-ART compiler: by name, or of a file of the user's, and with a memory pool of the user's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stdet.artifacts import write_json
from stdet.errors import ConfigError

PLAIN_OPTIONS = "--native-float --cache-maintenance --Ocache-opt --enable-virtual-mem-pools --Os --Oauto-sched"
"""Of a profile that is made for a memory pool alone: what versions 2.2 and 3.0 pass for their default profile."""
OWN = "stdet"
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.S)
_TRAILING = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.S)


def profile_argument(profile: str | None, memory_pool: Path | None, folder: Path) -> str | None:
    """What follows `--st-neural-art`: every path in it is absolute, since the tool reads them from where it runs.

    Args:
        profile: `NAME`, `NAME@FILE`, or None for the tool's own default.
        memory_pool: takes the place of the profile's.
        folder: for a profile file that is made.

    Raises:
        ConfigError: the file has no such profile or can't be read; or a memory pool is given for a profile without a file.
    """
    name, _, file = (profile or "").partition("@")
    if not file:
        if memory_pool is None:
            return name or None
        if name:
            raise ConfigError(
                f"the profile {name} is the tool's own and has a memory pool of its own",
                "give tools.stedgeai.profile as NAME@FILE.json, or leave it or benchmarking.memory_pool out",
            )
        chosen: dict[str, Any] = {"options": PLAIN_OPTIONS}
        name = OWN
    else:
        chosen = dict(_profile(Path(file), name))
        if "memory_pool" in chosen:
            chosen["memory_pool"] = str((Path(file).parent / chosen["memory_pool"]).absolute())
    if memory_pool is not None:
        chosen["memory_pool"] = str(memory_pool.absolute())
    made = folder / "neural_art.json"
    write_json(made, {"Profiles": {name: chosen}})
    return f"{name}@{made.absolute()}"


def _profile(file: Path, name: str) -> dict[str, Any]:
    try:
        profiles = read_commented_json(file)["Profiles"]
        found = profiles[name]
        if not isinstance(found, dict) or not isinstance(found.get("memory_pool", ""), str):
            raise TypeError(f"profile {name} is no table")
        return found
    except OSError as error:
        raise ConfigError(f"the profile file {file} can't be read: {error.strerror or error}") from error
    except KeyError as error:
        known = ", ".join(profiles) if error.args == (name,) else "none"
        raise ConfigError(f"{file} has no profile {name}", f"it has: {known}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no file of Neural-ART profiles: {error}") from error


def read_commented_json(file: Path) -> Any:
    """JSON as ST's scripts take it: with comments, and with commas behind the last entry.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't such a file.
    """
    text = _COMMENT.sub(lambda found: found[1] or "", file.read_text(encoding="utf-8"))
    return json.loads(_TRAILING.sub(lambda found: found[1] or "", text))
