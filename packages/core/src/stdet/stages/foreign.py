"""Somebody else's ONNX: brought into the plain form, given a spec, and its outputs looked at before they are trusted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stdet.artifacts import ModelFile
from stdet.data.preprocess import normalize
from stdet.errors import ArtifactError, ModelError
from stdet.evaluation.predictors import OnnxPredictor
from stdet.export.plain import plain_form
from stdet.onnx_file import admit
from stdet.stages.run import Run
from stdet.structures import DetectorSpec, Preprocess


def plain(run: Run, file: ModelFile) -> ModelFile:
    """`file`, or its plain form in the run folder, which every later stage then takes too.

    Raises:
        ArtifactError: see `export.plain`.
    """
    config = run.builder.config
    target = config.target if config.mode.quantizes else None
    any_input = config.mode.stages == ("bench",) or bool(target and not target.needs(config.quantization).calibration)
    shape = config.model.input_shape
    output = run.models / f"{file.path.stem}_plain.onnx"
    made = plain_form(file, output, run.reporter.note, (shape[1], shape[2]) if shape else None, any_input=any_input)
    if made != file:
        run.model = made
    return made


def foreign_spec(run: Run, path: Path) -> DetectorSpec:
    """What the config and the graph say of a file without metadata; no classes when nothing names them."""
    builder, facts = run.builder, admit(path)
    shape = facts.image.shape
    spec = builder.foreign_spec(_class_names(run), path.stem, shape[1] if shape else None)
    size = facts.size or spec.preprocess.size
    spec = dataclasses.replace(spec, preprocess=spec.preprocess.with_size(*size))
    if not builder.config.preprocessing.model_fields_set:
        run.reporter.note(f"{path.name} doesn't say its preprocessing; taken: {_in_words(spec.preprocess)}")
    return spec


def foreign_predictor(run: Run, file: ModelFile, spec: DetectorSpec) -> OnnxPredictor:
    """What predicts with somebody else's file, once its outputs look like what they are said to be.

    Raises:
        ModelError: nothing says how they are read, or they are something else. The message says what the file is.
    """
    try:
        decoder = run.builder.decoder(spec)
        if not spec.class_names:
            raise ModelError(
                "nothing names its classes", "set dataset.class_names, in the order of the model's outputs"
            )
        predictor = OnnxPredictor(file, decoder)
        outputs = predictor.outputs(_probe(spec.preprocess))
        heads = run.builder.catalogue.heads()
        if file.kind == "float" and spec.box_coding in heads:
            run.builder.catalogue.decoder(spec.box_coding, spec).examine(outputs, spec.preprocess.size)
        _try_to_decode(predictor, outputs, spec)
    except (ModelError, ArtifactError) as error:
        raise ModelError(f"{file.path}: {error.message}. It is: {admit(file.path).describe()}", error.hint) from error
    return predictor


def _try_to_decode(predictor: OnnxPredictor, outputs: list[Tensor], spec: DetectorSpec) -> None:
    try:
        predictor.decode(outputs, spec.preprocess.size)
    except (RuntimeError, IndexError, ValueError) as error:  # torch, on outputs of another shape
        kind = spec.model_type or spec.box_coding
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise ModelError(
            f"its outputs {shapes} can't be read as those of {kind} with {spec.num_classes} classes",
            "give dataset.class_names all classes of the model in its order, and the right model.head or model.model_type",
        ) from error


def _probe(preprocess: Preprocess) -> Tensor:
    """Noise, preprocessed: float32 (1, C, H, W)."""
    shape = (1, preprocess.channels, *preprocess.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return torch.from_numpy(normalize(pixels, preprocess))


def _class_names(run: Run) -> tuple[str, ...]:
    """As the config or the evaluation set names them; none when there is neither."""
    builder = run.builder
    names = builder.class_names()
    if names is not None:
        return names
    split = builder.evaluation_split()
    if not builder.config.can_read(split):
        return ()
    return builder.dataset(split, None).class_names


def _in_words(p: Preprocess) -> str:
    return (
        f"{p.color_mode}, {p.resize_mode}, ((pixel * {p.scale:.4g} + {p.offset:.4g}) - {list(p.mean)}) / {list(p.std)}"
        "; the preprocessing section says otherwise"
    )
