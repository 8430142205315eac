"""Workers: results in order and whole, and nothing that happens to one of them leaves the other end waiting."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from stdet.data import workers
from stdet.data.image_cache import MemoryCache
from stdet.data.workers import Workers
from stdet.errors import DataError, Interrupted, PeerLost, StdetError
from stdet.structures import Preprocess


@pytest.fixture
def spawning() -> Iterator[None]:
    """As on macOS and Windows."""
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method("fork", force=True)


def results(crew: Workers[Any, Any], tasks: list[Any]) -> list[Any]:
    left, found = iter(enumerate(tasks)), []
    for _ in tasks:
        while crew.idle and (task := next(left, None)):
            crew.give(*task)
        found.append(crew.take())
    return found


def arrays(size: int) -> tuple[np.ndarray, dict[str, Any]]:
    pixels = np.arange(size, dtype=np.uint8)
    return pixels, {
        "pid": os.getpid(),
        "odd": np.arange(3, dtype=np.float64)[::2],
        "none": np.zeros((0, 4), np.float32),
    }


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks_with_their_arrays(
    count: int, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not memory:  # as where there is no Linux
        monkeypatch.delattr(os, "memfd_create", raising=False)
    sizes = [7, 0, 1 << 20, 64, 3, 9, 200_000]
    with closing(Workers(arrays, count)) as crew:
        found = results(crew, sizes)
    assert [len(pixels) for pixels, _ in found] == sizes
    for (pixels, more), size in zip(found, sizes, strict=True):
        assert np.array_equal(pixels, arrays(size)[0])
        pixels[:1] = 1  # its owner's alone
        assert more["odd"].tolist() == [0, 2]
        assert more["none"].shape == (0, 4)
    assert len({more["pid"] for _, more in found}) == max(1, count)


def test_a_killed_worker_is_told_with_the_likely_reason() -> None:
    with closing(Workers(lambda number: os.kill(os.getpid(), number), 2)) as crew:
        crew.give(0, 0)
        crew.give(1, signal.SIGKILL)
        crew.take()
        with pytest.raises(PeerLost, match=r"killed.*memory") as caught:
            crew.take()
        assert "num_workers" in caught.value.hint
        crew.give(0, signal.SIGTERM)
        with pytest.raises(PeerLost, match="SIGTERM"):
            crew.take()


def test_what_a_plugin_does_in_a_worker_is_told() -> None:
    def work(what: str) -> None:
        if what == "exit":
            raise SystemExit(0)
        if what == "memory":
            raise MemoryError
        raise DataError("bad.jpg", "mend it") if what == "data" else KeyError("a bug")

    with closing(Workers(work, 1)) as crew:
        for what, error, said in (
            ("data", DataError, "bad.jpg"),
            ("memory", DataError, "out of memory"),
            ("bug", RuntimeError, "KeyError: 'a bug'"),
            ("exit", PeerLost, "exit code 0"),
        ):
            crew.give(0, what)
            with pytest.raises(error, match=said):
                crew.take()


def test_no_wait_is_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", 0.3)
    begun = time.monotonic()
    with closing(Workers(time.sleep, 1)) as crew:
        crew.give(0, 1000)
        with pytest.raises(PeerLost, match="no batch"):
            crew.take()
        monkeypatch.setattr(workers, "STOP_S", 0.1)
    assert time.monotonic() - begun < 60


def test_a_stop_ends_a_wait_but_not_before_a_batch_that_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Workers(time.sleep, 1)) as crew:
        crew.give(0, 0.3)
        crew.take(lambda: True)
        monkeypatch.setattr(workers, "STOP_S", 0.1)
        crew.give(0, 1000)
        with pytest.raises(Interrupted):
            crew.take(lambda: True)


def test_ctrl_c_and_a_closed_terminal_are_the_trainers_to_answer() -> None:
    with closing(Workers(lambda number: os.kill(os.getpid(), number), 1)) as crew:
        for number in (signal.SIGINT, signal.SIGHUP):
            crew.give(0, number)
            assert crew.take() is None


@pytest.mark.usefixtures("spawning")
def test_spawned_workers_do_the_same_and_ignore_ctrl_c() -> None:
    with closing(Workers(eval, 1)) as crew:  # a function that another interpreter finds
        code = "__import__('os').kill(__import__('os').getpid(), 2), __import__('numpy').arange(3)"
        killed, array = results(crew, [code])[0]
    assert killed is None
    assert array.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("spawning")
def test_what_spawned_workers_cannot_have_is_refused_with_the_reason() -> None:
    with pytest.raises(StdetError, match="can't be started") as caught:
        Workers(lambda task: task, 1)
    assert "num_workers" in caught.value.hint
    with pytest.raises(DataError, match="forked"):
        MemoryCache([], Preprocess(8, 8), 1)  # type: ignore[arg-type]
