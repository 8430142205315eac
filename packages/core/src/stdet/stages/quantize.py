"""Quantization, and the verdict on what it cost."""

from __future__ import annotations

from pathlib import Path

from stdet.artifacts import ModelFile, sha256_file, write_json
from stdet.errors import Rejected
from stdet.evaluation.coco import check_scorable
from stdet.evaluation.drop import Verdict
from stdet.export.metadata import ACCURACY_FORMAT, ACCURACY_KEY, add_spec, copy_with_property, read_spec
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationData, Evaluator, QuantizationResult
from stdet.quantizing import doctor, images, judge
from stdet.quantizing.choice import choose
from stdet.runs.results import NotQuantized, Quantized
from stdet.stages.foreign import foreign_predictor
from stdet.stages.models import onnx_file, onnx_spec
from stdet.stages.run import Run
from stdet.structures import DetectorSpec


def quantize(run: Run) -> None:
    """Write the int8 form of the run's float ONNX (exporting first if need be); it becomes the run's model.

    Raises:
        Rejected: int8 loses more than `quantization.max_drop`; the file is kept under another name.
    """
    source = onnx_file(run)
    config, target = run.builder.config.quantization, run.builder.config.target
    assert target is not None  # the config was checked for it
    needs = target.needs(config)
    path = run.folder / config.export_dir / f"{source.path.stem}_qdq_int8.onnx"
    if not needs.calibration:
        made = _into_int8(run, source.path, path, None, None)
        run.model = ModelFile(path, "int8")
        run.record.add(Quantized(run.model, path.stat().st_size, None, made.record))
        return
    spec = onnx_spec(run, source.path)
    evaluation = judge.evaluation_set(run.builder, spec)
    if config.max_drop is not None and evaluation is not None:
        check_scorable(evaluation, run.builder.evaluation_split())  # before the work
    calibration = _calibration(run, source.path, spec, evaluation)
    evaluator = None
    if evaluation is not None and needs.scorer:  # making one reads every image
        journal = run.folder.parent / "quantization_journal"
        evaluator = judge.make_evaluator(run.builder, spec, evaluation, journal, run.reporter)
    foreign = read_spec(source.path) is None
    if foreign and (config.max_drop is not None or evaluator is not None):
        foreign_predictor(run, source, spec)  # whether its outputs can be judged is told before the work
    unjudged = path if config.max_drop is None else path.with_name(f"{path.stem}_unjudged.onnx")
    made = _into_int8(run, source.path, unjudged, calibration, evaluator)
    if foreign and spec.class_names:
        add_spec(unjudged, spec, {"float_model": source.path.name, "float_sha256": sha256_file(source.path)})
    run.float_onnx, run.model, verdict = source, ModelFile(path, "int8"), None
    if config.max_drop is not None:
        assert evaluation is not None  # as above
        run.model, verdict = _judge(run, spec, source, unjudged, path, evaluation, made.worst)
    kept = run.model.path
    run.record.add(Quantized(run.model, kept.stat().st_size, source, made.record, verdict))
    if verdict is not None and not verdict.within_budget:
        raise Rejected(
            f"int8 loses {verdict.in_words}; quantization.max_drop is {config.max_drop:g}",
            "; ".join(filter(None, (f"the file is kept as {kept}", target.over_budget))),
        )


def _calibration(run: Run, source: Path, spec: DetectorSpec, evaluation: DetectionDataset | None) -> CalibrationData:
    """The images to calibrate on, examined; or noise, when the config wants it."""
    builder, count = run.builder, run.builder.config.quantization.random_calibration
    if count:
        run.reporter.note(f"calibrating on {count} noise images: the int8 file will be unfit for accuracy")
        return images.noise(count, spec, builder.config.dataset.seed)
    chosen = choose(builder, spec.class_names or None, spec)
    run.reporter.note(f"calibrating on {len(chosen)} images of {chosen.source}")
    trained_with = spec.preprocess if read_spec(source) is not None else None
    found = doctor.examine_files(builder, chosen, spec.class_names, trained_with, evaluation, run.reporter)
    return images.stream(chosen, spec, doctor.approved(found))


def _into_int8(
    run: Run, source: Path, path: Path, calibration: CalibrationData | None, evaluator: Evaluator | None
) -> QuantizationResult:
    """Let the target quantize, and keep what it has to say."""
    try:
        result = run.builder.target().quantize(
            source,
            path,
            calibration,
            run.builder.config.quantization,
            lambda done, total: run.reporter.progress("quantize", done, total),
            evaluator,
        )
    except Rejected as error:
        run.record.tables += error.tables
        run.record.add(NotQuantized(error.message, error.record))
        raise
    run.record.tables += result.tables
    return result


def _judge(
    run: Run,
    spec: DetectorSpec,
    source: ModelFile,
    unjudged: Path,
    path: Path,
    evaluation: DetectionDataset,
    worst: dict[str, str],
) -> tuple[ModelFile, Verdict]:
    """Compare float and int8, give the file the name that it deserves, and put the verdict into its metadata."""
    max_drop = run.builder.config.quantization.max_drop
    assert max_drop is not None
    made = ModelFile(unjudged, "int8")
    report = judge.compare_forms(run.builder, spec, source, made, evaluation, run.reporter)
    verdict = Verdict(report, worst | judge.worst_of(report), max_drop)
    run.record.tables += judge.drop_tables(verdict)
    write_json(run.folder / "reports" / "quantization_drop.json", verdict.to_dict())
    named = path if verdict.within_budget else path.with_name(f"{path.stem}_over_budget.onnx")
    copy_with_property(unjudged, named, ACCURACY_KEY, {"format": ACCURACY_FORMAT} | verdict.in_short())
    unjudged.unlink()
    return ModelFile(named, "int8"), verdict
