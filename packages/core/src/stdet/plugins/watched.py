"""Running what plugins do in a process of its own, with bounds: one that hangs, ends the process or takes all memory is found
out and named, and nothing else suffers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
"""How long a child may be silent, seconds."""
MEMORY_BYTES = 16 << 30
"""Address space of a child: torch alone maps some."""
_LOOK_S = 0.05


@dataclass(frozen=True)
class Watched:
    """Attributes:
    lines: what the child told, in order.
    end: why it ended before it was done, in a clause; empty when all went well.
    stopped: whether the user pressed Ctrl-C.
    """

    lines: tuple[dict[str, Any], ...]
    end: str
    stopped: bool = False


class Teller:
    """The child's side: tells one fact after the other in a file, so that none is lost when it dies."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def tell(self, **facts: Any) -> None:
        """Append a line; the parent's clock begins anew."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


def bound_memory() -> None:
    """Child: no more than `MEMORY_BYTES`, where the system can hold it to that."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def watched(module: str, arguments: Sequence[str] = (), limit_s: float = LIMIT_S) -> Watched:
    """Run `python -m module FILE arguments...` until it ends or tells nothing for `limit_s`.

    What it writes to stdout goes to stderr: it may be a plugin's noise.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.jsonl"
        told.touch()
        command = [sys.executable, "-m", module, str(told), *arguments]
        stopped = False
        with _child(command) as child:
            try:
                end = _wait(child, told, limit_s)
            except KeyboardInterrupt:
                end, stopped = "it was stopped", True
        lines = tuple(json.loads(line) for line in told.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return Watched(lines, end, stopped)


@contextmanager
def _child(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, which is ended as a whole."""
    sys.stderr.flush()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    errors = sys.stderr.fileno() if _has_file(sys.stderr) else None
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=env, start_new_session=True
    )
    try:
        yield child
    finally:
        if hasattr(os, "killpg"):
            try:
                os.killpg(child.pid, signal.SIGKILL)  # what it started itself, too
            except ProcessLookupError:
                pass
        child.kill()
        child.wait()


def _has_file(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _wait(child: subprocess.Popen[bytes], told: Path, limit_s: float) -> str:
    heard, last = 0, time.monotonic()
    while (code := child.poll()) is None:
        time.sleep(_LOOK_S)
        if (size := told.stat().st_size) != heard:
            heard, last = size, time.monotonic()
        elif time.monotonic() - last > limit_s:
            return f"it hangs: nothing happened for {limit_s:g} s"
    if code < 0:
        return f"it ended the process by signal {signal.Signals(-code).name}"
    return f"it ended the process with code {code}" if code else ""
