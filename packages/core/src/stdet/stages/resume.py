"""Which checkpoint a training goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdet.build import flat_settings
from stdet.config import Config, load
from stdet.engine.checkpoint import read_checkpoint
from stdet.engine.resume import RunFacts
from stdet.errors import ArtifactError, StdetError
from stdet.stages.run import Run

ANY = frozenset(
    f"dataset.{split}_{key}"
    for split in ("test", "quantization", "prediction")
    for key in ("path", "images_path", "annotations_path", "split")
) | {"training.resume_training_from", "training.start_epoch", "training.device", "dataset.num_workers"}
"""Keys that may differ between a finished training and a run that takes it as its own."""


@dataclass(frozen=True)
class Resumed:
    """Attributes:
    path: of a checkpoint.
    finished: whether its training is done, so that the later stages follow.
    """

    path: Path
    finished: bool = False


def checkpoint_to_resume(run: Run, facts: RunFacts) -> Resumed | None:
    """`training.resume_training_from`: a path, or with `auto` the newest run beside this one that `facts` may go on with.

    A finished training is taken if it was made with the keys of this one. `auto` passes over what it can't use: other models
    and finished trainings, and, with a note, files that can't be read and runs whose data, batch size or optimizer differ.
    """
    wanted = run.builder.config.training.resume_training_from
    if not wanted:
        return None
    if wanted != "auto":
        return Resumed(Path(wanted))
    pattern = f"*/{run.builder.config.general.saved_models_dir}/latest_ckpt.pth"
    neighbours = [path for path in run.folder.parent.glob(pattern) if path.is_file()]
    for path in sorted(neighbours, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            if found := _usable(run, path, facts):
                return found
        except ArtifactError as error:
            run.reporter.note(f"resume_training_from: auto passes over a neighbour: {error.message}")
    run.reporter.note(f"resume_training_from: auto found no run to go on with beside {run.folder}; starting anew")
    return None


def _usable(run: Run, path: Path, facts: RunFacts) -> Resumed | None:
    """Raises:
    ArtifactError: it isn't finished, but this run can't go on from it.
    """
    state = read_checkpoint(path)
    theirs = RunFacts.of_state(state, path)
    if theirs.model["model_name"] != facts.model["model_name"]:
        return None
    if state["epoch"] >= run.builder.config.training.epochs or state.get("ending"):
        if theirs.differences(facts) or not _same_training(run, path):
            return None
        run.reporter.note(
            f"resume_training_from: auto takes the finished training of {path}, which has the same config"
        )
        return Resumed(path, finished=True)
    if different := theirs.differences(facts):
        raise ArtifactError(f"{path}: {'; '.join(different)}")
    return Resumed(path)


def _same_training(run: Run, path: Path) -> bool:
    """Whether the config beside `path` asks for the training that this run's config asks for."""
    folder = run.folder.parent / path.relative_to(run.folder.parent).parts[0]
    try:
        theirs = load(folder / "config.yaml", (), run.builder.catalogue)
    except StdetError:  # none, or of another version
        return False
    return _of_training(theirs) == _of_training(run.builder.config)


def _of_training(config: Config) -> dict[str, Any]:
    sections = ("model.", "dataset.", "preprocessing.", "training.", "general.global_seed")
    return {key: value for key, value in flat_settings(config).items() if key.startswith(sections) and key not in ANY}
