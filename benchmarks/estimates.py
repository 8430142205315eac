"""How far `estimate` is off: every family of published figures is judged by coefficients fitted without it.

    python benchmarks/estimates.py                 # the table
    python benchmarks/estimates.py --write DATE    # refit, and write the coefficients of the package

Needs the folder of published figures (`STDET_SHARED`, else `../shared`), with `numbers/npu.csv`, `mcu.csv`, `graphs.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import published_graphs

from stdet_deploy_stm32.bench import cortex_m, neural_art
from stdet_deploy_stm32.bench.kernels import kernels
from stdet_deploy_stm32.bench.macc import costs
from stdet_deploy_stm32.bench.operators import lint, untimed
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.onnx_graph.view import Graph, load_model, read_graph

PROJECT = Path(__file__).resolve().parent.parent
NUMBERS = Path(os.environ.get("STDET_SHARED", PROJECT.parent / "shared")) / "numbers"
COEFFICIENTS = PROJECT / "packages/deploy-stm32/src/stdet_deploy_stm32/bench/coefficients.json"
TOOL = "ST Edge AI Core 4.0.0, int8"
KIB = 1024
NPU, CORE = boards()["stm32n6570-dk"], boards()["stm32h747i-disco"]
REBUILT = (
    ("npu", "resnet18_quarter", "resnet18wd4_pt", "Imagenet", 224, "4.0.0", "resnet18"),
    *(("npu", "yolov8n", "yolov8n_per_channel", "COCO-Person", size, "4.0.0", "yolov8n") for size in (192, 256, 320, 416)),
    *(("mcu", "yolov8n", "yolov8n_per_channel", "COCO-Person", size, "STEdgeAI 4.0.0", "yolov8n")
      for size in (192, 256, 320, 416)),
    ("mcu", "resnet8", "resnet8_tfs", "Cifar10", 32, "STEdgeAI 4.0.0", "resnet8"),
)  # fmt: skip
"""Rows of the tables whose graphs `published_graphs` builds."""


@dataclass
class Row:
    """A published row, and what our rules count on its graph."""

    name: str
    family: str
    published_ms: float
    flash_kib: float | None
    ram_kib: float | None
    external_kib: float | None
    counts: np.ndarray
    flash_estimate_kib: float
    ram_estimate_kib: float
    external_estimate_kib: float = 0.0
    reason: str = ""

    @property
    def spilled(self) -> bool:
        return self.external_estimate_kib > 0


# --- rows ---------------------------------------------------------------------------------------------------------------


def rows(cache: Path) -> Iterator[tuple[str, Row]]:
    """(table, row) of every published figure that has a graph."""
    tables = {name: list(csv.DictReader((NUMBERS / f"{name}.csv").open())) for name in ("npu", "mcu")}
    listed = [tuple(line.values()) for line in csv.DictReader((NUMBERS / "graphs.csv").open())]
    graphs: dict[str, Graph] = {}
    for table, graph, model, dataset, size, version, family in (*listed, *REBUILT):
        key = f"{graph}_{size}" if graph in published_graphs.BUILDERS else graph
        if key not in graphs:
            graphs[key] = read_graph(load_model(file_of(graph, int(size), cache)))
        found = [line for line in tables[table] if matches(line, table, model, dataset, int(size), version)]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} rows of {table}.csv for {model} {dataset} {size} {version}")
        yield (
            table,
            (npu_row if table == "npu" else core_row)(f"{model} {dataset} {size}", family, graphs[key], found[0]),
        )


def matches(line: dict[str, str], table: str, model: str, dataset: str, size: int, version: str) -> bool:
    pixels = line["input_h"] if table == "npu" else line["resolution"].split("x")[0]
    tool = line["stedgeai_version"] if table == "npu" else line["version"]
    wanted = (model, dataset, str(size), version, "Int8")
    return (line["model"], line["dataset"], pixels, tool, line["format"]) == wanted


def file_of(graph: str, size: int, cache: Path) -> Path:
    """The ONNX file of a graph: kept in the folder, one of our models, or rebuilt here."""
    path = cache / f"{graph.replace(':', '_')}_{size}.onnx"
    if path.exists():
        return path
    if graph in published_graphs.BUILDERS:
        published_graphs.write(graph, size, path)
    elif graph.startswith("stdet:"):
        export_own(graph.removeprefix("stdet:"), path)
    else:
        path.write_bytes(lzma.decompress((NUMBERS / "graphs" / f"{graph}.onnx.xz").read_bytes()))
    return path


def export_own(name: str, path: Path) -> None:
    from stdet import api
    from stdet.build import Builder
    from stdet.config import load_text
    from stdet.export.onnx import export_onnx

    match = re.fullmatch(r"(.+)_nc(\d+)_(\d+)", name)
    assert match, name
    model, classes, size = match.groups()
    kind = "ssd" if model.startswith("ssd") else "st_yolod"
    text = (
        f"operation_mode: export\nmodel: {{model_type: {kind}, model_name: {model}, num_classes: {classes}, "
        f"input_shape: [3, {size}, {size}], pretrained: false}}"
    )
    catalogue = api._plugins()[0]
    builder = Builder(load_text(text, name, [], catalogue), catalogue)
    export_onnx(builder.detector(builder.spec_without_data()), path)


def number(text: str) -> float | None:
    return float(text) if text else None


def npu_row(name: str, family: str, graph: Graph, line: dict[str, str]) -> Row:
    steps = kernels(graph)
    placement = neural_art.place(graph, steps, [region.bytes for region in NPU.regions()])
    found = untimed(graph, steps, lint(graph, steps))
    counted = [neural_art.counts(graph, k, use.slow_elements) for k, use in zip(steps, placement.uses, strict=False)]
    return Row(
        name, family, float(line["inference_ms"]), number(line["weights_flash_kib"]), number(line["internal_ram_kib"]),
        number(line["external_ram_kib"]), np.sum(counted, axis=0),
        sum(neural_art.stored_weights(graph, k) for k in steps) / KIB, placement.inside_bytes / KIB,
        placement.outside_bytes / KIB, f"{len(found)} {found[0][0].op_type}: {found[0][1].reason}" if found else "",
    )  # fmt: skip


def core_row(name: str, family: str, graph: Graph, line: dict[str, str]) -> Row:
    steps = kernels(graph, merge_padding=True)
    counted = np.sum([cortex_m.counts(graph, kernel) for kernel in steps], axis=0)
    return Row(
        name, family, float(line["inference_ms"]), number(line["weights_flash_kib"]), number(line["activation_ram_kib"]),
        None, counted, sum(row.weights_bytes for row in costs(graph, steps)) / KIB,
        cortex_m.peak_bytes(graph, steps)[0] / KIB,
    )  # fmt: skip


# --- fit ----------------------------------------------------------------------------------------------------------------


def non_negative(matrix: np.ndarray, target: np.ndarray, rounds: int = 400) -> np.ndarray:
    """Least squares with coefficients >= 0, by coordinate descent on scaled columns."""
    scale = np.sqrt((matrix**2).sum(axis=0))
    scale[scale == 0] = 1
    matrix = matrix / scale
    gram, right = matrix.T @ matrix, matrix.T @ target
    x = np.zeros(len(right))
    for _ in range(rounds):
        for j in range(len(x)):
            if gram[j, j] > 0:
                x[j] = max(0.0, x[j] + (right[j] - gram[j] @ x) / gram[j, j])
    return x / scale


def fit(counts: np.ndarray, cycles: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Coefficients >= 0 of least mean absolute relative error, by reweighted least squares."""
    relative, weight = counts / cycles[:, None], np.ones(len(cycles))
    x = np.zeros(counts.shape[1])
    for _ in range(rounds):
        x = non_negative(relative * weight[:, None], weight)
        weight = 1 / np.sqrt(np.maximum(np.abs(relative @ x - 1), 0.01))
    return x


