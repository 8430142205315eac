"""The backend `stedgeai`: what ST Edge AI Core on this computer says of a network, and what a board measures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from stdet.artifacts import atomic_path
from stdet.errors import ConfigError
from stdet.interfaces.deploy import BenchReport, Progress
from stdet.runs.folder import new_folder
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.c_info import read_c_info
from stdet_deploy_stm32.st_tools.compiling import Compiled, unused
from stdet_deploy_stm32.st_tools.loading import load_on_board
from stdet_deploy_stm32.st_tools.profiles import profile_argument
from stdet_deploy_stm32.st_tools.report_text import TextReport, read_report
from stdet_deploy_stm32.st_tools.stedgeai import Tool, on_npu, open_tool, serial_port, series


def bench_stedgeai(
    path: Path,
    board: Board,
    section: Stedgeai | None,
    memory_pool: Path | None = None,
    logs: Path | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Compiles the network for the board; with `validate_on`, runs it on this computer or on the board as well.

    Args:
        section: `tools.stedgeai`.
        memory_pool: `benchmarking.memory_pool`.
        logs: folder that keeps the tool's logs and reports, whether it works or not; None makes one.

    Raises:
        ToolFailure: see `st_tools`; what is missing or wrong, by kind.
        ConfigError: the profile can't be had, or an NPU shall be emulated.
    """
    section = section or Stedgeai()
    check_keys(section, board, memory_pool)
    kept = new_folder((Path(tempfile.mkdtemp(prefix="stdet-logs-")) if logs is None else logs) / "stedgeai" / path.stem)
    tool = open_tool(section, kept / "version.log")
    steps = 2 if section.validate_on else 1
    with tempfile.TemporaryDirectory(prefix="stdet-stedgeai-") as scratch:
        job = _Job(tool, path, board, section, memory_pool, Path(scratch), kept)
        report = job.compile()
        _tell(progress, 1, steps)
        if section.validate_on:
            job.validate()
            _tell(progress, 2, steps)
        return job.result(report)


def check_keys(section: Stedgeai, board: Board, memory_pool: Path | None) -> None:
    """Raises:
    ConfigError: the network shall be run where it can't, or the profile can't be had.
    """
    if board.npu:
        with tempfile.TemporaryDirectory() as scratch:
            profile_argument(section.profile, memory_pool, Path(scratch))
    if section.validate_on == "host" and board.npu:
        raise ConfigError(
            f"tools.stedgeai.validate_on is host, and nothing emulates the NPU of {board.title}",
            "use board, or leave it out",
        )


def _tell(progress: Progress | None, done: int, steps: int) -> None:
    if progress is not None:
        progress(done, steps)


class _Job:
    """One network in one scratch folder, whose path is plain letters: the NPU's compiler breaks on others."""

    def __init__(
        self,
        tool: Tool,
        path: Path,
        board: Board,
        section: Stedgeai,
        memory_pool: Path | None,
        scratch: Path,
        kept: Path,
    ) -> None:
        self.tool, self.path, self.board, self.section, self.scratch, self.kept = (
            tool,
            path,
            board,
            section,
            scratch,
            kept,
        )
        shutil.copyfile(path, scratch / "model.onnx")
        self.profile = profile_argument(section.profile, memory_pool, scratch) if board.npu else None
        self.options: list[str | Path] = ["--model", scratch / "model.onnx", "--target", series(board)]
        self.options += ["--output", scratch / "out", "--workspace", scratch / "ws"]
        if board.npu:
            self.options += on_npu(self.profile)
        else:
            self.options += ["--optimization", tool.optimization] if tool.optimization else []
            self.options += ["--memory-pool", memory_pool.absolute()] if memory_pool else []

    def compile(self) -> TextReport:
        """`generate` where a board is to run it, else `analyze`."""
        command = "generate" if self.section.validate_on == "board" else "analyze"
        self.tool.run(command, self.options, self.kept / f"{command}.log", self.scratch)
        return self._report(command)

    def validate(self) -> None:
        board = self.section.validate_on == "board"
        where: list[str] = ["--mode", "host"]
        if board:
            if self.board.npu:
                load_on_board(self.tool, self.scratch / "out", self.kept / "load.log")
            where = ["--mode", "target", "--desc", serial_port(self.section.serial, npu=bool(self.board.npu))]
        self.tool.run("validate", [*self.options, *where], self.kept / "validate.log", self.scratch)

    def result(self, text: TextReport) -> BenchReport:
        measured = self.section.validate_on == "board"
        if self.section.validate_on:
            validated = self._report("validate")
            text = TextReport(text.macc, text.epochs, text.software, text.pools, validated.duration)
        info = read_c_info(self._keep("network_c_info.json"))
        notes = (*self.tool.notes, *unused(self.section, self.board))
        return Compiled(self.path, self.board, info, text, self.profile, measured).report("stedgeai", notes)

    def _report(self, command: str) -> TextReport:
        return read_report(self._keep(f"network_{command}_report.txt"))

    def _keep(self, name: str) -> Path:
        """A file that the tool has written, where it stays; the name alone when it has not."""
        made = self.scratch / "out" / name
        if not made.is_file():
            return made
        with atomic_path(self.kept / name) as temporary:
            shutil.copyfile(made, temporary)
        return self.kept / name
