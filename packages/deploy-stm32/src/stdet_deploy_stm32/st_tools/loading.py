"""Bringing a compiled network onto an STM32N6 by ST's own script: it builds the validation firmware and loads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stdet.artifacts import write_json
from stdet_deploy_stm32.st_tools.failures import ToolFailure, failure_of
from stdet_deploy_stm32.st_tools.process import run_bounded
from stdet_deploy_stm32.st_tools.profiles import read_commented_json
from stdet_deploy_stm32.st_tools.stedgeai import Tool, core_folder

SCRIPT = Path("scripts") / "N6_scripts" / "n6_loader.py"
CONFIG = "config_n6l.json"


def python_of(tool: Tool) -> Path:
    """The Python that came with the tool, which has what ST's scripts import; else the one that runs this."""
    names = ("python", "python3", "python.exe")
    return next((path for path in (tool.path.parent / name for name in names) if path.is_file()), Path(sys.executable))


def load_on_board(tool: Tool, output: Path, log: Path) -> None:
    """Builds, flashes and starts what `generate` has written, with the settings of ST's `config_n6l.json`.

    Args:
        output: folder with `network.c`.

    Raises:
        ToolFailure: `missing` when the script isn't there, `damaged_report` when its settings can't be read, or its own.
    """
    script = core_folder(tool.path) / SCRIPT
    if not script.is_file():
        raise ToolFailure(
            "missing", f"there is no {script}", "it comes with ST Edge AI Core: name the whole installation's folder"
        )
    settings: dict[str, Any] = {}
    if (script.parent / CONFIG).is_file():
        try:
            settings = dict(read_commented_json(script.parent / CONFIG))
        except (OSError, ValueError, TypeError) as error:
            said = f"{script.parent / CONFIG} can't be read: {error}"
            raise ToolFailure("damaged_report", said, "mend it, or remove it for ST's defaults") from error
    write_json(output / CONFIG, settings | {"network.c": (output / "network.c").as_posix()})
    command: list[str | Path] = [python_of(tool), script, "--n6-loader-config", output / CONFIG]
    finished = run_bounded(command, log, tool.timeout_s, cwd=script.parent)
    if finished.returncode:
        raise failure_of("n6_loader.py", finished.output, finished.returncode, log)
