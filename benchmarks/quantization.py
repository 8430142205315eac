"""What each quantization recipe keeps of a detector's accuracy, what it costs in time and memory.

Every recipe runs as `stdet quantize` in a process of its own, whose CPU time and peak memory the system reports; the file
is then scored by `stdet evaluate`.

Run: python benchmarks/quantization.py [CONFIG ...]; without a config: YOLOX-nano on the small COCO set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import PROJECT, save

METHOD = "quantization.onnx_quant_parameters.calibrate_method"
EXTRA = "quantization.onnx_extra_options"
AWARE = f"{EXTRA}.ActivationAwareRanges=True"
CORRECTED = f"{EXTRA}.BiasCorrection=True"
SEQUENTIAL = f"{EXTRA}.SequentialMSE=True"
HALF_INT4 = (f"{EXTRA}.Int4Share=0.5", "quantization.target_opset=21")
ALL_INT4 = (f"{EXTRA}.Int4Share=1.0", "quantization.target_opset=21")
RECIPES: dict[str, tuple[str, ...]] = {
    "MinMax": (f"{METHOD}=MinMax",),
    "Entropy": (f"{METHOD}=Entropy",),
    "MSE": (f"{METHOD}=MSE",),
    "MinMax, bias corrected": (f"{METHOD}=MinMax", CORRECTED),
    "MSE, bias corrected": (f"{METHOD}=MSE", CORRECTED),
    "MSE, aware": (f"{METHOD}=MSE", AWARE),
    "Percentile": (f"{METHOD}=Percentile",),
    "Percentile, aware": (f"{METHOD}=Percentile", AWARE),
    "Sensitivity, not equalized": (f"{METHOD}=Sensitivity", f"{EXTRA}.CrossLayerEqualization=False"),
    "Sensitivity (default)": (f"{METHOD}=Sensitivity",),
    "Sensitivity, bias corrected": (f"{METHOD}=Sensitivity", CORRECTED),
    "Sensitivity, sequential MSE": (f"{METHOD}=Sensitivity", SEQUENTIAL),
    "Sensitivity, both": (f"{METHOD}=Sensitivity", SEQUENTIAL, CORRECTED),
    "Sensitivity, half int4": (f"{METHOD}=Sensitivity", *HALF_INT4),
    "Sensitivity, half int4, both": (f"{METHOD}=Sensitivity", *HALF_INT4, SEQUENTIAL, CORRECTED),
    "Sensitivity, all int4": (f"{METHOD}=Sensitivity", *ALL_INT4),
    "Sensitivity, all int4, both": (f"{METHOD}=Sensitivity", *ALL_INT4, SEQUENTIAL, CORRECTED),
    "Sensitivity, 10 % int16": (f"{METHOD}=Sensitivity", f"{EXTRA}.Int16Share=0.1", "quantization.target_opset=21"),
}


@dataclass(frozen=True)
class Row:
    """One recipe on one model; AP of 0..1; seconds, `cpu_s` and `peak_mib` of the quantizing process alone."""

    model: str
    recipe: str
    ap: float
    ap50: float
    seconds: float | None = None
    cpu_s: float | None = None
    peak_mib: float | None = None
    int16_share: float | None = None


def stdet(*words: str) -> tuple[float, float, float]:
    """Run the command; wall seconds, CPU seconds, peak MiB.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, "-m", "stdet_cli.main", *words], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-2000:])
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def scores(config: Path, overrides: Sequence[str], model: Path, folder: Path) -> dict[str, float]:
    """The metrics of an ONNX file."""
    stdet("evaluate", str(config), *overrides, f"model.model_path={model}", f"hydra.run.dir={folder}")
    report = next((folder / "reports").glob("evaluate_*.json"))
    return dict(json.loads(report.read_text(encoding="utf-8"))["metrics"])


def measure(
    config: Path, overrides: Sequence[str], recipes: Sequence[str], scratch: Path, judged: Sequence[str] = ()
) -> list[Row]:
    """The float model, then every recipe; `judged` are overrides of the evaluation alone."""
    rows: list[Row] = []
    for recipe in recipes:
        folder = scratch / f"{config.stem}_{len(rows)}"
        spent = stdet("quantize", str(config), *overrides, *RECIPES[recipe], f"hydra.run.dir={folder}")
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))["stages"]["quantize"]
        if not rows:
            found = scores(config, [*overrides, *judged], Path(record["float_path"]), folder / "float")
            rows.append(Row(config.stem, "float", found["AP"], found["AP50"]))
            show(rows[-1])
        found = scores(config, [*overrides, *judged], Path(record["path"]), folder / "int8")
        share = record["int16"]["share_of_activation_bytes"]
        rows.append(Row(config.stem, recipe, found["AP"], found["AP50"], *(round(v, 1) for v in spent), share))
        show(rows[-1])
    return rows


def show(row: Row) -> None:
    """One line of the table."""
    cost = (
        "" if row.cpu_s is None else f"{row.seconds:6.0f} {row.cpu_s:6.0f} {row.peak_mib:7.0f} {row.int16_share:7.1%}"
    )
    print(f"{row.model:28} {row.recipe:28} {row.ap:6.3f} {row.ap50:6.3f} {cost}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "configs", nargs="*", type=Path, default=[PROJECT / "examples" / "tiny_coco_quantize_onnx.yaml"]
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of all the configs")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    print(f"{'model':28} {'recipe':28} {'AP':>6} {'AP50':>6} {'s':>6} {'CPU s':>6} {'MiB':>7} {'int16':>7}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for config in args.configs:
            rows += measure(config, args.set, args.recipes, Path(scratch))
    save(args.json, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
