"""The backend `cloud`: a board of ST's farm runs the network, when the config or the command line says so and else never."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from stdet.artifacts import write_json, write_text
from stdet.errors import ConfigError
from stdet.interfaces.deploy import BenchReport, Progress
from stdet.runs.folder import new_folder
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.c_info import parse_c_info
from stdet_deploy_stm32.st_tools.cloud import STATES, Cloud, address
from stdet_deploy_stm32.st_tools.cloud_token import find_token
from stdet_deploy_stm32.st_tools.compiling import Compiled, unused
from stdet_deploy_stm32.st_tools.failures import ToolFailure
from stdet_deploy_stm32.st_tools.report_text import parse_report
from stdet_deploy_stm32.st_tools.stedgeai import series
from stdet_deploy_stm32.st_tools.web_service import Service

log = logging.getLogger(__name__)


def bench_cloud(
    path: Path,
    board: Board,
    section: Stedgeai | None,
    memory_pool: Path | None = None,
    logs: Path | None = None,
    progress: Progress | None = None,
    cloud: Cloud | None = None,
) -> BenchReport:
    """Sends the model to the Developer Cloud and waits for a board to run it.

    Args:
        section: `tools.stedgeai`.
        memory_pool: `benchmarking.memory_pool`.
        logs: folder that keeps the states of the job and its answer, never the token; None keeps nothing.
        cloud: whom to ask; None makes one, with the user's token.

    Raises:
        ToolFailure: see `st_tools`; what is missing or wrong, by kind. No other backend takes over.
        ConfigError: the memory pool can't be read, or the profile is a file, which the cloud has no place for.
    """
    section = section or Stedgeai()
    cloud = cloud or Cloud(Service(address(), timeout_s=min(60.0, section.timeout_s)), find_token())
    journal = _Journal(None if logs is None else new_folder(logs / "cloud" / path.stem), progress)
    try:
        version = cloud.version(section.version)
        name = cloud.check_board(board)
        journal.tell(f"version {version}, board {name}")
        job = job_of(board, section, memory_pool) | {"model": cloud.upload(path), "version": version}
        journal.tell(f"model {job['model']}")
        answer = cloud.run(name, job, section.timeout_s, journal.state)
        journal.answer(json.loads(cloud.service.hide(json.dumps(answer))))
        return _report(path, board, section, answer, job["model"])
    except ToolFailure as failure:
        journal.tell(f"{failure.kind}: {failure.message}")
        raise


def job_of(board: Board, section: Stedgeai, memory_pool: Path | None) -> dict[str, Any]:
    """What the cloud is asked, but for the model.

    Raises:
        ConfigError: the memory pool can't be read, or the profile is a file, which the cloud has no place for.
    """
    job: dict[str, Any] = {"target": series(board)}
    if board.npu:
        if section.profile and "@" in section.profile:
            raise ConfigError(
                f"tools.stedgeai.profile is {section.profile}, and the cloud takes names of its own profiles only",
                "leave the file out, or use the backend stedgeai",
            )
        job["stNeuralArt"] = section.profile or "default"
        job["atonnOptions"] = {"enable_epoch_controller": True}
    elif section.optimization:
        job["optimization"] = section.optimization
    if memory_pool is not None:
        try:
            job["mpool"] = json.loads(memory_pool.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"benchmarking.memory_pool {memory_pool} can't be read: {error}") from error
    return job


def _report(path: Path, board: Board, section: Stedgeai, answer: dict[str, Any], stored: str) -> BenchReport:
    found = answer.get("benchmark")
    if not isinstance(found, dict):
        raise ToolFailure("damaged_report", "the cloud is done and has no result", "try again later")
    info, text = parse_c_info(found.get("info")), parse_report(str(found.get("report") or ""))
    notes = (f"the model stays in your files on the cloud as {stored}", *unused(section, board))
    profile = section.profile or "default" if board.npu else None
    return Compiled(path, board, info, text, profile, measured=True).report("cloud", notes)


class _Journal:
    """What becomes of a job: for the progress, the log, and a file."""

    def __init__(self, folder: Path | None, progress: Progress | None) -> None:
        self._folder, self._progress, self._lines = folder, progress, list[str]()

    def tell(self, what: str) -> None:
        log.info("cloud: %s", what)
        self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n")
        if self._folder is not None:
            write_text(self._folder / "cloud.log", "".join(self._lines))

    def state(self, state: str) -> None:
        self.tell(f"state {state}")
        if self._progress is not None and state in STATES:
            self._progress(STATES.index(state) + 1, len(STATES))

    def answer(self, answer: dict[str, Any]) -> None:
        if self._folder is not None:
            write_json(self._folder / "answer.json", answer)
