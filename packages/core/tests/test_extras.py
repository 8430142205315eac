"""Libraries that only some runs need: what is said where one isn't installed, and when."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from stdet.engine.schedule_plot import plot_schedule
from stdet.errors import MissingExtraError
from stdet.evaluation.plots import plot_history, plot_precision_recall
from stdet.extras import EXTRAS, command, has, need
from stdet.interfaces.scheduler import ScheduleLength


@pytest.fixture(params=EXTRAS)
def absent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the libraries, as if it were not installed."""
    library: str = request.param
    monkeypatch.setitem(sys.modules, library, None)
    return library


def test_what_is_missing_is_said_with_the_command_that_installs_it(absent: str) -> None:
    assert not has(absent)
    with pytest.raises(MissingExtraError, match=f"drawing needs {absent}, which is not installed") as caught:
        need(absent, "drawing")
    assert caught.value.hint == command(absent) == f"pip install 'stdet-core[{EXTRAS[absent]}]'"


def test_what_is_there_is_not_imported_to_find_that_out() -> None:
    assert has("this")
    assert "this" not in sys.modules
    need("this", "poetry")


def test_the_extras_are_those_that_the_distribution_declares() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(EXTRAS.values())


@pytest.mark.parametrize("draw", ["history", "precision_recall", "schedule"])
def test_drawing_without_matplotlib_names_the_extra(draw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "x.png"
    with pytest.raises(MissingExtraError, match="matplotlib"):
        {
            "history": lambda: plot_history([], path),
            "precision_recall": lambda: plot_precision_recall({"AP": list(np.ones(3))}, path),
            "schedule": lambda: plot_schedule([], ScheduleLength(1, 1), path),
        }[draw]()
    assert not path.exists()
