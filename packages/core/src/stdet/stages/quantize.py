"""Quantization, and the verdict on what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stdet import calibration, judgement
from stdet.artifacts import ModelFile, write_json
from stdet.errors import Rejected
from stdet.export.metadata import ACCURACY_FORMAT, ACCURACY_KEY, copy_with_property, read_spec
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationData, Evaluator
from stdet.stages.models import onnx_file, onnx_spec
from stdet.stages.run import Run
from stdet.structures import DetectorSpec


def quantize(run: Run) -> None:
    """Write the int8 form of the run's float ONNX (exporting first if need be); it becomes the run's model."""
    source = onnx_file(run)
    config = run.builder.config.quantization
    path = run.folder / config.export_dir / f"{source.path.stem}_qdq_int8.onnx"
    if config.operating_mode == "normalise":
        record = _into_int8(run, source.path, path, None, None)
        run.model = ModelFile(path, "int8")
        run.record("quantize", {"path": str(path), "size_kib": path.stat().st_size / 1024, **record})
        return
    spec = onnx_spec(run, source.path)
    evaluation = judgement.evaluation_set(run.builder, spec)
    images = _calibration(run, source.path, spec, evaluation)
    evaluator = None
    if evaluation is not None and config.operating_mode != "default":  # making one reads every image
        journal = run.folder.parent / "quantization_journal"
        evaluator = judgement.make_evaluator(run.builder, spec, evaluation, journal, run.reporter)
    unjudged = path if config.max_drop is None else path.with_name(f"{path.stem}_unjudged.onnx")
    record = _into_int8(run, source.path, unjudged, images, evaluator)
    run.float_onnx, run.model = source, ModelFile(path, "int8")
    result = {"path": str(path), "float_path": str(source.path), **record}
    if config.max_drop is not None:
        assert evaluation is not None  # the config was checked for it
        result |= _judge(run, spec, unjudged, evaluation, record)
    assert run.model is not None
    kept = run.model.path
    run.record("quantize", result | {"path": str(kept), "size_kib": kept.stat().st_size / 1024})
    if kept != path:
        report = result["drop"]
        raise Rejected(
            f"int8 loses {report['points'][report['metric']]:.2f} points of {report['metric']} against float "
            f"({report['floating'][report['metric']]:.4f} to {report['quantized'][report['metric']]:.4f}); "
            f"quantization.max_drop is {config.max_drop:g}",
            f"the file is kept as {kept}; operating_mode: full_auto searches a recipe within the budget, "
            "inspection ranks the tensors",
        )


def _calibration(run: Run, source: Path, spec: DetectorSpec, evaluation: DetectionDataset | None) -> CalibrationData:
    """The images to calibrate on, examined; or noise, when the config wants it."""
    builder, count = run.builder, run.builder.config.quantization.random_calibration
    if count:
        run.reporter.note(f"calibrating on {count} noise images: the int8 file will be unfit for accuracy")
        return calibration.noise(count, spec, builder.config.dataset.seed)
    chosen = calibration.choose(builder, spec)
    run.reporter.note(f"calibrating on {len(chosen)} images of {chosen.source}")
    checks = calibration.examine(builder, chosen, spec, read_spec(source) is not None, evaluation, run.reporter)
    return calibration.stream(chosen, spec, checks)


def _into_int8(
    run: Run, source: Path, path: Path, images: CalibrationData | None, evaluator: Evaluator | None
) -> dict[str, Any]:
    """Let the target quantize, and keep what it has to say."""
    try:
        result = run.builder.target().quantize(
            source,
            path,
            images,
            run.builder.config.quantization,
            lambda done, total: run.reporter.progress("quantize", done, total),
            evaluator,
        )
    except Rejected as error:
        run.tables += error.tables
        run.record("quantize", {"rejected": error.message, **error.record})
        raise
    run.tables += result.tables
    return result.record


def _judge(
    run: Run, spec: DetectorSpec, unjudged: Path, evaluation: DetectionDataset, record: dict[str, Any]
) -> dict[str, Any]:
    """Compare float and int8, give the file the name that it deserves, and put the verdict into its metadata."""
    config = run.builder.config.quantization
    assert run.model is not None
    assert run.float_onnx is not None
    assert config.max_drop is not None
    report = judgement.compare_forms(
        run.builder, spec, run.float_onnx, ModelFile(unjudged, "int8"), evaluation, run.reporter
    )
    worst = judgement.worst_of(report, record)
    run.tables += judgement.drop_tables(report, worst)
    within = report.drop <= config.max_drop
    document = report.to_dict() | {"worst": worst, "max_drop": config.max_drop, "within_budget": within}
    write_json(run.folder / "reports" / "quantization_drop.json", document)
    path = run.model.path
    run.model = ModelFile(path if within else path.with_name(f"{path.stem}_over_budget.onnx"), "int8")
    verdict = {key: document[key] for key in ("metric", "max_drop", "within_budget", "dataset_sha256", "thresholds")}
    scores = {"float": report.floating[report.metric], "int8": report.quantized[report.metric]}
    copy_with_property(unjudged, run.model.path, ACCURACY_KEY, {"format": ACCURACY_FORMAT} | verdict | scores)
    unjudged.unlink()
    return {"drop": document}
