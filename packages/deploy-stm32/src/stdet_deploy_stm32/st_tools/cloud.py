"""The ST Edge AI Developer Cloud: a board farm that compiles a network, runs it, and says how long that took."""

from __future__ import annotations

import difflib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stdet.artifacts import sha256_file
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.st_tools.cloud_token import Token
from stdet_deploy_stm32.st_tools.failures import ToolFailure, failure_of
from stdet_deploy_stm32.st_tools.stedgeai import is_version
from stdet_deploy_stm32.st_tools.web_service import Service

log = logging.getLogger(__name__)
T = TypeVar("T")

URL_VARIABLE = "STEDGEAI_CLOUD_URL"
ADDRESS = "https://stedgeai-dc.st.com"
POLL_S = 2.0
STATES = ("in_queue", "waiting_for_build", "generating_sources", "copying_sources", "loading_sources", "building", "flashing",
          "validation", "done")  # fmt: skip
"""Of a job, in their order; `error` beside them."""


def address() -> str:
    """Of the service."""
    return os.environ.get(URL_VARIABLE) or ADDRESS


@dataclass
class Cloud:
    """The service, as one user.

    Attributes:
        service: without a token.
        token: of the user.
        poll_s: between two looks at a job.
    """

    service: Service
    token: Token
    poll_s: float = POLL_S
    _renewed: bool = False

    def __post_init__(self) -> None:
        self.service.authorise(self.token.access, self.token.refresh)

    def version(self, wanted: str | None) -> str:
        """The version to ask for: the latest, or the one that is wanted.

        Raises:
            ToolFailure: `version` when the cloud doesn't have it; or see `Service`.
        """
        answer = self._asked(lambda: self.service.get("/assets/versions.json"))
        entries = self._of(answer, list, "the list of versions")
        known = {str(e["version"]): e for e in entries if isinstance(e, dict) and e.get("version")}
        if wanted is None:
            latest = next((name for name, entry in known.items() if entry.get("isLatest")), None)
            if latest is None:
                raise ToolFailure("damaged_report", "the cloud doesn't say which version is the latest", "name one: "
                                  f"tools.stedgeai.version, {', '.join(known) or 'none'}")  # fmt: skip
            return latest
        for name, entry in known.items():
            platforms = entry.get("platform")
            own = [name, *(map(str, platforms.values()) if isinstance(platforms, dict) else ())]
            if any(is_version(wanted, each) for each in own):
                return name
        raise ToolFailure("version", f"the cloud has no version {wanted}", f"it has {', '.join(known) or 'none'}")

    def check_board(self, board: Board) -> str:
        """The farm's name of a board.

        Raises:
            ToolFailure: `board` when it has none; or see `Service`.
        """
        names = list(
            self._of(self._asked(lambda: self.service.get("/api/benchmark/boards")), dict, "the list of boards")
        )
        found = next((name for name in names if str(name).lower() == board.name), None)
        if found is None:
            close = difflib.get_close_matches(board.title.upper(), [str(name).upper() for name in names], 3)
            hint = f"close: {', '.join(close)}" if close else f"it has {', '.join(names)}"
            raise ToolFailure("board", f"the cloud has no {board.title}", hint)
        return str(found)

    def upload(self, model: Path) -> str:
        """Makes sure that the cloud has these very bytes, and says under which name: that of their hash."""
        name = f"{sha256_file(model)}.onnx"
        there = self._of(self._asked(lambda: self.service.get("/api/file/files/models")), list, "the list of models")
        if name in {entry.get("name") for entry in there if isinstance(entry, dict)}:
            return name
        content = model.read_bytes()
        answer = self._asked(lambda: self.service.upload("/api/file/files/models", name, content))
        if not (isinstance(answer, dict) and answer.get("upload") is True):
            raise ToolFailure("service", f"the cloud didn't take the model: {self._said(answer)}", "try again later")
        return name

    def run(
        self, board: str, job: Mapping[str, Any], timeout_s: float, tell: Callable[[str], None]
    ) -> dict[str, Any]:  # fmt: skip
        """Puts a job into the board's queue and waits for its result.

        Args:
            job: what the farm shall do.
            timeout_s: in all, queue included; a change of state starts no new time.
            tell: is called with each new state.

        Raises:
            ToolFailure: the job failed, by kind, or `timeout`; or see `Service`.
        """
        deadline = time.monotonic() + timeout_s
        begun = self._asked(lambda: self.service.post(f"/api/benchmark/benchmark/{board.lower()}", job))
        number = begun.get("benchmarkId") if isinstance(begun, dict) else None
        if not isinstance(number, str | int) or not str(number).replace("-", "").isalnum():
            raise failure_of("the cloud's benchmark", self._said(begun), 1, None)
        state = ""
        while True:
            answer = self._of(
                self._asked(lambda: self.service.get(f"/api/benchmark/benchmark/{number}")), dict, "the job"
            )
            if answer.get("state") != state:
                state = str(answer.get("state"))
                tell(state)
            if state == "done":
                return answer
            if state == "error":
                raise failure_of("the cloud's benchmark", self._said(answer), 1, None)
            if time.monotonic() + self.poll_s > deadline:
                raise ToolFailure(
                    "timeout", f"the job {number} is {state or 'nowhere'} after {timeout_s:g} s, and was left there",
                    "boards are shared: try later, or give it more with tools.stedgeai.timeout_s",
                )  # fmt: skip
            time.sleep(self.poll_s)

    def _asked(self, call: Callable[[], T]) -> T:
        """What the service answers; once more with a new token, where the old one has expired and can be renewed."""
        try:
            return call()
        except ToolFailure as failure:
            if failure.kind != "token" or not self.token.refresh or self._renewed:
                raise
        self._renewed = True
        self.service.authorise("")
        answer = self.service.post_form("/api/user_service/login/refresh", {"refresh_token": self.token.refresh})
        if not isinstance(answer, dict) or not answer.get("access_token"):
            raise ToolFailure("token", "the cloud gives no new token", "sign in again and get a new one")
        self.token = self.token.renewed(str(answer["access_token"]), str(answer.get("refresh_token") or ""))
        self.service.authorise(self.token.access, self.token.refresh)
        return call()

    def _of(self, answer: Any, kind: type[T], what: str) -> T:
        if not isinstance(answer, kind):
            raise ToolFailure(
                "damaged_report", f"the cloud's answer is not {what}: {self._said(answer)}", "try again later"
            )
        return answer

    def _said(self, answer: Any) -> str:
        """The words of an answer that is no success."""
        if isinstance(answer, dict):
            answer = next((answer[key] for key in ("errors", "error", "message", "report") if answer.get(key)), answer)
        return self.service.hide(str(answer))[:2000]
