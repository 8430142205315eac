"""Loading weights: what fits is loaded, what may differ is skipped and said, anything else is an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stdet.artifacts import LFS_MARKER
from stdet.errors import ArtifactError, ModelError
from stdet.interfaces.detector import Detector
from stdet.nn.torch_file import load_tensors

COMPUTED = "priors"
"""A constant that some files carry. Models make it from their input size, so a file's is never taken."""


@dataclass(frozen=True)
class LoadReport:
    """Attributes:
    source: the file.
    loaded: number of tensors taken.
    skipped: keys left at their fresh start because the file is for another number of classes.
    """

    source: str
    loaded: int
    skipped: tuple[str, ...]

    def summary(self) -> str:
        """One line for people."""
        line = f"loaded {self.loaded} tensors from {self.source}"
        if not self.skipped:
            return line
        return f"{line}; {len(self.skipped)} of another class count start fresh ({', '.join(self.skipped[:3])}, …)"


def load_weights(detector: Detector, path: Path, *, allow_skipped: bool = True) -> LoadReport:
    """Copy the weights of `path` into `detector`.

    The file may be a checkpoint of ours, a published one (`model` or `state_dict` entry) or a bare state dict, with or
    without a `module.` prefix. Nothing in it is executed (`weights_only`).

    Args:
        allow_skipped: whether the tensors that depend on the number of classes may differ in shape and be skipped.

    Raises:
        ModelError: not a weights file, or one of another model.
    """
    state = read_state_dict(path)
    own = detector.state_dict()
    own.pop(COMPUTED, None)
    state.pop(COMPUTED, None)
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    differing = [key for key in own if key in state and state[key].shape != own[key].shape]
    may_differ = detector.class_dependent_keys() if allow_skipped else frozenset()
    wrong = [f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in differing if k not in may_differ]
    problems = [
        *(f"missing: {_few(missing)}" for _ in missing[:1]),
        *(f"not in this model: {_few(unexpected)}" for _ in unexpected[:1]),
        *(f"other shapes: {_few(wrong)}" for _ in wrong[:1]),
    ]
    if problems:
        raise ModelError(
            f"{path} does not fit {detector.spec.model_name} with {detector.spec.num_classes} classes; {'; '.join(problems)}",
            "this is a checkpoint of another model or class count: check model.model_name, model.num_classes and model_path",
        )
    fitting = {key: value for key, value in state.items() if key in own and key not in differing}
    detector.load_state_dict(fitting, strict=False)
    return LoadReport(str(path), len(fitting), tuple(differing))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, of the file's dtypes and shapes, under their keys without `module.`.

    See `load_weights` for what the file may look like.

    Raises:
        ModelError: missing, a Git LFS pointer, or no file of tensors.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_MARKER)) == LFS_MARKER:
                raise ModelError(
                    f"{path} is a Git LFS pointer, not the weights themselves", "fetch it with `git lfs pull`"
                )
        content: Any = load_tensors(path)
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {path}", "check model.model_path") from error
    except ModelError:
        raise
    except ArtifactError as error:
        raise ModelError(error.message, error.hint) from error
    except Exception as error:  # torch raises many kinds for a file that isn't a plain tensor file
        raise ModelError(
            f"cannot read weights from {path}: {(str(error) or type(error).__name__).splitlines()[0]}",
            "only tensor files are loaded: a pickle that would run code is refused",
        ) from error
    for entry in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path} holds no state dict", "give a checkpoint with a `model` or `state_dict` entry")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
