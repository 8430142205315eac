"""What the tests of core share."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdet.errors import StdetError
from stdet.nn.distributed import process_group


@pytest.fixture
def in_two_processes() -> Callable[[Callable[[], Any]], list[Any]]:
    """Calls a function in each of two processes of one group; gives what each returned, or the error that it raised.

    They are forks of this process, so the function can't use autograd once another test has: see `training_in_two`.
    """
    return _fork_two


@pytest.fixture
def training_in_two(tmp_path: Path) -> Callable[[Callable[[Path], Any], Path], list[Any]]:
    """As `in_two_processes`, from a fresh interpreter: for a function of a test module, which gets a folder."""

    def run(work: Callable[[Path], Any], folder: Path) -> list[Any]:
        answers = tmp_path.with_name(f"{tmp_path.name}_answers")
        command = [sys.executable, __file__, work.__code__.co_filename, work.__name__, str(folder), str(answers)]
        subprocess.run(command, check=True, timeout=200)
        found = pickle.loads(answers.read_bytes())  # noqa: S301 (our own)
        assert isinstance(found, list)
        return found

    return run


def _fork_two(work: Callable[[], Any]) -> list[Any]:
    port = _free_port()
    context = multiprocessing.get_context("fork")  # two fresh interpreters would spend seconds on importing torch
    said = context.Queue()

    def member(number: int) -> None:
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        try:
            with process_group("cpu"):
                answer = work()
        except StdetError as error:
            answer = error
        except BaseException:
            answer = traceback.format_exc()
        said.put((number, answer))

    members = [context.Process(target=member, args=(number,)) for number in range(2)]
    for process in members:
        process.start()
    answers = dict(said.get(timeout=100) for _ in members)
    for process in members:
        process.join(60)
    return [answers[0], answers[1]]


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _answer_as_two(source: str, name: str, folder: str, answers: str) -> None:
    spec = importlib.util.spec_from_file_location("tests_in_two", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    Path(answers).write_bytes(pickle.dumps(_fork_two(lambda: getattr(module, name)(Path(folder)))))


if __name__ == "__main__":
    _answer_as_two(*sys.argv[1:])
