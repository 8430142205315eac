"""What can go wrong with ST's tools, by kind: each with the thing that is wrong and the next step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stdet.errors import StdetError

Kind = Literal["missing", "version", "operator", "memory", "board", "timeout", "crash", "model", "damaged_report",
               "schema", "token", "service", "failed"]  # fmt: skip


class ToolFailure(StdetError):
    """A tool of ST's didn't do what it was asked for.

    Attributes:
        kind: of failure, for programs.
        log: what the tool said; None when it wasn't run.
    """

    def __init__(self, kind: Kind, message: str, hint: str = "", log: Path | None = None) -> None:
        where = "" if log is None else f"its log is {log}"
        super().__init__(message, "; ".join(part for part in (hint, where) if part))
        self.kind = kind
        self.log = log


@dataclass(frozen=True)
class _Sign:
    """A line that gives a kind of failure away.

    Attributes:
        pattern: its groups are what `message` tells.
        hint: what to do.
    """

    kind: Kind
    pattern: re.Pattern[str]
    message: Callable[[re.Match[str]], str]
    hint: str


def _line(found: re.Match[str]) -> str:
    """The whole line that a match is in."""
    text, start, end = found.string, found.start(), found.end()
    stop = text.find("\n", end)
    return " ".join(text[text.rfind("\n", 0, start) + 1 : stop if stop >= 0 else len(text)].split())


def _operator(found: re.Match[str]) -> str:
    names = re.findall(r"[A-Z]\w+", found["names"])
    return f"doesn't know the operator{'s' if len(names) > 1 else ''} {', '.join(names)} ({_line(found)})"


def _pool(found: re.Match[str]) -> str:
    line = _line(found)
    pool = _POOL.search(line)
    return f"finds no room in {f'the pool {pool[0]}' if pool else 'a memory'} ({line})"


_POOL = re.compile(
    r"\b(?:npuRAM\d|cpuRAM\d|flexMEM|hyperRAM|octoFlash|AXISRAM\d|AXIFLEXMEM|xSPI\d|DTCM|AXI|FLASH|S?RAM)\w*\b"
)
_NAMES = r"(?P<names>['\"`\[]*[A-Z]\w+['\"`\]]*(?:\s*,\s*['\"`]?[A-Z]\w+['\"`\]]*)*)"
_REPLACE = "replace it in the model, or end the network before it; `stdet bench --backend estimate` names each layer"
_SIGNS = (
    _Sign("board", re.compile(r"No SERIAL COM port|No STM32 target found|No (?:debug probe|ST-?LINK)", re.I), _line,
          "connect the board by its ST-LINK port and power it, then run again"),
    _Sign("board", re.compile(r"could not open port|Access is denied|PermissionError.*tty", re.I), _line,
          "close what else uses the serial port; on Linux your user belongs into the group dialout"),
    _Sign("board", re.compile(r"Invalid firmware|Unable to bind the ST\.?\s?AI runtime|E801\(HwIOError\)", re.I), _line,
          "the board doesn't run ST's validation firmware with this network: load it first (N6: scripts/N6_scripts/"
          "n6_loader.py; others: the validation application of X-CUBE-AI)"),
    _Sign("operator", re.compile(rf"(?i:unsupported (?:\w+ )?(?:layer|operator|op|node)s?(?: types?)?)[ :]+{_NAMES}"),
          _operator, _REPLACE),
    _Sign("operator", re.compile(
        rf"(?i:operator|layer|op|node)(?i: type)? {_NAMES} (?i:is )?(?i:not (?:yet )?(?:supported|implemented)|unsupported)"),
          _operator, _REPLACE),
    _Sign("memory", re.compile(
        r"unallocatable|out of memory|no room|overflowed by|(?:can ?not|can't|could not|unable to|failed to) (?:be )?allocate"
        r"|(?:does not|doesn't|do not|cannot|not) fit|(?:not enough|insufficient) (?:\w+ )?(?:memory|space|RAM|flash)", re.I),
          _pool, "try a smaller input or network (`stdet fit` finds one), or a memory-pool file with external RAM"),
    _Sign("crash", re.compile(r"Internal compiler error|signo=\d+|Segmentation fault|terminate called|SIGSEGV", re.I), _line,
          "the tool itself broke on this network: try another version of it, and tell ST with the log"),
    _Sign("model", re.compile(r"INVALID MODEL|NOT IMPLEMENTED|TOOL ERROR|INTERNAL ERROR|\bE\d{3}\(\w+\)"), _line,
          "export the network with static shapes and opset 17 or lower, and see the log"),
)  # fmt: skip
"""The first that is found decides."""


def failure_of(tool: str, output: str, returncode: int, log: Path | None) -> ToolFailure:
    """What the output of a tool that failed says, as an error.

    Args:
        tool: what it is called in the message, such as `stedgeai analyze`.
    """
    for sign in _SIGNS:
        found = sign.pattern.search(output)
        if found:
            return ToolFailure(sign.kind, f"{tool} {_verb(sign.kind)}{sign.message(found)}", sign.hint, log)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = " / ".join(lines[-3:]) or "it said nothing"
    return ToolFailure("failed", f"{tool} ended with {returncode}: {said}", "see the whole log", log)


def _verb(kind: Kind) -> str:
    if kind in ("operator", "memory"):
        return ""
    return {"board": "can't reach the board: ", "crash": "crashed: "}.get(kind, "failed: ")
