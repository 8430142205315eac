"""What to do after a run that ended early: the commands that go on from what it finished."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stdet.modes import MODES
from stdet.runs.results import Quantized, Trained
from stdet.stages.run import Run


@contextmanager
def told_how_to_go_on(run: Run, left: Sequence[str]) -> Iterator[None]:
    """What ends the block early carries, as a note (`add_note`), the commands for the stages that are `left`."""
    try:
        yield
    except BaseException as error:
        if run.record.writes and (commands := commands_to_go_on(run, left)):
            done = ", ".join(step["stage"] for step in run.record.steps)
            told = [
                f"{left[0]} didn't finish; {f'finished: {done}; it stays' if done else 'what there is stays'} in {run.folder}"
            ]
            told += ["go on with", shlex.join(["stdet", "run", "--resume", str(run.folder)])]
            error.add_note("\n".join([*told, "or, with other settings, in a folder of its own, with", *commands]))
        raise


def commands_to_go_on(run: Run, left: Sequence[str]) -> list[str]:
    """The commands for the stages that are `left`, the one that failed first; none where nothing was finished."""
    latest = run.models / "latest_ckpt.pth"
    if left[0] == "train":
        return [_command(run, f"training.resume_training_from={_value(latest)}")] if latest.is_file() else []
    quantized, trained = run.record.of(Quantized), run.record.of(Trained)
    if not run.record.results:
        return []
    if quantized and not {"export", "quantize"} & set(left):
        return [c for name in dict.fromkeys(left) for c in _ending(run, (name,), quantized[-1].model.path)]
    model = trained[-1].best.path if trained else run.builder.config.model.model_path
    rest = tuple(left[1:] if left[0] == "export" and len(left) > 1 else left)  # other stages export what they need
    return _ending(run, rest, model)


def _ending(run: Run, rest: tuple[str, ...], model: Path | None) -> list[str]:
    """The command of the shortest mode that ends with the stages `rest`, without a training; none where there is no such."""
    modes = [mode for mode in MODES.values() if not mode.trains and mode.stages[-len(rest) :] == rest]
    return [_mode(run, min(modes, key=lambda mode: len(mode.stages)).name, model)] if modes else []


def _mode(run: Run, mode: str, model: Path | None) -> str:
    given = [f"operation_mode={mode}"]
    if model is not None:
        given += [f"model.model_path={_value(model)}"]
        given += ["model.pretrained=False"] if run.builder.config.model.pretrained else []
    return _command(run, *given)


def _command(run: Run, *overrides: str) -> str:
    return shlex.join(["stdet", "run", str(run.folder / "config.yaml"), *overrides])


def _value(path: Path) -> str:
    """As a text that YAML reads as this path."""
    return str(path) if re.fullmatch(r"[\w./-]+", str(path)) else json.dumps(str(path), ensure_ascii=False)