def fit_npu(used: Sequence[Row]) -> np.ndarray:
    """All but the last coefficient from rows that are all inside; that of slow elements from the others' excess."""
    inside = [row for row in used if not row.spilled]
    spilled = [row for row in used if row.spilled]
    cycles = np.array([row.published_ms * 1e6 for row in inside])
    x = np.append(fit(np.array([row.counts[:-1] for row in inside]), cycles), 0.0)
    if spilled:
        x[-1] = np.median([(row.published_ms * 1e6 - row.counts @ x) / row.counts[-1] for row in spilled])
    return x


def fit_core(used: Sequence[Row]) -> np.ndarray:
    return fit(np.array([row.counts for row in used]), np.array([row.published_ms * 4e5 for row in used]))


def left_out(used: Sequence[Row], fitted: Callable[[Sequence[Row]], np.ndarray]) -> list[np.ndarray]:
    """For each row the coefficients fitted without its family.

    Where no other family has a count at all, its coefficient can't be known without this one and is taken from the full fit.
    """
    full = fitted(used)
    by_family = {}
    for family in {row.family for row in used}:
        rest = [row for row in used if row.family != family]
        x = fitted(rest)
        unknown = ~np.any([row.counts > 0 for row in rest], axis=0)
        by_family[family] = np.where(unknown, full, x)
    return [by_family[row.family] for row in used]


# --- report -------------------------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """A row with the relative errors of its estimates, None where there is no figure or no estimate."""

    row: Row
    regime: str
    latency: float | None
    flash: float | None
    ram: float | None
    spill_right: bool | None = None


def judge_npu(all_rows: list[Row], limit_slow: float) -> list[Judged]:
    timed = [row for row in all_rows if not row.reason and row.counts[-1] <= limit_slow]
    errors = {
        id(row): float(row.counts @ x / (row.published_ms * 1e6) - 1)
        for row, x in zip(timed, left_out(timed, fit_npu), strict=True)
    }
    return [
        Judged(
            row,
            "no number" if id(row) not in errors else "spilled" if row.spilled else "inside",
            errors.get(id(row)),
            row.flash_kib and row.flash_estimate_kib / row.flash_kib - 1,
            None,
            None if row.external_kib is None else (row.external_kib > 0) == row.spilled,
        )
        for row in all_rows
    ]


