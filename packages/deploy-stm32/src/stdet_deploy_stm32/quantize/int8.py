"""The way from a float ONNX file to a checked int8 one."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from stdet.artifacts import atomic_path, sha256_file
from stdet.errors import ArtifactError, QuantizationError
from stdet.export.metadata import QUANTIZATION_KEY, spec_of
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32 import __version__
from stdet_deploy_stm32.onnx_graph.session import new_session, random_inputs
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.form.borders import border_types, set_input_type, set_output_types
from stdet_deploy_stm32.quantize.form.check import Finding, check_form
from stdet_deploy_stm32.quantize.inspection import SqnrMeter
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.section import GeneralQuantization
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Work

log = logging.getLogger(__name__)

METADATA_KEY = QUANTIZATION_KEY
_SQNR_IMAGES = 8


@dataclass(frozen=True)
class Int8:
    """A model quantized in memory.

    Attributes:
        source: the float model, prepared.
        floating: what the method made of it before rounding: the same function, perhaps with equalized channels.
        inside: the QDQ form with float inputs and outputs.
        model: the same with the inputs and outputs that were asked for.
        record: of what was done; `save_int8` stores it.
    """

    source: ModelProto
    floating: ModelProto
    inside: ModelProto
    model: ModelProto
    record: dict[str, Any]


def quantize_onnx(
    model: Path,
    output: Path,
    calibration: CalibrationData,
    config: GeneralQuantization,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the int8 QDQ form of the float ONNX `model` to `output`, or nothing at all; see `make_int8`.

    Returns:
        The record that is also stored in the file's metadata under `stdet.quantization`.
    """
    made = make_int8(model, calibration, config, progress)
    save_int8(made, output)
    return made.record


def make_int8(
    model: Path, calibration: CalibrationData, config: GeneralQuantization, progress: Progress | None = None
) -> Int8:
    """The int8 QDQ form of the float ONNX `model`. The same model, images and options give the same bytes.

    Args:
        calibration: images, preprocessed; they are read one at a time, as often as the options need.
        progress: called after each calibration image, and after each layer that is adjusted.

    Raises:
        ArtifactError: `model` can't be read.
        QuantizationError: model, images or options don't allow it; the message says what and where.
    """
    work = _begin(model, calibration, config, progress)
    record: dict[str, Any] = {}
    for step in steps.STEPS:
        record |= step.run(work)
    return _finish(work, model, record)


def _begin(model: Path, calibration: CalibrationData, config: GeneralQuantization, progress: Progress | None) -> Work:
    settings = read_options(config)
    if calibration.count < 1:
        raise QuantizationError(
            f"no calibration images in {calibration.source}", "set dataset.quantization_path to a folder with images"
        )
    original = prepare(model, settings.target_opset)
    spec = spec_of(original, str(model))
    if library := steps.libraries().get(settings.quantizer):
        library.load()  # what is missing is told before the work begins
    return Work(settings, calibration, progress, original, spec, floating=original)


def _finish(work: Work, model: Path, done: dict[str, Any]) -> Int8:
    """Type the borders, prove the form and write the record."""
    settings, quantized = work.settings, work.placed()
    signal = SqnrMeter(work.original, work.calibration, _SQNR_IMAGES)(quantized)
    inside = ModelProto.FromString(quantized.SerializeToString())
    set_input_type(quantized, settings.input_type)
    set_output_types(quantized, settings.output_type)
    findings = check_form(quantized)
    _refuse_unasked(findings, settings)
    record = _record(model, work.calibration, settings, quantized, findings, signal) | done
    return Int8(work.original, work.floating, inside, quantized, record)


def save_int8(made: Int8, output: Path) -> None:
    """Store the record in the metadata and write the file.

    Raises:
        as `write_model`.
    """
    _store_metadata(made.source, made.model, made.record)
    write_model(made.model, output)


