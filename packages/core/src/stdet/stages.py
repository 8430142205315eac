"""The stages of a run: each reads a model file, writes a file or a report, and knows nothing of the others."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from stdet import calibration, judgement
from stdet.artifacts import sha256_file, write_json
from stdet.build import Builder, flat_settings
from stdet.engine.checkpoint import read_checkpoint, seed_everything, spec_of
from stdet.engine.trainer import Trainer
from stdet.errors import ArtifactError, ConfigError, DataError, ModelError, Rejected
from stdet.evaluation import coco
from stdet.evaluation.plots import contact_sheet, draw_detections, plot_history, plot_precision_recall, save_image
from stdet.evaluation.postprocess import detect
from stdet.evaluation.predictors import OnnxPredictor, Predictor, TorchPredictor, is_quantized
from stdet.export.metadata import ACCURACY_KEY, copy_with_property, is_unfit_for_accuracy, read_spec
from stdet.export.onnx import export_onnx
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import BenchReport, CalibrationData, Evaluator
from stdet.interfaces.detector import Detector
from stdet.interfaces.published import IMAGENET
from stdet.interfaces.reporter import Reporter
from stdet.interfaces.tracker import Tracker
from stdet.nn.distributed import from_main, is_main
from stdet.nn.fetch import fetch_weights
from stdet.nn.precision import choose_precision
from stdet.nn.weights import load_weights, read_state_dict
from stdet.structures import DetectorSpec, Table
from stdet.tracking import MlflowTracker, TensorBoardTracker, Trackers

log = logging.getLogger(__name__)

PICTURE_THRESHOLD = 0.25
"""Score from which predictions are drawn when the config gives no confidence_thresh: the evaluation's 0.001 would bury
every picture in boxes."""
PICTURES = 12
"""Images of the evaluation set that are drawn."""


SHARED = frozenset({"train", "evaluate"})
"""Stages that several processes do together; the others are the main process's alone."""


@dataclass
class Run:
    """One run: its builder, its folder, and the model file that the last stage left.

    Attributes:
        folder: everything the run writes lies in it.
        models: `folder` / `general.saved_models_dir`.
        model: what the next stage works on: a checkpoint, a float ONNX or an int8 ONNX; None before the first.
        float_onnx: the float ONNX of this run, once there is one.
        tables: what people should see beside the summary.
    """

    builder: Builder
    folder: Path
    reporter: Reporter
    model: Path | None = None
    float_onnx: Path | None = None
    results: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.folder / self.builder.config.general.saved_models_dir

    def do(self, name: str) -> None:
        """Do the stage `name`; every process ends up with the main process's model file."""
        self.reporter.stage(name)
        if is_main() or name in SHARED:
            globals()[name](self)
        self.model, self.float_onnx = from_main(lambda: (self.model, self.float_onnx))

    def record(self, stage: str, result: Any) -> None:
        """Keep the result of a stage and write `run.json`, so that a later failure loses nothing."""
        self.results[stage] = result
        if not is_main():
            return
        write_json(self.folder / "run.json", self.document())

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"format": "stdet.run/1", "run_dir": str(self.folder), "stages": self.results}


