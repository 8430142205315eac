"""Many runs side by side, two compared, and what of them may go. Reads records only: no numpy, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stdet.artifacts import LEFTOVER, flat
from stdet.errors import ArtifactError
from stdet.runs.history import CONFIG, RECORD, RunFolder
from stdet.runs.summary import KINDS
from stdet.structures import Table

DEPTH = 2
"""Runs lie so many folders below the one that is named, at most."""
LIST = ("begun", "mode", "state", "AP float", "AP int8", "drop", "size KiB", "latency ms")


@dataclass(frozen=True)
class Found:
    """A folder that a run made.

    Attributes:
        run: what its record says; None where that can't be read, and `fault` says why.
    """

    folder: Path
    run: RunFolder | None
    fault: str = ""

    @property
    def state(self) -> str:
        """`finished`, what isn't, or what is wrong with the folder."""
        if self.run is None:
            return f"damaged: {self.fault}"
        return f"ended before {self.run.left[0]}" if self.run.left else "finished"


def runs_below(folder: Path) -> list[Found]:
    """`folder` itself when it is a run's, else all runs in it and in its folders, by name.

    Raises:
        ArtifactError: there is no such folder.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"there is no folder {folder}", "name the one that holds runs, `hydra.run.dir` without its end"
        )
    return [_found(path) for path in _folders(folder, DEPTH)]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / RECORD).exists() or ((folder / CONFIG).exists() and (folder / "stdet.log").exists()):
        yield folder
    elif depth:
        try:
            inner = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        except OSError:  # somebody else's
            return
        for path in inner:
            yield from _folders(Path(path), depth - 1)


def _found(folder: Path) -> Found:
    try:
        return Found(folder, RunFolder.read(folder))
    except ArtifactError as error:
        return Found(folder, None, error.message)


def facts(found: Found) -> dict[str, Any]:
    """The line of a run in a list, JSON-able; None for what isn't known. `AP` is 0..1, `drop` in points of it."""
    line: dict[str, Any] = {"run": str(found.folder), "state": found.state}
    if found.run is None:
        return line
    before, after = (_metrics(found.run, form).get("AP") for form in ("float", "int8"))
    file = found.run.onnx.get("int8") or found.run.onnx.get("float")
    latencies = [r for r in found.run.stages.get("bench", []) if r["latency_ms"] is not None]
    chosen = next((r for r in latencies if r["form"] == "int8"), next(iter(latencies), None))
    return line | {
        "begun": found.run.starts[0]["time"],
        "mode": found.run.mode,
        "AP_float": before,
        "AP_int8": after,
        "drop": None if before is None or after is None else 100 * (before - after),
        "size_kib": file["bytes"] / 1024 if file else None,
        "latency_ms": chosen["latency_ms"] if chosen else None,
        "latency_is": f"{chosen['device']}, {KINDS.get(chosen['latency_kind'], chosen['latency_kind'])}"
        if chosen
        else "",
    }


def _metrics(run: RunFolder, form: str) -> Mapping[str, float | None]:
    found: Mapping[str, float | None] = run.stages.get(f"evaluate_{form}", {}).get("metrics", {})
    return found


def list_table(lines: list[dict[str, Any]], below: Path) -> Table:
    """What people see of `facts`."""
    forms = {"AP_float": ".4f", "AP_int8": ".4f", "drop": ".2f", "size_kib": ".1f", "latency_ms": ".2f"}

    def cell(line: Mapping[str, Any], key: str) -> str:
        value = line.get(key)
        return "–" if value is None else format(value, forms[key])

    rows = []
    for line in lines:
        folder = Path(line["run"])
        name = folder.relative_to(below).as_posix() if folder != below else folder.name
        latency = " ".join(
            filter(None, [cell(line, "latency_ms"), f"({said})" if (said := line.get("latency_is")) else ""])
        )
        numbers = [cell(line, key) for key in forms if key != "latency_ms"]
        rows.append([name, line.get("begun", "–"), line.get("mode", "–"), line["state"], *numbers, latency])
    return Table(f"runs in {below}", ["run", *LIST], rows)


