"""Libraries that only some runs need, each an extra of stdet-core: looked for before the work begins."""

from __future__ import annotations

from importlib.util import find_spec

from stdet.errors import MissingExtraError

EXTRAS = {
    "matplotlib": "plots",
    "mlflow": "mlflow",
    "onnxruntime": "onnxruntime",
    "pytest": "testing",
    "tensorboard": "tensorboard",
}
"""Library to the extra of stdet-core that installs it."""


def has(library: str) -> bool:
    """Whether `library` is installed; it isn't imported."""
    return find_spec(library) is not None


def command(library: str) -> str:
    """What installs `library`."""
    return f"pip install 'stdet-core[{EXTRAS[library]}]'"


def need(library: str, purpose: str) -> None:
    """Raises:
    MissingExtraError: `library` is not installed; says that `purpose` needs it, and the command.
    """
    if not has(library):
        raise MissingExtraError(f"{purpose} needs {library}, which is not installed", command(library))
