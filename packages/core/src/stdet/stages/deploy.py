"""A model as a folder for firmware."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from stdet.data.image_io import read_image
from stdet.errors import ModelError
from stdet.evaluation.postprocess import select
from stdet.export.metadata import is_unfit_for_accuracy
from stdet.interfaces.deploy import Deployment
from stdet.runs.results import Deployed
from stdet.stages.models import model_file, onnx_spec
from stdet.stages.run import Run
from stdet.structures import Detections, DetectorSpec, Thresholds

FOLDER = "firmware"
MAX_DETECTIONS = 100
"""Room for boxes where the config sets no limit: a device has no list that grows."""


def deploy(run: Run) -> None:
    """Write `firmware/` in the run's folder: the int8 model, and all that the device needs around it.

    Raises:
        ModelError: there is no model, or it isn't quantized.
    """
    source = model_file(run)
    if source is None or source.kind != "int8":
        raise ModelError(
            f"{source.path} isn't quantized" if source else "there is no model to deploy",
            "set model.model_path to an int8 ONNX file, or quantize before, with operation_mode: chain_qd",
        )
    spec = onnx_spec(run, source.path)
    decoder = run.builder.decoder(spec)
    thresholds = device_thresholds(run)

    def detect(outputs: Sequence[np.ndarray]) -> Detections:
        candidates = decoder.decode([torch.from_numpy(output) for output in outputs], spec.preprocess.size)
        return select(candidates, thresholds)[0]

    picture, name = _picture(run, spec)
    notes = ["Calibrated on noise: unfit for accuracy."] if is_unfit_for_accuracy(source.path) else []
    for note in notes:
        run.reporter.note(note)
    coding = decoder.box_coding()
    deployment = Deployment(source, spec, coding, thresholds, picture, name, detect, tuple(notes))
    report = run.builder.target().deploy(deployment, run.folder / FOLDER)
    run.record.add(Deployed(source, report, thresholds, name))


def device_thresholds(run: Run) -> Thresholds:
    """Those of predictions; where the config sets no limit of boxes, they have one all the same."""
    thresholds = run.builder.shown_thresholds()
    if thresholds.max_detections is None:
        thresholds = dataclasses.replace(thresholds, max_detections=MAX_DETECTIONS)
    return thresholds


def _picture(run: Run, spec: DetectorSpec) -> tuple[np.ndarray, str]:
    """A uint8 (H, W, 3) picture for the test vector: the first to predict on, else a drawing."""
    folder = run.builder.config.dataset.prediction_path
    if folder is not None:
        dataset = run.builder.image_folder("prediction", folder, spec=spec)
        path = dataset.annotation(0).path if len(dataset) else None
        if path is not None:
            return read_image(path), path.name
    return drawing(*spec.preprocess.size), "a drawing: there was no dataset.prediction_path"


def drawing(height: int, width: int) -> np.ndarray:
    """The same picture each time, uint8 (H, W, 3), a third larger than the network's input: discs and bars on a ramp."""
    rows, columns = height * 4 // 3, width * 4 // 3
    y, x = np.mgrid[:rows, :columns]
    picture = np.stack([x * 255 // columns, y * 255 // rows, (x + y) * 127 // (rows + columns) + 60], -1)
    for part, (cy, cx, radius) in enumerate([(0.3, 0.3, 0.15), (0.6, 0.7, 0.2), (0.75, 0.25, 0.1)]):
        inside = np.hypot(y - cy * rows, x - cx * columns) < radius * min(rows, columns)
        picture[inside] = (40 + 80 * part, 220 - 60 * part, 30 + 90 * part)
    picture[rows // 10 : rows // 6, columns // 2 :] = (250, 250, 240)
    return picture.astype(np.uint8)
