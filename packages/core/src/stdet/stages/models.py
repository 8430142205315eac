"""The model file that a stage works on, and what can be made of it: a network, a predictor, a float ONNX."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from stdet.artifacts import ModelFile, sha256_file
from stdet.engine.checkpoint import saved_spec
from stdet.errors import ConfigError, ModelError
from stdet.evaluation.predictors import OnnxPredictor, PlacedPredictor, Predictor, TorchPredictor
from stdet.export.metadata import read_spec
from stdet.export.onnx import export_onnx
from stdet.interfaces.detector import Detector
from stdet.interfaces.target import HOST
from stdet.nn.distributed import rank
from stdet.nn.fetch import fetch_weights
from stdet.nn.weights import load_weights
from stdet.runs.results import Exported
from stdet.stages.foreign import foreign_predictor, foreign_spec, plain
from stdet.stages.run import Run
from stdet.structures import DetectorSpec

log = logging.getLogger(__name__)


def model_file(run: Run) -> ModelFile | None:
    """The model file to work on: of the stage before, else `model.model_path`, else the published one."""
    section = run.builder.config.model
    if run.model is not None:
        return run.model
    path = section.model_path
    if path is None and section.pretrained:
        path, _ = published(run)
    if path is None:
        return None
    file = ModelFile.at(path)
    return plain(run, file) if file.is_onnx else file


def detector_of(run: Run, checkpoint: ModelFile | None) -> Detector:
    """The torch model of a checkpoint. Without one only a benchmark may go on: its numbers don't depend on weights.

    Raises:
        ModelError: there is no checkpoint, and more than a benchmark is asked for.
    """
    builder = run.builder
    if checkpoint is None:
        if builder.config.mode.stages != ("bench",):
            raise ModelError(
                "there are no weights to work with", "set model.model_path to a checkpoint or an ONNX file"
            )
        run.reporter.note("no model.model_path: benchmarking the architecture with random weights")
        return builder.detector(builder.spec_without_data())
    spec = checkpoint_spec(run, checkpoint.path)
    detector = builder.detector(spec)
    report = load_weights(detector, checkpoint.path, allow_skipped=False)
    log.info("%s", report.summary())
    return detector


def checkpoint_spec(run: Run, checkpoint: Path) -> DetectorSpec:
    """A checkpoint of ours carries its spec, all but the input size, which the config may change; for a published file
    the config has to say it. Where nothing names the classes, `model.num_classes` numbers them."""
    builder, spec = run.builder, saved_spec(checkpoint)
    if spec is None:
        names, split = builder.class_names(), builder.evaluation_split()
        if names is None and builder.config.model.num_classes and not builder.config.can_read(split):
            run.reporter.note(f"nothing names the {builder.config.model.num_classes} classes: they are numbered")
            return builder.spec_without_data()
        return builder.spec(names or builder.dataset(split, None).class_names)
    shape = builder.config.model.input_shape
    if shape is None or shape[1:] == spec.preprocess.size:
        return spec
    run.reporter.note(f"{checkpoint.name} learned at {_size(spec.preprocess.size)}, and is taken at {_size(shape[1:])}")
    return dataclasses.replace(spec, preprocess=spec.preprocess.with_size(*shape[1:]))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def onnx_file(run: Run) -> ModelFile:
    """The model file, exported first when it is a checkpoint."""
    source = model_file(run)
    return source if source is not None and source.is_onnx else export_checkpoint(run, source)


def export_checkpoint(run: Run, checkpoint: ModelFile | None) -> ModelFile:
    """Write the float ONNX of a checkpoint; it becomes the run's model."""
    detector = detector_of(run, checkpoint)
    path = run.models / f"{detector.spec.model_name}.onnx"
    provenance = {}
    if checkpoint is not None:
        provenance = {"checkpoint": checkpoint.path.name, "checkpoint_sha256": sha256_file(checkpoint.path)}
    owner = run.builder.catalogue.entry("models", detector.spec.model_name)
    report = export_onnx(detector, path, provenance=provenance, made_with={owner.distribution: owner.version})
    exported = run.model = run.float_onnx = ModelFile(path, "float")
    run.record.add(Exported(exported, report))
    return exported


def published(run: Run) -> tuple[Path, bool]:
    """The published weights that the config asks for, on disk, and whether they are a classifier's.

    Every process of a training looks for itself: they need not share a disk.
    """
    weights = run.builder.published_weights()
    mirror = run.builder.config.model.weights_from
    path = fetch_weights(weights, mirror, lambda done, total: run.reporter.progress(weights.file, done, total))
    return path, weights.backbone


def place_of(run: Run, source: ModelFile | None, wanted: str) -> str:
    """Where a model runs. In a chain that quantizes, the float form that int8 is compared with stays on the host."""
    if wanted == HOST or not run.builder.config.mode.quantizes or (source is not None and source.kind == "int8"):
        return wanted
    run.reporter.note(f"the float model runs on the host; {wanted} is for its int8 form")
    return HOST


def predictor_of(run: Run, source: ModelFile | None, place: str) -> tuple[Predictor, DetectorSpec]:
    """Something that predicts, from a checkpoint or an ONNX file, and its spec.

    Args:
        place: where the network runs, see `place_of`.

    Raises:
        ModelError: a checkpoint can't run there.
        StdetError: nor can the ONNX file, or what it takes isn't here.
    """
    if source is not None and source.is_onnx:
        spec = onnx_spec(run, source.path)
        own = read_spec(source.path) is not None
        host = OnnxPredictor(source, run.builder.decoder(spec)) if own else foreign_predictor(run, source, spec)
        return host if place == HOST else _placed(run, source, host, place), spec
    if place != HOST:
        raise ModelError(f"a checkpoint can't run at {place}", "export or quantize it first, and name the ONNX file")
    detector = detector_of(run, source)
    device = run.builder.device()
    return TorchPredictor(detector.to(device), device, run.reporter.note), detector.spec


def _placed(run: Run, source: ModelFile, host: OnnxPredictor, place: str) -> PlacedPredictor:
    folder = run.folder / place / (f"process_{rank()}" if rank() else "")  # each process makes its own
    folder.mkdir(parents=True, exist_ok=True)
    run.reporter.note(f"{source.path.name} runs at {place}")
    section = "prediction" if run.builder.config.mode.predicts else "evaluation"
    return PlacedPredictor(host, run.builder.target().network(source.path, place, folder, section))


def onnx_spec(run: Run, path: Path) -> DetectorSpec:
    """The spec in an ONNX file's metadata, or for somebody else's file what the config and the graph say.

    Raises:
        ConfigError: the config names another head than the file.
    """
    spec, head = read_spec(path), run.builder.config.model.head
    if spec is None:
        return foreign_spec(run, path)
    if head is None or head == spec.box_coding:
        return spec
    if spec.box_coding:
        raise ConfigError(
            f"model.head is {head}, but {path} says of itself that it is {spec.box_coding}", "leave it out"
        )
    return dataclasses.replace(spec, box_coding=head)
