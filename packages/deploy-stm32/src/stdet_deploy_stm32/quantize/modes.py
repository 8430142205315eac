"""What `quantization.operating_mode` chooses: quantize, quantize and rank the tensors, search, or normalise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from stdet.artifacts import sha256_file, write_json
from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Evaluator, Progress, QuantizationResult
from stdet.structures import Table
from stdet_deploy_stm32.process_memory import large_blocks_returned
from stdet_deploy_stm32.quantize.foreign import rewrite_file
from stdet_deploy_stm32.quantize.inspection import (
    Effect,
    SqnrMeter,
    group_effects,
    only,
    quantized_tensors,
    rank,
    with_scores,
)
from stdet_deploy_stm32.quantize.int8 import Int8, make_int8, save_int8
from stdet_deploy_stm32.quantize.pictures import plot_ranking
from stdet_deploy_stm32.quantize.ranges.settling import range_settling
from stdet_deploy_stm32.quantize.search import search
from stdet_deploy_stm32.quantize.section import GeneralQuantization
from stdet_deploy_stm32.quantize.settings import choose

log = logging.getLogger(__name__)

SHOWN = 10
"""Tensors of a ranking in tables and records; the JSON file has all."""


@dataclass(frozen=True)
class Job:
    """The arguments of `DeployTarget.quantize`."""

    model: Path
    output: Path
    calibration: CalibrationData | None
    config: GeneralQuantization
    progress: Progress | None
    evaluator: Evaluator | None

    @property
    def images(self) -> CalibrationData:
        """Raises:
        QuantizationError: there are none.
        """
        if self.calibration is None or self.calibration.count < 1:
            source = f" in {self.calibration.source}" if self.calibration else ""
            raise QuantizationError(
                f"no calibration images{source}", "set dataset.quantization_path to a folder with images"
            )
        return self.calibration


def run_mode(job: Job) -> QuantizationResult:
    """Do what `operating_mode` says; nothing half-written is left behind.

    Raises:
        QuantizationError, ArtifactError: see the modes.
    """
    with large_blocks_returned():
        return MODES[choose("operating_mode", job.config.operating_mode, MODES)](job)


def _default(job: Job) -> QuantizationResult:
    """Quantize as the section says. Under a budget, also tell which tensors the outputs suffer from."""
    made = make_int8(job.model, job.images, job.config, job.progress)
    tables = [_examined(made, job), made_table(made.record)]
    if job.config.max_drop is not None:
        tables.append(_worst_into(made, job))
    save_int8(made, job.output)
    return QuantizationResult(made.record, tuple(tables), worst_of(made.record))


def _inspection(job: Job) -> QuantizationResult:
    """Quantize, and measure what each tensor alone costs: `inspection.json` and `inspection.png` beside the file."""
    made = make_int8(job.model, job.images, job.config, job.progress)
    tables = [_examined(made, job), made_table(made.record)]
    measure = _meter(made, job)
    effects = rank(made.floating, made.inside, measure, job.progress)
    wanted = job.config.iterative_quant_parameters.inspection_map
    metric = ""
    if wanted:
        if job.evaluator is None:
            raise QuantizationError(
                "iterative_quant_parameters.inspection_map needs evaluation images",
                "set dataset.val_images_path and val_annotations_path, or inspection_map: 0",
            )
        metric = job.evaluator.metric
        effects = with_scores(effects, _scores(made, effects[:wanted], job.evaluator, job.output.parent))
    groups = group_effects(made.floating, made.inside, measure)
    report = job.output.with_name("inspection.json")
    document = {
        "format": "stdet.inspection/1",
        "model": {"name": job.model.name, "sha256": sha256_file(job.model)},
        "images": len(measure.images),
        "metric": metric or None,
        "groups": groups,
        "tensors": [asdict(e) | {"rank": i + 1} for i, e in enumerate(effects)],
    }
    write_json(report, document)
    picture = job.output.with_name("inspection.png")
    plot_ranking(effects, picture)
    made.record["worst_tensors"] = _brief(effects[:SHOWN])
    made.record["inspection"] = {"report": report.name, "picture": picture.name, "groups": groups}
    save_int8(made, job.output)
    rows = [[name, *(f"{value:.1f}" for value in sqnr.values())] for name, sqnr in groups.items()]
    summary = Table("SQNR of the outputs, dB", ["quantized", *next(iter(groups.values()))], rows)
    tables += [summary, _ranking_table(effects, metric)]
    return QuantizationResult(made.record, tuple(tables), worst_of(made.record))


def _full_auto(job: Job) -> QuantizationResult:
    """Search recipe and precision under the budget, then write the winner."""
    if job.evaluator is None or job.config.max_drop is None:
        raise QuantizationError(
            "operating_mode full_auto searches under a budget, with evaluation images",
            "set quantization.max_drop and the val or test paths of the dataset section",
        )
    found = search(job.model, job.output.parent, job.images, job.config, job.evaluator, job.progress)
    made = make_int8(job.model, job.images, found.config, job.progress)
    made.record["search"] = found.document
    tables = [_examined(made, job), found.table, made_table(made.record), _worst_into(made, job)]
    save_int8(made, job.output)
    return QuantizationResult(made.record, tuple(tables), worst_of(made.record))


def _normalise(job: Job) -> QuantizationResult:
    return rewrite_file(job.model, job.output)


MODES: dict[str, Callable[[Job], QuantizationResult]] = {
    "default": _default,
    "inspection": _inspection,
    "full_auto": _full_auto,
    "normalise": _normalise,
}


def _meter(made: Int8, job: Job) -> SqnrMeter:
    return SqnrMeter(made.floating, job.images, job.config.iterative_quant_parameters.inspection_images)


def _examined(made: Int8, job: Job) -> Table:
    """Put what is known of the images into the record, with `range_settling`; the same as a table."""
    found = range_settling(made.floating, job.images)
    made.record["calibration"] |= {
        "files": dict(job.images.images),
        "checks": [asdict(check) for check in job.images.checks],
        "ranges": found,
    }
    if found["settled"] is None:
        verdict, text = "unknown", "one image can't tell"
    else:
        verdict = "ok" if found["settled"] else "warning"
        text = (
            f"a redraw of {found['images']} images leaves {found['share_settled']:.0%} of the ranges within 5 %; "
            f"the median range misses {found['median_missed']:.1%}"
        )
    rows = [[check.name, check.verdict, check.finding] for check in job.images.checks]
    return Table("calibration", ["check", "verdict", "finding"], [*rows, ["ranges", verdict, text]])


def made_table(record: dict[str, Any]) -> Table:
    """What the int8 file is: how near its outputs come to float, what stayed in float, and what has other than 8 bits."""
    rows = [["SQNR of output", f"{name}: {value:.1f} dB"] for name, value in record["sqnr_db"].items()]
    floats = [f"{each['op_type']} {each['layer']}" for each in record["float_operators"]]
    more = f" and {len(floats) - SHOWN} more" if len(floats) > SHOWN else ""
    rows.append(["operators in float", (", ".join(floats[:SHOWN]) or "none") + more])
    for what, found, share, kind in (
        ("activations", record["int16"], "share_of_activation_bytes", "Int16"),
        ("weights", record["int4"], "share_of_weight_bytes", "Int4"),
    ):
        general = record["options"][f"{what.removesuffix('s')}_type"]
        text = f"{found[share]:.1%} of their bytes, {len(found['tensors'])} tensors" if found["tensors"] else "none"
        rows.append([f"{kind} {what}", "all" if general.endswith(kind) else text])
    return Table("the int8 file", ["what", "found"], rows)


def worst_of(record: dict[str, Any]) -> dict[str, str]:
    """The output with the least signal to noise and, where tensors were ranked, the layer of the worst one, in words."""
    signal = record["sqnr_db"]
    output = min(signal, key=lambda name: signal[name])
    worst = {"output": f"{output} ({signal[output]:.1f} dB)"}
    for tensor in record.get("worst_tensors", [])[:1]:
        alone = f"{tensor['tensor']} alone: {tensor['sqnr_db']:.1f} dB"
        worst["layer"] = f"{tensor['layer']} ({tensor['op_type']}; {alone})"
    return worst


def _worst_into(made: Int8, job: Job) -> Table:
    """Rank the tensors and put the worst ones into the record; the same as a table."""
    effects = rank(made.floating, made.inside, _meter(made, job), job.progress)
    made.record["worst_tensors"] = _brief(effects[:SHOWN])
    return _ranking_table(effects)


def _scores(made: Int8, effects: Sequence[Effect], evaluator: Evaluator, folder: Path) -> Iterator[float]:
    """The metric with only the tensor of each effect quantized."""
    tensors = {t.tensor: t for t in quantized_tensors(made.floating, made.inside)}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".inspection_", dir=folder) as scratch:
        for effect in effects:
            path = Path(scratch) / "one.onnx"
            onnx.save(only(made.floating, [tensors[effect.tensor]]), path)
            yield evaluator.score(path)


def _brief(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    return [
        {
            "tensor": e.tensor,
            "kind": e.kind,
            "layer": e.layer,
            "op_type": e.op_type,
            "output": e.worst_output,
            "sqnr_db": e.worst_db,
        }
        for e in effects
    ]


def _ranking_table(effects: Sequence[Effect], metric: str = "") -> Table:
    columns = ["tensor", "kind", "layer", "operator", "output", "SQNR dB", *([metric] if metric else [])]
    rows = [
        [e.tensor, e.kind, e.layer, e.op_type, e.worst_output, f"{e.worst_db:.1f}"]
        + ([f"{e.score:.4f}" if e.score is not None else "–"] if metric else [])
        for e in effects[:SHOWN]
    ]
    return Table("what quantizing one tensor alone does to the outputs, worst first", columns, rows)
