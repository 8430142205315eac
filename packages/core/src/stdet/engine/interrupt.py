"""Ctrl-C, SIGTERM and SIGHUP (a closed terminal) as a request, honoured between two steps, when the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether a stop was asked for; a second Ctrl-C stops at once.

    Signals reach only the main thread of the main interpreter; elsewhere the function always says no.

    Raises:
        KeyboardInterrupt: inside the block, at the second Ctrl-C.
    """
    requested = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT:  # launchers follow a Ctrl-C with a SIGTERM of their own
            raise KeyboardInterrupt
        requested = True

    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup stays in force
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, request) for number in wanted}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