def judge_core(all_rows: list[Row]) -> list[Judged]:
    return [
        Judged(
            row,
            "all",
            float(row.counts @ x / (row.published_ms * 4e5) - 1),
            row.flash_kib and row.flash_estimate_kib / row.flash_kib - 1,
            row.ram_kib and row.ram_estimate_kib / row.ram_kib - 1,
        )
        for row, x in zip(all_rows, left_out(all_rows, fit_core), strict=True)
    ]


def summary(values: Sequence[float | None]) -> str:
    known = [abs(value) * 100 for value in values if value is not None]
    return f"{np.median(known):.1f} / {max(known):.1f} ({len(known)})" if known else "–"


def error_record(judged: list[Judged]) -> dict[str, float | int]:
    known = [abs(j.latency) * 100 for j in judged if j.latency is not None]
    families = {j.row.family for j in judged}
    return {
        "median_percent": round(float(np.median(known)), 1),
        "worst_percent": round(max(known), 1),
        "rows": len(known),
        "families": len(families),
    }


def print_table(title: str, judged: list[Judged], regimes: Sequence[str]) -> None:
    print(f"\n{title}: median / worst error in % (rows); the family left out of the fit")
    print("| family | " + " | ".join(f"latency, {regime}" for regime in regimes) + " | flash | RAM | spill or not |")
    print("|---|" + "---|" * (len(regimes) + 3))
    for family in [*sorted({j.row.family for j in judged}), "all"]:
        chosen = [j for j in judged if family in (j.row.family, "all")]
        cells = [summary([j.latency for j in chosen if j.regime == regime]) for regime in regimes]
        told = [j.spill_right for j in chosen if j.spill_right is not None]
        cells += [summary([j.flash for j in chosen]), summary([j.ram for j in chosen])]
        print(f"| {family} | " + " | ".join(cells) + f" | {f'{sum(told)} of {len(told)}' if told else '–'} |")


def print_rows(judged: list[Judged]) -> None:
    for j in judged:
        shown = [f"{name} {100 * value:+.1f} %" for name, value in
                 (("latency", j.latency), ("flash", j.flash), ("RAM", j.ram)) if value is not None]  # fmt: skip
        external = (
            f"outside {j.row.external_estimate_kib:.1f} of {j.row.external_kib} KiB; " if j.row.external_kib else ""
        )
        print(f"{j.row.name}: {j.regime}; {external}{', '.join(shown)} {j.row.reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="DATE", help="write the coefficients, with this date (YYYY-MM-DD)")
    parser.add_argument("--rows", action="store_true", help="print every row too")
    parser.add_argument("--cache", type=Path, help="folder for the graphs, to be kept")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch)
        cache.mkdir(exist_ok=True)
        both = list(rows(cache))
    npu, core = ([row for table, row in both if table == name] for name in ("npu", "mcu"))
    # What is read from external RAM at 640 px is several times what other rows have, and those are off by a factor.
    limit_slow = 2 * max(row.counts[-1] for row in npu if not row.name.endswith(" 640"))
    judged_npu, judged_core = judge_npu(npu, limit_slow), judge_core(core)
    if arguments.rows:
        print_rows([*judged_npu, *judged_core])
    print_table("STM32N6570-DK", judged_npu, ("inside", "spilled"))
    print_table("STM32H747I-DISCO", judged_core, ("all",))
    for j in judged_npu:
        if j.latency is None:
            print(f"no latency: {j.row.name}: {j.row.reason or 'too many elements are read from external RAM'}")
    timed = [j.row for j in judged_npu if j.latency is not None]
    models = [
        document("neural-art", NPU.title, 1000, neural_art.COUNTS, fit_npu(timed), arguments.write,
                 {r: error_record([j for j in judged_npu if j.regime == r]) for r in ("inside", "spilled")})
        | {"most_slow_elements": limit_slow / 2},
        document("cortex-m7", CORE.title, 400, cortex_m.COUNTS, fit_core(core), arguments.write,
                 {"all": error_record(judged_core)}),
    ]  # fmt: skip
    print(json.dumps(models, indent=2))
    if arguments.write:
        text = json.dumps({"format": "stdet.latency/1", "models": models}, indent=2)
        COEFFICIENTS.write_text(text + "\n", encoding="utf-8")


def document(name: str, board: str, clock_mhz: int, counted: Sequence[str], x: np.ndarray, date: str,
             errors: dict[str, object]) -> dict[str, object]:  # fmt: skip
    cycles = {key: float(f"{value:.4g}") for key, value in zip(counted, x, strict=True)}
    return {"name": name, "stands_for": f"{TOOL}, {board}", "fitted": date, "clock_mhz": clock_mhz, "cycles": cycles,
            "errors": errors}  # fmt: skip


if __name__ == "__main__":
    main()