def asked_deviations(settings: Settings) -> set[str]:
    """Rules of the form that the options themselves give up."""
    asked = set()
    overridden = {o.quant_type for o in settings.activation_overrides}
    if settings.activation_type != "Int8" or overridden - {None, "Int8"}:
        asked.add("activation-type")
    weights = settings.weight_overrides
    types = {settings.weight_type, *(o.quant_type or settings.weight_type for o in weights)}
    if not settings.quantize_bias or settings.activation_overrides or any(o.axis is None for o in weights):
        asked.add("bias")
    if types != {"Int8"}:
        asked.add("weight-type")
    if (
        not settings.weight_symmetric
        or any(t.startswith("U") for t in types)
        or any(any(o.zero_point or ()) for o in weights)
    ):
        asked.add("weight-asymmetric")
    if not settings.per_channel or any(o.axis is None for o in weights):
        asked.add("weight-per-tensor")
    if settings.nodes or settings.exclude or settings.op_types:
        asked |= {"weight-float", "bias"}
    return asked


def _refuse_unasked(findings: list[Finding], settings: Settings) -> None:
    broken = [f for f in findings if f.level == "error" and f.rule not in asked_deviations(settings)]
    if broken:
        raise QuantizationError(
            "the quantized model isn't in the form that the compiler takes: "
            + "; ".join(f"{f.where}: {f.message}" for f in broken[:5])
            + (f" and {len(broken) - 5} more" if len(broken) > 5 else ""),
            "export the model with constant weights and plain operators, or exclude these nodes in nodes_to_exclude",
        )


def _record(
    model: Path,
    calibration: CalibrationData,
    settings: Settings,
    quantized: ModelProto,
    findings: list[Finding],
    signal: dict[str, float],
) -> dict[str, Any]:
    names = ("quantizer", "method", "per_channel", "weight_type", "activation_type", "weight_symmetric",
             "activation_symmetric", "quantize_bias", "input_type", "output_type", "target_opset")  # fmt: skip
    options = {name: getattr(settings, name) for name in names}
    for step in steps.STEPS:
        options |= step.recorded(settings)
    return {
        "format": "stdet.quantization/1",
        "float_model": {"name": model.name, "sha256": sha256_file(model)},
        "options": options,
        "overrides": [o.tensor for o in (*settings.weight_overrides, *settings.activation_overrides)],
        "calibration": {
            "images": calibration.count,
            "sha256": calibration.sha256,
            "source": calibration.source,
            "fit_for_accuracy": calibration.source != "random",
        },
        "versions": {
            "stdet-deploy-stm32": __version__,
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
        },
        "borders": border_types(quantized),
        "sqnr_db": signal,
        "float_operators": _float_operators(quantized, findings),
        "form": [f"{f.level} {f.rule}: {f.where}: {f.message}" for f in findings],
    }


def _float_operators(quantized: ModelProto, findings: list[Finding]) -> list[dict[str, str]]:
    """What computes on float tensors, so on the CPU."""
    names = {f.where for f in findings if f.rule in ("float", "weight-float")}
    return [{"layer": n.name, "op_type": n.op_type} for n in quantized.graph.node if n.name in names]


def _store_metadata(floating: ModelProto, quantized: ModelProto, record: dict[str, Any]) -> None:
    carried = {e.key: e.value for e in floating.metadata_props}
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, carried | {METADATA_KEY: json.dumps(record)})
    quantized.producer_name = "stdet-deploy-stm32"
    quantized.producer_version = __version__


def write_model(quantized: ModelProto, output: Path) -> None:
    """Check, run and only then give the file its name.

    Raises:
        QuantizationError: not valid ONNX.
        ArtifactError: it doesn't run, or `output` can't be written.
    """
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except Exception as error:  # the checker raises its own C++ exception classes
        raise QuantizationError(f"the quantized model isn't valid ONNX: {error}") from error
    with atomic_path(output) as temporary:
        temporary.write_bytes(quantized.SerializeToString(deterministic=True))
        session = new_session(temporary)
        for value, result in zip(session.get_outputs(), session.run(None, random_inputs(session)), strict=True):
            if list(result.shape) != list(value.shape) or not np.isfinite(result).all():
                raise ArtifactError(f"output `{value.name}` of the quantized model is {result.shape} or not finite")
    log.info("wrote %s", output)
