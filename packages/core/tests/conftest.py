"""What the tests of core share."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from stdet.errors import StdetError
from stdet.nn.distributed import process_group


@pytest.fixture
def in_two_processes() -> Callable[[Callable[[], Any]], list[Any]]:
    """Calls a function in each of two processes of one group; gives what each returned, or the error that it raised."""

    def run(work: Callable[[], Any]) -> list[Any]:
        port = _free_port()
        context = multiprocessing.get_context("fork")  # a fresh interpreter would spend seconds on importing torch
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
        answers = dict(said.get(timeout=60) for _ in members)
        for process in members:
            process.join(60)
        return [answers[0], answers[1]]

    return run


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])
