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
    needs_tools: ClassVar[frozenset[str]] = frozenset({"emulator", "stedgeai", "cloud"})

    @pytest.fixture(autouse=True)
    def _choose(self, board: str) -> None:
        type(self).name = board

    @pytest.fixture(autouse=True)
    def _send_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Whoever runs this may have a token."""
        monkeypatch.delenv("STEDGEAI_CLOUD_TOKEN", raising=False)
        monkeypatch.setenv("STEDGEAI_CLOUD_TOKEN_FILE", str(tmp_path / "none"))

    def test_the_board_says_whether_the_model_fits(self, tmp_path: Path, board: str) -> None:
        from stdet_deploy_stm32.bench.estimate import estimate

        report = estimate(self.model(tmp_path), boards()[board])
        assert board == "stm32" or any("fit" in note or "external" in note for note in report.notes)
