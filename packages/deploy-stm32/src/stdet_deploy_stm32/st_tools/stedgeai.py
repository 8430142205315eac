"""ST Edge AI Core on this computer: where it is, which version, and its commands, run one by one."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.failures import ToolFailure, failure_of
from stdet_deploy_stm32.st_tools.process import Finished, run_bounded

VARIABLES = ("STEDGEAI_CORE_DIR", "STM32_AI_EXE", "STM_AI_EXE")
"""Environment variables that may name the program or the folder that it is installed in, in the order of asking."""
NAMES = ("stedgeai", "stedgeai.exe")
OLDEST, NEWEST = 2, 4
"""Major versions whose commands and files are known."""
TIMEOUT_S = 900.0
VERSION_TIMEOUT_S = 60.0
"""A fresh installation unpacks itself at its first call."""
_CORE = re.compile(r"ST Edge AI Core v?(\d+)\.(\d+)(?:\.(\d+))?(\S*)")
_CUBE_AI = re.compile(r"STM32\s?Cube\.?AI v?(\d+(?:\.\d+)*)\S*")
_MISSING_HINT = (
    "install ST Edge AI Core from st.com and name it in tools.stedgeai.path_to_stedgeai, in "
    f"{' or '.join(VARIABLES[:2])}, or put it on PATH; `--backend estimate` needs no tool"
)


@dataclass(frozen=True)
class Tool:
    """An installed ST Edge AI Core.

    Attributes:
        path: of the program.
        version: as it says it, such as `2.2.0-20266`.
        major: the first number.
        optimization: of Cortex-M code: `balanced`, `time` or `ram`; None leaves the tool's own.
        timeout_s: for each command.
    """

    path: Path
    version: str
    major: int
    optimization: str | None = None
    timeout_s: float = TIMEOUT_S

    def run(self, command: str, options: Sequence[str | Path], log: Path, cwd: Path) -> Finished:
        """Runs `analyze`, `generate` or `validate` with these options.

        Raises:
            ToolFailure: it failed, by kind; or see `run_bounded`.
        """
        finished = run_bounded([self.path, command, *options], log, self.timeout_s, cwd=cwd)
        # validate says that it can't reach the board, and ends with 0
        failed = finished.returncode or (command == "validate" and re.search(r"^\s*E\d{3}\(", finished.output, re.M))
        if failed:
            raise failure_of(f"stedgeai {command}", finished.output, finished.returncode, log)
        return finished

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of this version."""
        if self.major > NEWEST:
            return (f"ST Edge AI Core {self.version} is newer than those whose files are known (up to {NEWEST}.x)",)
        return ()


def find(section: Stedgeai | None) -> Path:
    """The program: where the config says, else where an environment variable does, else on PATH.

    A place that is named and has no such program is an error; the others aren't asked then.

    Raises:
        ToolFailure: `missing`.
    """
    if section is not None and section.path_to_stedgeai is not None:
        return _at(section.path_to_stedgeai, "tools.stedgeai.path_to_stedgeai")
    for variable in VARIABLES:
        if os.environ.get(variable):
            return _at(Path(os.environ[variable]), variable)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise ToolFailure("missing", "ST Edge AI Core (stedgeai) isn't here", _MISSING_HINT)
    return Path(found)


def _at(place: Path, named_by: str) -> Path:
    system = {"win32": "windows", "darwin": "mac"}.get(sys.platform, "linux")
    folders = [place, *sorted((place / "Utilities").glob(f"{system}*"))]
    candidates = [place, *(folder / name for folder in folders for name in NAMES)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ToolFailure("missing", f"{named_by} is {place}, and there is no stedgeai", _MISSING_HINT)
    if not os.access(found, os.X_OK):
        raise ToolFailure("missing", f"{found} may not be run", f"chmod +x {found}")
    return found.absolute()


def core_folder(tool: Path) -> Path:
    """The folder that an installed program belongs to: the one above its `Utilities`, else its own."""
    parents = list(tool.parents)
    return next((p.parent for p in parents if p.name == "Utilities"), parents[0])


def open_tool(section: Stedgeai | None, log: Path) -> Tool:
    """The tool, when it is there and of a version that this can drive.

    Args:
        log: for what it says of its version.

    Raises:
        ToolFailure: `missing`, `timeout`, or `version` when it is too old, not the one that the config asks for, or
            doesn't say.
    """
    path = find(section)
    section = section or Stedgeai()
    finished = run_bounded([path, "--version"], log, VERSION_TIMEOUT_S)
    core, cube_ai = _CORE.search(finished.output), _CUBE_AI.search(finished.output)
    if finished.returncode or not (core or cube_ai):
        raise ToolFailure(
            "version", f"{path} doesn't say which ST Edge AI Core it is", "check that it is stedgeai", log
        )
    if core is None:
        raise ToolFailure(
            "version", f"{path} is {' '.join(cube_ai[0].split()) if cube_ai else ''}, from before ST Edge AI Core",
            f"install ST Edge AI Core {OLDEST}.0 or later", log,
        )  # fmt: skip
    version = ".".join(part for part in core.group(1, 2, 3) if part) + core[4]
    if int(core[1]) < OLDEST:
        raise ToolFailure("version", f"{path} is version {version}", f"install {OLDEST}.0 or later", log)
    if section.version and not any(
        is_version(section.version, known) for known in (version, cube_ai[1] if cube_ai else "")
    ):
        also = f" (STM32Cube.AI {cube_ai[1]})" if cube_ai else ""
        raise ToolFailure(
            "version", f"{path} is version {version}{also}, and tools.stedgeai.version is {section.version}",
            "name the other installation in tools.stedgeai.path_to_stedgeai, or leave the version out", log,
        )  # fmt: skip
    return Tool(path, version, int(core[1]), section.optimization, section.timeout_s)


def is_version(wanted: str, found: str) -> bool:
    """2.2 is any 2.2.x, but not 2.20."""
    return found == wanted or (bool(found) and re.match(rf"{re.escape(wanted)}(?!\d)", found) is not None)


def series(board: Board) -> str:
    """How the tool calls the chips of a board: `stm32n6` of STM32N6570-DK, `stm32h7` of NUCLEO-H743ZI2; `stm32` when the
    name doesn't tell."""
    found = re.search(r"(?:stm32|nucleo-|b-)([a-z]\d)", board.name)
    return f"stm32{found[1]}" if found else "stm32"


def on_npu(profile: str | None) -> list[str]:
    """The option that compiles for the NPU.

    Args:
        profile: `NAME`, `NAME@FILE`, or None for the tool's own default; without it the network runs on the Cortex-M55.
    """
    return ["--st-neural-art", *([profile] if profile else [])]


def serial_port(serial: str | None, npu: bool) -> str:
    """A port with its speed: that of ST's validation firmware, where `serial` names none."""
    port = serial or "serial"
    return port if re.search(r":\d+$", port) else f"{port}:{921600 if npu else 115200}"