def show_tables(run: RunFolder) -> Iterator[Table]:
    """Of one run: its stages and their files, its data, where it ran."""
    rows = [[s["stage"], f"{s['seconds']:.1f}", ", ".join(s["files"]) or "–"] for s in run.steps]
    yield Table("stages", ["stage", "seconds", "files"], [*rows, *([name, "not finished", "–"] for name in run.left)])
    if run.data:
        data = [
            [name, str(d["images"]), ", ".join(d["classes"]), d["ground_truth_sha256"][:16]]
            for name, d in run.data.items()
        ]
        yield Table("data", ["split", "images", "classes", "fingerprint"], data)
    starts = [[s["time"], s["environment"]["platform"], _versions(s)] for s in run.starts]
    yield Table("begun", ["time", "platform", "versions"], starts)


def _versions(start: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in start["environment"]["versions"].items())


def differences(one: RunFolder, other: RunFolder) -> dict[str, dict[str, list[Any]]]:
    """`config`, `data`, `versions` and `results`: dotted key to its two values, None where one has none.

    Raises:
        ArtifactError: the config of one can't be read.
    """
    parts = {
        "config": (_config(one), _config(other)),
        "data": (flat(one.data), flat(other.data)),
        "versions": (
            flat(one.starts[-1]["environment"]["versions"]),
            flat(other.starts[-1]["environment"]["versions"]),
        ),
        "results": (_results(one), _results(other)),
    }
    return {
        name: {key: [a.get(key), b.get(key)] for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)}
        for name, (a, b) in parts.items()
    }


def difference_tables(found: Mapping[str, Mapping[str, list[Any]]], names: tuple[str, str]) -> Iterator[Table]:
    """A table for each part that differs; numbers with their difference."""
    for part, pairs in found.items():
        if pairs:
            rows = [[key, *map(_shown, pair), _change(*pair)] for key, pair in pairs.items()]
            yield Table(f"{part}", ["key", *names, "difference"], rows)


def _config(run: RunFolder) -> dict[str, Any]:
    path = run.folder / CONFIG
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    return {key: value for key, value in flat(found).items() if key != "hydra.run.dir"}


def _results(run: RunFolder) -> dict[str, Any]:
    found = {f"{form}.{key}": value for form in ("float", "int8") for key, value in _metrics(run, form).items()}
    found |= {f"{form}.bytes": file["bytes"] for form, file in run.onnx.items()}
    for report in run.stages.get("bench", []):
        for key in ("latency_ms", "weights_bytes", "activations_bytes", "macc"):
            found[f"{report['form']}.{report['backend']}.{key}"] = report[key]
    return found | {f"{step['stage']}.files": len(step["files"]) for step in run.steps}


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(one: Any, other: Any) -> str:
    numbers = [v for v in (one, other) if isinstance(v, int | float) and not isinstance(v, bool)]
    return f"{numbers[1] - numbers[0]:+.4g}" if len(numbers) == 2 else ""


def prunable(run: RunFolder) -> Iterator[Path]:
    """The files of a finished run that nothing needs any more: checkpoints to go on from, those of single epochs, and what
    killed processes left. Never a file that a stage noted, such as the best checkpoint, nor one outside the folder; and none
    of a run whose noted files aren't what they were.
    """
    if run.left or run.faults():
        return
    noted = {path for _, path, _ in run.files()}
    best = {path.parent for path in noted if path.name == "best_ckpt.pth"}
    for folder, _, names in os.walk(run.folder, followlinks=False):
        for name in sorted(names):
            path = Path(folder, name)
            checkpoint = path.parent in best and (name == "latest_ckpt.pth" or _is_of_an_epoch(name))
            if (checkpoint or LEFTOVER.fullmatch(name)) and path not in noted and not path.is_symlink():
                yield path


def _is_of_an_epoch(name: str) -> bool:
    return name.startswith("epoch_") and name.endswith("_ckpt.pth")
