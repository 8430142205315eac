"""Work in other processes, in order. No wait is without end, a process that dies is told, and results travel through memory
that takes no room in `/dev/shm`, which containers keep small."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Generic, TypeVar

import cv2
import torch

from stdet.errors import DataError, Interrupted, PeerLost, StdetError

AHEAD = 2
"""Tasks that each process is given before their results are asked for."""
PATIENCE_S = 600.0
"""How long a result may take."""
STOP_S = 3.0
"""How long one may take when a stop was asked for: a moment longer, and the work in hand ends as a whole."""
GLANCE_S = 0.2
"""How often the one who waits looks for a stop."""
ALIGNMENT = 64
"""Of arrays in shared memory, bytes."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def never() -> bool:
    """Nobody asks for a stop."""
    return False


@dataclass(frozen=True)
class _Bug:
    """An exception that nobody foresaw, as text: others might not be able to import its class."""

    traceback: str


class Workers(Generic[Task, Result]):
    """Processes that do `make(task)`; started once, ended by `close` or with this process.

    They are forked or spawned, as the platform does, and leave Ctrl-C and a closed terminal to this process.
    """

    def __init__(self, make: Callable[[Task], Result], count: int) -> None:
        """Args:
        make: does the work; what it returns is sent by pickle, arrays through shared memory.
        count: processes; with 0 the work is done here, when its result is asked for.

        Raises:
            PeerLost: they can't be started.
        """
        self._make = make
        self._count = count
        self._given: deque[tuple[int, Task]] = deque()
        self._crew: list[tuple[Any, Connection]] = []
        context = multiprocessing.get_context()
        try:
            for _ in range(count):
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, make), daemon=True)
                self._crew.append((process, mine))
                process.start()
                theirs.close()
        except (
            OSError,
            pickle.PicklingError,
            AttributeError,
            TypeError,
        ) as error:  # the last three: make can't be sent
            self._crew.pop()
            self.close()
            raise PeerLost(f"a data worker can't be started: {error}", "set dataset.num_workers: 0") from error

    @property
    def idle(self) -> bool:
        """Whether a further task should be given before the next result is taken."""
        return len(self._given) < max(1, AHEAD * self._count)

    def give(self, number: int, task: Task) -> None:
        """Hand over a task; those of the same `number` modulo the number of processes go to the same one."""
        chosen = number % max(1, self._count)
        self._given.append((chosen, task))
        if self._count:
            with suppress(OSError):  # a dead one is told when its result is asked for
                self._crew[chosen][1].send(task)

    def take(self, stop: Callable[[], bool] = never) -> Result:
        """The result of the oldest task.

        Args:
            stop: whether to wait no longer.

        Raises:
            Interrupted: it isn't there and `stop` says so.
            PeerLost: its process died, or has taken longer than `PATIENCE_S`.
            StdetError: raised by the work.
        """
        chosen, task = self._given.popleft()
        if not self._count:
            return self._make(task)
        process, connection = self._crew[chosen]
        _await(process, connection, stop)
        try:
            result = _received(connection)
        except (EOFError, OSError) as error:
            raise _lost(process) from error
        if isinstance(result, StdetError):
            raise result
        if isinstance(result, _Bug):
            raise RuntimeError(f"in a data worker:\n{result.traceback}")
        made: Result = result
        return made

    def close(self) -> None:
        """End the processes: each after the task that it is at, or after a moment in any case."""
        for _, connection in self._crew:
            with suppress(OSError):
                connection.send(None)
            connection.close()
        deadline = time.monotonic() + STOP_S
        for process, _ in self._crew:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        self._crew.clear()
        self._given.clear()


def _await(process: Any, connection: Connection, stop: Callable[[], bool]) -> None:
    """Wait until there is something to receive, be it the end."""
    begun = time.monotonic()
    while not connection.poll(GLANCE_S):
        waited = time.monotonic() - begun
        if process.exitcode is not None and not connection.poll():  # something else still holds its end
            raise _lost(process)
        if waited > STOP_S and stop():
            raise Interrupted("stopped while waiting for the data workers")
        if waited > PATIENCE_S:
            raise PeerLost(
                f"a data worker has made no batch for {PATIENCE_S / 60:g} minutes",
                "the place of the images may hang; dataset.num_workers=0 reads them in the main process",
            )


def _lost(process: Any) -> PeerLost:
    process.join(1)
    code = process.exitcode
    if code == -9:
        return PeerLost(
            "a data worker was killed (SIGKILL), as the system does when memory runs out",
            "lower dataset.num_workers, training.batch_size or dataset.cache_limit_gib",
        )
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return PeerLost(f"a data worker ended with {how}", "dataset.num_workers=0 shows where")


# --- in the other process ------------------------------------------------------------------------------------------------


def _work(connection: Connection, make: Callable[[Any], Any]) -> None:
    """Do tasks until there is None, or nobody at the other end."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has the handler of a training, which would only take a note
    cv2.setNumThreads(0)  # the processors are already shared out among the workers and the trainer
    torch.set_num_threads(1)
    tasks: deque[Any] = deque()
    with suppress(EOFError, OSError):
        while True:
            while not tasks or connection.poll():
                tasks.append(connection.recv())
            if tasks[-1] is None:
                return
            _send(connection, _done(make, tasks.popleft()))


def _done(make: Callable[[Any], Any], task: Any) -> Any:
    try:
        return make(task)
    except StdetError as error:
        return error
    except MemoryError:
        return DataError("a data worker ran out of memory", "lower dataset.num_workers or training.batch_size")
    except Exception:
        return _Bug(traceback.format_exc())


# --- the way between -----------------------------------------------------------------------------------------------------


def _send(connection: Connection, value: Any) -> None:
    """A small message, and the arrays in memory of their own, where the system has such (Linux); else all in the message."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=arrays.append)
    places, end = [], 0
    for array in arrays:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + array.raw().nbytes
        places.append((start, end))
    memory = _in_memory(arrays, places) if end else None
    if memory is None:
        connection.send((pickle.dumps(value, 5), None))
        return
    try:
        connection.send((head, places))
        send_handle(connection, memory, 0)  # the process at the other end matters on Windows alone
    finally:
        os.close(memory)


def _in_memory(arrays: list[pickle.PickleBuffer], places: list[tuple[int, int]]) -> int | None:
    """A file in memory with every array at its place; None where there can't be one."""
    try:
        memory = os.memfd_create("stdet")
    except (AttributeError, OSError):
        return None
    try:
        os.truncate(memory, places[-1][1])
        for array, (start, end) in zip(arrays, places, strict=True):
            view = array.raw()
            while start < end:
                written = os.pwrite(memory, view, start)
                view, start = view[written:], start + written
    except OSError:
        os.close(memory)
        return None
    return memory


def _received(connection: Connection) -> Any:
    """What `_send` sent."""
    head, places = connection.recv()
    if places is None:
        return pickle.loads(head)  # noqa: S301 (our own process)
    memory = recv_handle(connection)
    try:
        whole = memoryview(mmap.mmap(memory, places[-1][1]))
    finally:
        os.close(memory)
    return pickle.loads(head, buffers=[whole[start:end] for start, end in places])  # noqa: S301
