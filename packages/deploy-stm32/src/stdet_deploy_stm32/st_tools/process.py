"""Running a program of somebody else: in bounded time, with all that it starts, and with its log kept."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stdet_deploy_stm32.st_tools.failures import ToolFailure

GRACE_S = 2.0
"""Between asking a program to end and ending it."""
POLL_S = 0.1
MOST_LOG_BYTES = 64 << 20
"""A program that says more is stuck in a loop."""
READ_BYTES = 1 << 20
"""What is read of a log: its beginning and its end."""


@dataclass(frozen=True)
class Finished:
    """Attributes:
    returncode: 0 for success.
    output: what it wrote, standard output and errors together; the middle of a very long one is left out.
    log: the file that has all of it.
    """

    returncode: int
    output: str
    log: Path


def run_bounded(
    command: Sequence[str | Path],
    log: Path,
    timeout_s: float,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a program to its end, or ends it and everything it started: at the time-out and on Ctrl-C.

    Args:
        log: gets the command and the output; its folder exists.
        environment: variables beside those of this process.

    Raises:
        ToolFailure: `missing` when it can't be started, `timeout` when it takes too long, `failed` when it floods its log.
    """
    name = Path(command[0]).name
    with log.open("wb") as file:
        file.write(f"$ {shlex.join(map(str, command))}\n".encode())
        file.flush()
        started = file.tell()
        try:
            process = subprocess.Popen(
                list(map(str, command)), cwd=cwd, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ToolFailure(
                "missing",
                f"{command[0]} can't be run: {error.strerror or error}",
                "check that it is the program itself",
                log,
            ) from error
        try:
            _wait(process, name, log, timeout_s)
        except BaseException:
            end(process)
            raise
    return Finished(process.returncode, _ends_of(log, started), log)


def _wait(process: subprocess.Popen[bytes], name: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            process.wait(min(POLL_S, max(0.0, deadline - time.monotonic())))
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise ToolFailure(
                    "timeout", f"{name} took more than {timeout_s:.0f} s and was ended",
                    "see how far it came; tools.stedgeai.timeout_s gives it more time", log,
                ) from None  # fmt: skip
        if log.stat().st_size > MOST_LOG_BYTES:
            raise ToolFailure(
                "failed", f"{name} wrote more than {MOST_LOG_BYTES >> 20} MiB and was ended", "see its log", log
            )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and all that it started: first asks, then insists."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        _signal(process, number)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if not hasattr(os, "killpg"):
        process.terminate()
        return
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # all of them have ended; macOS says the second
        pass


def _ends_of(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        head = file.read(READ_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - READ_BYTES, start + len(head)))
        tail = file.read()
    gap = b"\n[...]\n" if size - start > len(head) + len(tail) else b""
    return (head + gap + tail).decode(errors="replace")
