"""Every board's target keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from stdet.testing import TargetContract
from stdet_deploy_stm32.boards import boards


@pytest.fixture(params=sorted(boards()))
def board(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestStm32(TargetContract):
    """One class for all boards: they differ in data only."""

    name: ClassVar[str] = "stm32"
    needs_tools: ClassVar[frozenset[str]] = frozenset({"emulator", "stedgeai"})

    @pytest.fixture(autouse=True)
    def _choose(self, board: str) -> None:
        type(self).name = board

    def test_the_board_says_whether_the_model_fits(self, tmp_path: Path, board: str) -> None:
        from stdet_deploy_stm32.bench.estimate import estimate

        report = estimate(self.model(tmp_path), boards()[board])
        assert board == "stm32" or any("fit" in note or "external" in note for note in report.notes)
