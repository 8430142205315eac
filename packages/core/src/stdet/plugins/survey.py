"""What is installed and in what state, found out in a child, so that no plugin can keep `stdet plugins` from answering."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from stdet.errors import Interrupted, StdetError
from stdet.plugins.choice import CHOICE
from stdet.plugins.loader import PluginState, load_plugins
from stdet.plugins.watched import Teller, watched
from stdet.registry import KINDS, Entry

IMPORT_LIMIT_S = 20.0
"""How long the import of one plugin may take, seconds."""


@dataclass(frozen=True)
class Survey:
    """Attributes:
    states: of every plugin, by name.
    entries: what those that are loaded register.
    """

    states: tuple[PluginState, ...]
    entries: tuple[Entry, ...]


def survey(limit_s: float = IMPORT_LIMIT_S) -> Survey:
    """Every plugin found. One that hangs or ends the process is left out, and the others are asked again.

    Raises:
        StdetError: the child can't be asked at all, or `STDET_PLUGINS` names what isn't there.
        Interrupted: the user pressed Ctrl-C.
    """
    lost: dict[str, str] = {}
    while True:
        answer = watched("stdet.plugins.survey", [json.dumps(lost)], limit_s)
        last = answer.lines[-1] if answer.lines else {}
        if answer.stopped:
            raise Interrupted(f"stopped while importing the plugin {last.get('begin', '')}", last.get("hint", ""))
        if "error" in last:
            raise StdetError(last["error"], last["hint"])
        if "states" in last:
            states = tuple(PluginState(**state) for state in last["states"])
            return Survey(states, tuple(Entry(**entry) for entry in last["entries"]))
        if "begin" not in last or last["begin"] in lost:
            raise StdetError(f"the plugins can't be listed: {answer.end}", f"{CHOICE}=core lists core alone")
        lost[last["begin"]] = answer.end


def _main(path: str, lost: str) -> None:
    teller = Teller(path)
    try:
        catalogue, states = load_plugins(
            begun=lambda key, hint: teller.tell(begin=key, hint=hint), lost=json.loads(lost)
        )
    except (Interrupted, StdetError) as error:
        teller.tell(error=error.message, hint=error.hint)
        return
    entries = [entry for kind in KINDS for entry in catalogue.entries(kind)]
    teller.tell(states=[dataclasses.asdict(s) for s in states], entries=[dataclasses.asdict(e) for e in entries])


if __name__ == "__main__":
    _main(*sys.argv[1:])
