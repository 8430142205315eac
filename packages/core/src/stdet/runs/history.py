"""Run folders as they lie on disk: read fast, without numpy and torch, and checked against their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stdet.artifacts import sha256_file
from stdet.errors import ArtifactError
from stdet.modes import MODES

FORMAT = "stdet.run/3"
RECORD, CONFIG = "run.json", "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """What `run.json` says of a run.

    Attributes:
        folder: where it lies now.
        document: all of it.
    """

    folder: Path
    document: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises:
        ArtifactError: no run's folder, or its record is damaged or of another format.
        """
        path = folder / RECORD
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            hint = "name the folder that a run said it wrote; `stdet runs list` shows those below a folder"
            raise ArtifactError(f"{folder} is no run's folder: there is no {RECORD}", hint) from error
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is damaged: {error}", f"begin anew with stdet run {folder / CONFIG}"
            ) from error
        found = document.get("format") if isinstance(document, dict) else None
        if found != FORMAT:
            raise ArtifactError(
                f"{path} has the format {found!r}, not {FORMAT}", "it was written by another version of stdet"
            )
        run = cls(folder, document)
        if fault := run._fault():
            raise ArtifactError(f"{path} is damaged: {fault}", f"begin anew with stdet run {folder / CONFIG}")
        return run

    @property
    def mode(self) -> str:
        return str(self.document["mode"])

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The finished stages, in order."""
        return list(self.document["steps"])

    @property
    def stages(self) -> dict[str, Any]:
        """The results, by name."""
        return dict(self.document["stages"])

    @property
    def starts(self) -> list[dict[str, Any]]:
        return list(self.document["starts"])

    @property
    def data(self) -> dict[str, dict[str, Any]]:
        return dict(self.document["data"])

    @property
    def onnx(self) -> dict[str, dict[str, Any]]:
        return dict(self.document["onnx"])

    @property
    def left(self) -> tuple[str, ...]:
        """The stages that aren't finished."""
        return MODES[self.mode].stages[len(self.steps) :]

    def files(self) -> Iterator[tuple[str, Path, str]]:
        """(stage, path, SHA-256 that it had) of each file that a finished stage left."""
        for step in self.steps:
            for name, sha256 in step["files"].items():
                yield step["stage"], self.folder / name, sha256

    def faults(self) -> list[str]:
        """What is gone or another than its stage left it, in words."""
        found = []
        for stage, path, sha256 in self.files():
            if not path.is_file():
                found.append(f"{path} of {stage} is gone")
            elif sha256_file(path) != sha256:
                found.append(f"{path} isn't what {stage} left")
        return found

    def check(self) -> None:
        """Raises:
        ArtifactError: `faults`.
        """
        if faults := self.faults():
            raise ArtifactError("; ".join(faults), f"put it back, or begin anew with stdet run {self.folder / CONFIG}")

    def _fault(self) -> str:
        """What the rest of this file relies on and isn't so."""
        document = self.document
        try:
            stages = tuple(step["stage"] for step in document["steps"])
            if stages != MODES[document["mode"]].stages[: len(stages)]:
                return f"{', '.join(stages)} are no stages of {document['mode']}"
            for step in document["steps"]:
                absent = [name for name in step["results"] if name not in document["stages"]]
                outside = [name for name in step["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
                if absent or outside:
                    return f"{', '.join(absent + outside)} can't be a result of {step['stage']}"
                for which in ("model", "float_onnx"):
                    if step[which] is not None:
                        step[which]["path"], step[which]["kind"]
            document["starts"][0]["time"], dict(document["data"]), dict(document["onnx"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return ""
