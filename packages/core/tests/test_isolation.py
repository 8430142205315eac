"""Code of plugins is run so that nothing it raises gets through, and a Ctrl-C of the user does."""

from __future__ import annotations

import getpass
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stdet.errors import Interrupted
from stdet.isolation import LONGEST_REASON, ForeignError, borrowed_home, isolated, told


class Own(BaseException):
    """Nobody catches this by `except Exception`."""


def raiser(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), StopIteration(), Own("x")], ids=repr
)
def test_whatever_is_raised_is_one_error_with_the_original_as_its_cause(error: BaseException) -> None:
    with pytest.raises(ForeignError) as caught:
        isolated(raiser(error), "trying")
    assert caught.value.__cause__ is error
    assert type(error).__name__ in str(caught.value)


def test_the_result_is_given_back() -> None:
    assert isolated(lambda: 7, "trying") == 7


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def swallow() -> None:
    try:
        press_ctrl_c()
    except BaseException:
        pass


@pytest.mark.parametrize("call", [press_ctrl_c, swallow])
def test_a_ctrl_c_of_the_user_stops_also_when_the_code_swallows_it(call: Callable[[], None]) -> None:
    began = time.perf_counter()
    with pytest.raises(Interrupted, match="stopped while trying") as caught:
        isolated(call, "trying", "leave it out")
    assert caught.value.hint == "leave it out"
    assert time.perf_counter() - began < 4


def test_the_handler_of_ctrl_c_is_the_same_afterwards_whatever_the_code_sets() -> None:
    before = signal.getsignal(signal.SIGINT)
    isolated(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), "trying")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_program_stays_in_charge() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        isolated(lambda: signal.raise_signal(signal.SIGINT), "trying")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_it_works_outside_of_the_main_thread() -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            isolated(raiser(KeyboardInterrupt()), "trying")
        except ForeignError as error:
            seen.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["KeyboardInterrupt"]


def test_a_message_is_one_short_line() -> None:
    assert told(ValueError("a\n  b")) == "ValueError: a b"
    assert len(told(ValueError("x" * 10_000))) < LONGEST_REASON + 30


def test_who_has_neither_home_nor_name_is_lent_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with borrowed_home():
        home = Path.home()
        assert home.is_dir()
        assert getpass.getuser() == str(os.getuid())
    assert not home.exists()
    assert "HOME" not in os.environ
