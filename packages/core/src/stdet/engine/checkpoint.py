"""Training checkpoints: everything that a run needs to go on as if it had never stopped, and nothing that runs code.

A file is a dict that `torch.load(weights_only=True)` can read: tensors, numbers, strings, lists and dicts only. Its
`model` entry holds the weights to use (the averaged ones when EMA is on), under the published key names, so the file
also works wherever a published checkpoint does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stdet.artifacts import write_bytes
from stdet.errors import ArtifactError, ModelError
from stdet.nn.torch_file import load_tensors
from stdet.structures import DetectorSpec

FORMAT = "stdet.checkpoint/1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically, its tensors moved to the CPU, so that any machine can read it.

    Raises:
        ArtifactError: the disk is full or the folder can't be written; an older file of that name survives.
    """
    try:
        write_bytes(path, lambda file: torch.save({"format": FORMAT, **_on_cpu(state)}, file))
    except RuntimeError as error:  # torch's zip writer turns a short write into a RuntimeError
        raise ArtifactError(
            f"cannot write {path}: the write was cut short, as on a full disk ({error})",
            "free space or choose another folder; the checkpoint before is whole",
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours.

    Raises:
        ArtifactError: missing, damaged, not ours, or of a newer format.
    """
    try:
        state = load_tensors(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"no checkpoint at {path}", "check training.resume_training_from") from error
    except ArtifactError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file, all of them the file's fault
        raise ArtifactError(
            f"cannot read the checkpoint {path}: {error}", "use an older checkpoint of the run"
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise ArtifactError(
            f"{path} is not a training checkpoint of stdet ({found or 'no format entry'} instead of {FORMAT})",
            "to start from published weights, set model.model_path instead of training.resume_training_from",
        )
    return dict(state)


def spec_of(state: dict[str, Any]) -> DetectorSpec:
    """The spec that a checkpoint was saved with."""
    return DetectorSpec.from_dict(state["spec"])


def saved_spec(path: Path) -> DetectorSpec | None:
    """The spec in a checkpoint of ours; None for a file of bare weights, a published one for example."""
    try:
        return spec_of(read_checkpoint(path))
    except ArtifactError:
        return None


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def generator_states(device: str = "cpu") -> dict[str, Any]:
    """The state of every global random generator, in types that weights-only loading accepts.

    Args:
        device: that the run works on: of CUDA devices, only its own counts, and a run on the CPU wakes none.
    """
    version, keys, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {
        "python": [version, list(keys), gauss],
        "numpy": [
            [int(key) for key in numpy_state["state"]["key"]],
            int(numpy_state["state"]["pos"]),
            int(numpy_state["has_gauss"]),
            float(numpy_state["gauss"]),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if _on_cuda(device) else [],
    }


def restore_generators(states: dict[str, Any], device: str = "cpu") -> None:
    """Put every global random generator back to what `generator_states` saw; `device` as there.

    A checkpoint of a run on the CPU holds no state for a CUDA device, whose generator is then left as it is.
    """
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    key, pos, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and _on_cuda(device):
        torch.cuda.set_rng_state(states["cuda"][0], device)  # earlier versions kept one for every visible device


def _on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def seed_everything(seed: int | None) -> None:
    """Seed Python's, NumPy's and torch's global generators; None leaves them as they are."""
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """In this context, where `wanted`, torch uses only operations that give the same bits each time.

    Raises:
        ModelError: an operation has no such form on this device.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA wakes
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ModelError(
            f"an operation has no deterministic form on this device: {str(error).splitlines()[0]}",
            "set general.deterministic: False",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
