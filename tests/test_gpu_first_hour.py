"""benchmarks/gpu_first_hour.sh, as far as a machine without a GPU can tell: its steps, its verdicts and its end."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_first_hour.sh"


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_first_hour", SCRIPT.with_suffix(".py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def run(*arguments: str, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def stand_in(folder: Path, verdict: str) -> Path:
    """A Python that knows the steps `one` and `two`, of which `one` ends with `verdict`, if with any."""
    path = folder / "python"
    path.write_text(
        f"""#!/bin/bash
[ "$2" = --list ] && printf 'one  shows this\\ntwo  shows that\\n' && exit
while [ $# -gt 1 ]; do [ "$1" = --work ] && work=$2; shift; done
[ "$1" = two ] && echo 'SKIP no GPU' >"$work/verdict"
[ "$1" = one ] && [ -n '{verdict}' ] && echo '{verdict}' >"$work/verdict"
exit 0
"""
    )
    path.chmod(0o755)
    return path


def test_the_script_is_sound_and_lists_its_steps(steps: ModuleType) -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    listed = run("--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(steps.STEPS)
    assert len(listed) == 12


@pytest.mark.parametrize(
    ("verdict", "said", "status"),
    [
        ("PASS fine", "one          PASS fine", 0),
        ("FAIL not so", "one          FAIL not so", 1),
        ("", "one          FAIL ended with status 0 and no verdict", 1),
    ],
)
def test_it_ends_with_a_table_and_fails_where_a_step_does(verdict: str, said: str, status: int, tmp_path: Path) -> None:
    done = run(python=stand_in(tmp_path, verdict))
    assert done.stdout.splitlines()[-2:] == [said, "two          SKIP no GPU"]
    assert done.returncode == status
    assert run("two", python=stand_in(tmp_path, verdict)).returncode == 0


@pytest.mark.parametrize(
    ("needs", "there", "verdict"),
    [
        (1, 0, "SKIP needs 1 CUDA device, there are 0"),
        (2, 1, "SKIP needs 2 CUDA devices, there is 1"),
        (2, 0, "PASS by gloo"),
        (1, 1, "PASS by gloo"),
    ],
)
def test_a_step_is_skipped_by_what_it_needs(
    needs: int, there: int, verdict: str, steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    step = steps.Step("that it works", needs, lambda machine: "by gloo")
    assert steps.verdict_of(steps.Machine(tmp_path, True), step) == verdict


def test_what_a_step_demands_and_what_it_meets_are_failures(steps: ModuleType, tmp_path: Path) -> None:
    machine = steps.Machine(tmp_path, True)
    demanding = steps.Step("", 0, lambda machine: steps.demand(False, "loss is nan"))
    assert steps.verdict_of(machine, demanding) == "FAIL loss is nan"
    assert steps.verdict_of(machine, steps.Step("", 0, lambda machine: 1 / 0)).startswith("FAIL ZeroDivisionError")


def test_idle_time_is_what_no_span_covers(steps: ModuleType) -> None:
    assert steps.idle_share([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (8.0, 10.0)]) == pytest.approx(0.3)
    with pytest.raises(steps.Failed):
        steps.idle_share([])