# --- train -------------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train, leave checkpoints, curves and `history.json`; the run's model becomes the best checkpoint."""
    builder, config = run.builder, run.builder.config
    seed_everything(config.general.global_seed)
    train_set = builder.dataset("train", builder.class_names())
    spec = builder.spec(train_set.class_names)
    validation = builder.dataset("val", spec.class_names)
    detector = builder.detector(spec)
    detector.use_training_options(config.options.training)
    resume = from_main(lambda: _resume_path(run))
    if resume is None:
        _start_weights(run, detector)
    device = builder.device()
    detector.to(device)
    loader = builder.train_loader(train_set, spec)
    settings = builder.train_settings()
    precision = choose_precision(device, config.training.fp16)
    run.reporter.note(
        f"{spec.model_name}: {len(train_set)} training and {len(validation)} validation images, "
        f"{spec.num_classes} classes, {device}, {precision.description}"
    )
    if settings.quantization_aware:
        run.reporter.note(
            f"training with {settings.quantization_aware} weights and 8-bit activations simulated: the validation scores "
            "are those of the simulated int8 model, the checkpoints hold its float weights"
        )
    with _trackers(run) as tracker:
        trainer = Trainer(
            detector,
            loader,
            builder.optimizer(detector),
            builder.scheduler(builder.schedule_length(-(-len(loader) // settings.accumulate))),
            lambda model: _validate(run, model, validation),
            precision,
            settings,
            run.models,
            tracker,
            run.reporter,
        )
        if resume:
            trainer.resume(resume, config.training.start_epoch or None)
        result = trainer.fit()
        tracker.scalars(settings.epochs, {"final/best_AP": result.best_score})
    if not is_main():
        return
    write_json(run.models / "history.json", {"format": "stdet.history/1", "epochs": result.history})
    plot_history(result.history, run.folder / "curves.png")
    run.model = result.best
    run.record(
        "train",
        {
            "best_checkpoint": str(result.best),
            "latest_checkpoint": str(result.latest),
            "best_epoch": result.best_epoch,
            "best_AP": result.best_score,
            "best_AP50": max((row["AP50"] for row in result.history if "AP50" in row), default=None),
            "seconds": result.seconds,
            "curves": str(run.folder / "curves.png"),
        },
    )


def _start_weights(run: Run, detector: Detector) -> None:
    """Fine-tuning: load `model.model_path`, or the published weights that `model.pretrained` asks for.

    Heads of another class count keep their fresh start; of a classifier (`pretrained_dataset: imagenet`) the backbone
    takes what fits.
    """
    section = run.builder.config.model
    path, backbone = section.model_path, section.pretrained and section.pretrained_dataset == IMAGENET
    if path is None and section.pretrained:
        path, backbone = _published(run)
    if path is None:
        return
    summary = (
        f"{detector.load_backbone(read_state_dict(path))}, from {path}"
        if backbone
        else load_weights(detector, path).summary()
    )
    run.reporter.note(summary)


def _published(run: Run) -> tuple[Path, bool]:
    """The published weights that the config asks for, on disk, and whether they are a classifier's.

    Every process of a training looks for itself: they need not share a disk.
    """
    weights = run.builder.published_weights()
    mirror = run.builder.config.model.weights_from
    path = fetch_weights(weights, mirror, lambda done, total: run.reporter.progress(weights.file, done, total))
    return path, weights.backbone


def _validate(run: Run, model: Detector, dataset: DetectionDataset) -> Mapping[str, float]:
    report = _evaluate(run, TorchPredictor(model, run.builder.device()), model.spec, dataset, "validation")
    return report.scalars()


def _trackers(run: Run) -> Trackers:
    config = run.builder.config
    if not is_main():
        return Trackers()
    trackers: list[Tracker] = []
    if config.general.logger == "tensorboard":
        trackers.append(TensorBoardTracker(run.models / "tensorboard"))
    if config.mlflow.uri:
        try:
            trackers.append(MlflowTracker(config.mlflow.uri, config.general.project_name, run.folder.name))
        except ImportError:
            run.reporter.note(
                "mlflow.uri: nothing goes to MLflow, it is not installed (pip install 'stdet-core[mlflow]')"
            )
    together = Trackers(*trackers)
    together.params(flat_settings(config))
    return together


def _resume_path(run: Run) -> Path | None:
    """`training.resume_training_from`: a path, or with `auto` the newest interrupted run beside this one, if any."""
    wanted = run.builder.config.training.resume_training_from
    if not wanted:
        return None
    if wanted != "auto":
        return Path(wanted)
    epochs = run.builder.config.training.epochs
    pattern = f"*/{run.builder.config.general.saved_models_dir}/latest_ckpt.pth"
    for path in sorted(run.folder.parent.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
        state = read_checkpoint(path)
        if state["spec"]["model_name"] == run.builder.config.model.model_name and state["epoch"] < epochs:
            return path
    run.reporter.note(f"resume_training_from: auto found no unfinished run beside {run.folder}; starting anew")
    return None


# --- export ------------------------------------------------------------------------------------------------------------


def export(run: Run) -> None:
    """Write the float ONNX of the run's checkpoint; it becomes the run's model."""
    checkpoint = _source(run)
    if checkpoint is not None and checkpoint.suffix == ".onnx":
        raise ConfigError(
            f"model.model_path {checkpoint} is an ONNX file already", "give a checkpoint (.pth) to export"
        )
    detector = _detector(run, checkpoint)
    path = run.models / f"{detector.spec.model_name}.onnx"
    provenance = {"checkpoint": checkpoint.name, "checkpoint_sha256": sha256_file(checkpoint)} if checkpoint else {}
    report = export_onnx(detector, path, provenance=provenance)
    run.model = run.float_onnx = path
    run.record("export", dataclasses.asdict(report) | {"path": str(path)})


def _source(run: Run) -> Path | None:
    """The model file to work on: of the stage before, else `model.model_path`, else the published one."""
    section = run.builder.config.model
    path = run.model or section.model_path
    if path is None and section.pretrained:
        path, _ = _published(run)
    if path is None:
        return None
    if not Path(path).is_file():
        raise ArtifactError(f"no model file at {path}", "check model.model_path")
    return Path(path)


def _detector(run: Run, checkpoint: Path | None) -> Detector:
    """The torch model of a checkpoint. Without one only a benchmark may go on: its numbers don't depend on weights."""
    builder = run.builder
    if checkpoint is None:
        if builder.config.operation_mode != "benchmarking":
            raise ModelError(
                "there are no weights to work with", "set model.model_path to a checkpoint or an ONNX file"
            )
        run.reporter.note("no model.model_path: benchmarking the architecture with random weights")
        return builder.detector(builder.spec_without_data())
    spec = _checkpoint_spec(run, checkpoint)
    detector = builder.detector(spec)
    report = load_weights(detector, checkpoint, allow_skipped=False)
    log.info("%s", report.summary())
    return detector


def _checkpoint_spec(run: Run, checkpoint: Path) -> DetectorSpec:
    """A checkpoint of ours carries its spec; for a published file the config has to say it."""
    try:
        return spec_of(read_checkpoint(checkpoint))
    except ArtifactError:
        names = run.builder.class_names()
        if names is None:
            names = run.builder.dataset(run.builder.evaluation_split(), None).class_names
        return run.builder.spec(names)


# --- evaluate ----------------------------------------------------------------------------------------------------------


def evaluate(run: Run) -> None:
    """Score the run's model on the test set, or on the validation set when there is no test set."""
    source = _source(run)
    predictor, spec = _predictor(run, source)
    if source is not None and source.suffix == ".onnx" and is_unfit_for_accuracy(source):
        run.reporter.note(f"{source.name} was calibrated on noise: its score says nothing about int8")
    split = run.builder.evaluation_split()
    dataset = run.builder.dataset(split, spec.class_names, spec=spec)
    report = _evaluate(run, predictor, spec, dataset, split, source)
    if not is_main():
        return
    name = (
        "evaluate_int8"
        if source is not None and source.suffix == ".onnx" and is_quantized(source)
        else "evaluate_float"
    )
    report.save(run.folder / "reports" / f"{name}.json")
    picture = run.folder / "pictures" / f"{name}.jpg"
    _picture(run, predictor, spec, dataset, picture)
    curves = run.folder / "pictures" / f"{name}_precision_recall.png"
    plot_precision_recall(report.curves, curves)
    run.record(name, report.to_dict() | {"split": split, "picture": str(picture), "precision_recall": str(curves)})


def _picture(run: Run, predictor: Predictor, spec: DetectorSpec, dataset: DetectionDataset, path: Path) -> None:
    """The first images of the set with detections in colour and ground truth in white."""
    sheet = []
    for index in range(min(PICTURES, len(dataset))):
        image = dataset.read_image(index)
        found = detect(
            predictor, image, spec.preprocess, PICTURE_THRESHOLD, run.builder.config.postprocessing.NMS_thresh
        )
        sheet.append(draw_detections(image, found, spec.class_names, dataset.annotation(index).boxes))
    save_image(path, contact_sheet(sheet))


def _evaluate(
    run: Run,
    predictor: Predictor,
    spec: DetectorSpec,
    dataset: DetectionDataset,
    label: str,
    source: Path | None = None,
) -> coco.EvaluationReport:
    config = run.builder.config
    return coco.evaluate(
        predictor,
        dataset,
        spec.preprocess,
        confidence_thresh=config.postprocessing.confidence_thresh,
        nms_thresh=config.postprocessing.NMS_thresh,
        iou_eval_thresh=config.postprocessing.IoU_eval_thresh,
        max_detections=config.postprocessing.max_detection_boxes,
        batch_size=config.training.batch_size,
        num_workers=config.dataset.num_workers,
        progress=lambda done, total: run.reporter.progress(f"evaluate ({label})", done, total),
        model={"file": source.name, "sha256": sha256_file(source)} if source else None,
    )


def _predictor(run: Run, source: Path | None) -> tuple[Predictor, DetectorSpec]:
    """Something that predicts, from a checkpoint or an ONNX file, and its spec."""
    if source is not None and source.suffix == ".onnx":
        spec = _onnx_spec(run, source)
        return OnnxPredictor(source, run.builder.decoder(spec)), spec
    detector = _detector(run, source)
    return TorchPredictor(detector.to(run.builder.device()), run.builder.device()), detector.spec


def _onnx_spec(run: Run, path: Path) -> DetectorSpec:
    """The spec in an ONNX file's metadata, or for somebody else's file what the config and the graph say."""
    spec = read_spec(path)
    if spec is not None:
        return spec
    builder = run.builder
    family = builder.config.family
    if family is None:
        raise ModelError(
            f"{path} has no stdet metadata, so its outputs can't be read",
            "set model.model_type (and dataset.class_names)",
        )
    names = builder.class_names() or builder.dataset(builder.evaluation_split(), None).class_names
    return builder.foreign_spec(names, _onnx_input_size(path))


def _onnx_input_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of the first input, None where they are dynamic."""
    dims = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    height, width = (dim.dim_value for dim in dims[-2:])
    return (height, width) if height > 0 and width > 0 else None


# --- quantize ----------------------------------------------------------------------------------------------------------


def quantize(run: Run) -> None:
    """Write the int8 form of the run's float ONNX (exporting first if need be); it becomes the run's model."""
    source = _source(run)
    if source is None or source.suffix != ".onnx":
        export(run)
        source = run.model
    assert source is not None
    config = run.builder.config.quantization
    path = run.folder / config.export_dir / f"{source.stem}_qdq_int8.onnx"
    if config.operating_mode == "normalise":
        record = _into_int8(run, source, path, None, None)
        run.model = path
        run.record("quantize", {"path": str(path), "size_kib": path.stat().st_size / 1024, **record})
        return
    spec = _onnx_spec(run, source)
    evaluation = judgement.evaluation_set(run.builder, spec)
    images = _calibration(run, source, spec, evaluation)
    evaluator = None
    if evaluation is not None and config.operating_mode != "default":  # making one reads every image
        journal = run.folder.parent / "quantization_journal"
        evaluator = judgement.make_evaluator(run.builder, spec, evaluation, journal, run.reporter)
    unjudged = path if config.max_drop is None else path.with_name(f"{path.stem}_unjudged.onnx")
    record = _into_int8(run, source, unjudged, images, evaluator)
    run.float_onnx, run.model = source, path
    result = {"path": str(path), "float_path": str(source), **record}
    if config.max_drop is not None:
        assert evaluation is not None  # the config was checked for it
        result |= _judge(run, spec, unjudged, evaluation, record)
    assert run.model is not None
    run.record("quantize", result | {"path": str(run.model), "size_kib": run.model.stat().st_size / 1024})
    if run.model != path:
        report = result["drop"]
        raise Rejected(
            f"int8 loses {report['points'][report['metric']]:.2f} points of {report['metric']} against float "
            f"({report['floating'][report['metric']]:.4f} to {report['quantized'][report['metric']]:.4f}); "
            f"quantization.max_drop is {config.max_drop:g}",
            f"the file is kept as {run.model}; operating_mode: full_auto searches a recipe within the budget, "
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
    config, path = run.builder.config.quantization, run.model
    assert path is not None
    assert run.float_onnx is not None
    assert config.max_drop is not None
    report = judgement.compare_forms(run.builder, spec, run.float_onnx, unjudged, evaluation, run.reporter)
    worst = judgement.worst_of(report, record)
    run.tables += judgement.drop_tables(report, worst)
    within = report.drop <= config.max_drop
    document = report.to_dict() | {"worst": worst, "max_drop": config.max_drop, "within_budget": within}
    write_json(run.folder / "reports" / "quantization_drop.json", document)
    run.model = path if within else path.with_name(f"{path.stem}_over_budget.onnx")
    verdict = {key: document[key] for key in ("metric", "max_drop", "within_budget", "dataset_sha256", "thresholds")}
    scores = {"float": report.floating[report.metric], "int8": report.quantized[report.metric]}
    copy_with_property(unjudged, run.model, ACCURACY_KEY, verdict | scores)
    unjudged.unlink()
    return {"drop": document}


# --- predict -----------------------------------------------------------------------------------------------------------


def predict(run: Run) -> None:
    """Detections in every image of `dataset.prediction_path`: a picture each, and `predictions.json`."""
    config = run.builder.config
    folder = config.dataset.prediction_path
    if folder is None:
        raise ConfigError("prediction needs images", "set dataset.prediction_path to a folder")
    predictor, spec = _predictor(run, _source(run))
    dataset = run.builder.image_folder("prediction", folder, spec=spec)
    if not len(dataset):
        raise DataError(f"{folder} holds no image")
    given = "confidence_thresh" in config.postprocessing.model_fields_set
    threshold = config.postprocessing.confidence_thresh if given else PICTURE_THRESHOLD
    entries = []
    for index in range(len(dataset)):
        image = dataset.read_image(index)
        found = detect(
            predictor,
            image,
            spec.preprocess,
            threshold,
            config.postprocessing.NMS_thresh,
            config.postprocessing.max_detection_boxes,
        )
        name = dataset.annotation(index).path
        picture = run.folder / "predictions" / f"{name.stem if name else index}_predict.jpg"
        save_image(picture, draw_detections(image, found, spec.class_names))
        entries.append(
            {
                "image": str(name),
                "picture": str(picture),
                "detections": [
                    {"class": spec.class_names[label], "score": float(score), "box_xyxy": [float(v) for v in box]}
                    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
                ],
            }
        )
        run.reporter.progress("predict", index + 1, len(dataset))
    write_json(run.folder / "predictions" / "predictions.json", {"format": "stdet.predictions/1", "images": entries})
    run.record("predict", {"images": len(entries), "folder": str(run.folder / "predictions"), "threshold": threshold})


# --- bench -------------------------------------------------------------------------------------------------------------


def bench(run: Run) -> None:
    """Every backend of `benchmarking.backends` on the run's model, and on its float form for comparison."""
    source = _source(run)
    if source is None or source.suffix != ".onnx":
        export(run)
        source = run.model
    assert source is not None
    target = run.builder.target()
    models = [run.float_onnx] if run.float_onnx and run.float_onnx != source else []
    reports: list[BenchReport] = []
    for model in [*models, source]:
        for backend in run.builder.config.benchmarking.backends:
            reports.append(
                target.bench(model, backend, lambda done, total: run.reporter.progress("bench", done, total))
            )
    documents = [json.loads(json.dumps(dataclasses.asdict(report))) for report in reports]
    write_json(run.folder / "reports" / "bench.json", {"format": "stdet.bench/1", "reports": documents})
    run.record("bench", documents)
