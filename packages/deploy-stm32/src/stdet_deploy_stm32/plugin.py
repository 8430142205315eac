"""What this package brings: one deploy target a board. A new board is a new entry in `boards.json`."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import RegisterTarget
from stdet_deploy_stm32.boards import boards

STDET_API_VERSION = 2


@hookimpl
def stdet_register_targets(register: RegisterTarget) -> None:
    for board in boards().values():
        register(
            board.name,
            f"stdet_deploy_stm32.target:{board.name}",
            board.summary(),
            facts="stdet_deploy_stm32.facts:STM32",
        )
