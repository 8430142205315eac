"""The errors a user can cause. Anything else that escapes is a bug and deserves a traceback."""

from __future__ import annotations

from typing import Any


class StdetError(Exception):
    """A mistake the user can mend: `message` names the thing, `hint` the next step. The command exits with 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(StdetError):
    """The config file says something that can't be honoured."""


class PluginError(StdetError):
    """A plugin is broken, missing, of another API version, or two plugins claim one name."""


class UnavailableError(PluginError):
    """A component that is known, but not here: not installed, set aside, or it can't be imported. What doesn't need it
    goes on."""


class DataError(StdetError):
    """An image, an annotation file or a class list can't be used as it is."""


class ModelError(StdetError):
    """A model can't be built with these settings, or weights belong to another model."""


class ArtifactError(StdetError):
    """A file that a stage reads or writes is missing, damaged, of another format, or can't be saved."""


class ExportError(StdetError):
    """The ONNX file doesn't compute what the torch model computes, or can't be written."""


class QuantizationError(StdetError):
    """A model can't be quantized as asked, or the result breaks the budget or the target's form."""


class Rejected(QuantizationError):
    """The work is done and its result isn't good enough. What was found is kept and shown; the command exits with 2.

    Attributes:
        record: the findings, for programs.
        tables: the findings, for people (`stdet.structures.Table`).
        result: of the whole run up to here (`stdet.api.RunResult`), once it is known.
    """

    def __init__(
        self, message: str, hint: str = "", *, record: dict[str, Any] | None = None, tables: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(message, hint)
        self.record = record or {}
        self.tables = tables
        self.result: Any = None


class MissingExtraError(StdetError):
    """An optional library is not installed; the hint is the pip command."""


class PeerLost(StdetError):
    """Another process of a training failed, and this one can't go on without it."""


class Interrupted(StdetError):
    """The user stopped a run; what was finished is saved. The command exits with 130."""
