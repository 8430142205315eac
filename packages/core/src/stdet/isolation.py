"""Running code of plugins: whatever it raises becomes one error that can be told; a Ctrl-C of the user still stops."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stdet.errors import Interrupted

T = TypeVar("T")

LONGEST_REASON = 300
"""Characters kept of an error's message: it becomes one cell of a table."""


class ForeignError(Exception):
    """What code of a plugin raised, in one line; the original is the `__cause__`."""


def isolated(call: Callable[[], T], doing: str, hint: str = "") -> T:
    """The result of `call`, which runs code that isn't ours.

    Args:
        doing: what happens, such as `importing acme`, for the user who stops it.
        hint: what the user can do against it.

    Raises:
        ForeignError: `call` raised anything at all, `SystemExit` and a `KeyboardInterrupt` of its own included.
        Interrupted: the user pressed Ctrl-C meanwhile, whatever `call` made of it.
    """
    with _interrupts() as delivered:
        try:
            result = call()
            failure = None
        except BaseException as error:  # a plugin may fail in any way; it must not take the others with it
            failure = error
    if delivered:
        raise Interrupted(f"stopped while {doing}", hint) from failure
    if failure is not None:
        raise ForeignError(told(failure)) from failure
    return result


def told(error: BaseException) -> str:
    """An exception's type and message in one line; its message may itself be broken."""
    try:
        text = " ".join(str(error).split())
    except BaseException as worse:
        text = f"its message can't be shown: {type(worse).__name__}"
    text = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " …"
    return f"{type(error).__name__}: {text}".removesuffix(": ")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects the SIGINTs that arrive meanwhile, and puts the handler back that was there before.

    Signals reach the main thread alone. Where a program has a handler of its own, it is left in charge.
    """
    delivered: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield delivered
        return

    def note(number: int, frame: object) -> None:
        delivered.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield delivered
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def borrowed_home() -> Iterator[None]:
    """Where the system knows neither home nor name of the user, as in a container with an unknown uid, both are lent: torch,
    matplotlib and others ask for them and fail."""
    lent: dict[str, str] = {}
    try:
        Path.home()
    except RuntimeError:
        lent["HOME"] = tempfile.mkdtemp(prefix="stdet_home_")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        lent["USER"] = str(os.getuid())
    os.environ.update(lent)
    try:
        yield
    finally:
        for name in lent:
            os.environ.pop(name, None)
        if "HOME" in lent:
            shutil.rmtree(lent["HOME"], ignore_errors=True)
