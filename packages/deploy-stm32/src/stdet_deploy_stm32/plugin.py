"""What this package brings: one deploy target a board. A new board is a new entry in `boards.json`."""

from __future__ import annotations

from stdet.plugins import hookimpl
from stdet.plugins.hookspecs import RegisterTarget
from stdet_deploy_stm32.boards import register_boards

STDET_API_VERSION = 2


@hookimpl
def stdet_register_targets(register: RegisterTarget) -> None:
    register_boards(register)
