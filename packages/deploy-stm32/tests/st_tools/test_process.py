"""A program ends in bounded time, with everything that it started, and its log stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stdet_deploy_stm32.st_tools import process
from stdet_deploy_stm32.st_tools.failures import ToolFailure
from stdet_deploy_stm32.st_tools.process import run_bounded

STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
    "time.sleep(60)'])\n"
    "print('child', child.pid, flush=True)\n"
    "time.sleep(60)\n"
)
"""It and what it starts don't care for SIGTERM."""


def gone(pid: int) -> bool:
    """Whether a process has ended; what waits for its parent has ended, too."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_log_has_the_command_and_all_that_was_said(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); print(repr(sys.stdin.read())); sys.exit(3)"
    done = run_bounded([sys.executable, "-c", code], tmp_path / "log", 30)
    assert done.returncode == 3
    assert sorted(done.output.split()) == ["''", "err", "out"]  # nobody answers a question
    assert (tmp_path / "log").read_text().startswith(f"$ {sys.executable} -c ")


def test_at_the_time_out_the_whole_family_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.3)
    begun = time.monotonic()
    with pytest.raises(ToolFailure, match=r"took more than 1 s and was ended\n.*log is .*log") as failure:
        run_bounded([sys.executable, "-c", STUBBORN], tmp_path / "log", 1)
    assert failure.value.kind == "timeout"
    assert time.monotonic() - begun < 15
    assert gone(int((tmp_path / "log").read_text().split("child ")[-1]))


def test_ctrl_c_ends_the_whole_family(tmp_path: Path) -> None:
    code = f"""
        import signal, sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from stdet_deploy_stm32.st_tools import process
        process.GRACE_S = 0.3
        process.run_bounded([sys.executable, "-c", {STUBBORN!r}], Path({str(tmp_path / "log")!r}), 60)
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if (tmp_path / "log").exists() and "child " in (tmp_path / "log").read_text().partition("\n")[2][-40:]:
            break
        time.sleep(0.05)
    runner.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in runner.communicate(timeout=30)[1]
    assert gone(int((tmp_path / "log").read_text().split("child ")[-1]))


def test_a_program_that_floods_its_log_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_LOG_BYTES", 10000)
    with pytest.raises(ToolFailure, match="wrote more than"):
        run_bounded([sys.executable, "-c", "while True: print('x' * 1000)"], tmp_path / "log", 30)


def test_of_a_long_log_beginning_and_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "READ_BYTES", 10)
    done = run_bounded([sys.executable, "-c", "print('begin' + 'x' * 100 + 'the end')"], tmp_path / "log", 30)
    assert done.output == "beginxxxxx\n[...]\nxxthe end\n"


def test_what_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name in ("text", "nothing"):
        with pytest.raises(ToolFailure, match="can't be run") as failure:
            run_bounded([tmp_path / name], tmp_path / "log", 5)
        assert failure.value.kind == "missing"
