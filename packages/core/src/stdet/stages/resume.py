"""Which checkpoint a training goes on from."""

from __future__ import annotations

from pathlib import Path

from stdet.engine.checkpoint import read_checkpoint
from stdet.engine.resume import RunFacts
from stdet.errors import ArtifactError
from stdet.stages.run import Run


def checkpoint_to_resume(run: Run, facts: RunFacts) -> Path | None:
    """`training.resume_training_from`: a path, or with `auto` the newest run beside this one that `facts` may go on with.

    `auto` passes over what it can't use: runs of another model or that have ended, and, with a note, files that can't be read
    and runs whose data, batch size or optimizer differ.
    """
    wanted = run.builder.config.training.resume_training_from
    if not wanted:
        return None
    if wanted != "auto":
        return Path(wanted)
    pattern = f"*/{run.builder.config.general.saved_models_dir}/latest_ckpt.pth"
    neighbours = [path for path in run.folder.parent.glob(pattern) if path.is_file()]
    for path in sorted(neighbours, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            if _is_unfinished(run, path, facts):
                return path
        except ArtifactError as error:
            run.reporter.note(f"resume_training_from: auto passes over a neighbour: {error.message}")
    run.reporter.note(f"resume_training_from: auto found no unfinished run beside {run.folder}; starting anew")
    return None


def _is_unfinished(run: Run, path: Path, facts: RunFacts) -> bool:
    """Raises:
    ArtifactError: it is, or may be, but this run can't go on from it.
    """
    state = read_checkpoint(path)
    theirs = RunFacts.of_state(state, path)
    if theirs.model["model_name"] != facts.model["model_name"]:
        return False
    if state["epoch"] >= run.builder.config.training.epochs or state.get("ending"):
        return False
    if different := theirs.differences(facts):
        raise ArtifactError(f"{path}: {'; '.join(different)}")
    return True
