"""What an ONNX file of ours says about itself, in its metadata properties. Inert JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from stdet.artifacts import write_bytes
from stdet.errors import ArtifactError
from stdet.structures import DetectorSpec

QUANTIZATION_KEY = "stdet.quantization"
"""Record of a deploy target's `quantize`; `calibration.fit_for_accuracy` in it is False for noise."""
ACCURACY_KEY, ACCURACY_FORMAT = "stdet.accuracy", "stdet.accuracy/2"
"""Verdict on an int8 file that was made under a budget; the first ones said no format and spelt `thresholds` otherwise."""
FORMAT_KEY, SPEC_KEY, PROVENANCE_KEY = "stdet.format", "stdet.spec", "stdet.provenance"
FORMAT = "1"


def write_metadata(model: onnx.ModelProto, spec: DetectorSpec, provenance: dict[str, Any]) -> None:
    """Set the properties in place."""
    onnx.helper.set_model_props(
        model,
        {
            FORMAT_KEY: FORMAT,
            SPEC_KEY: json.dumps(spec.to_dict()),
            PROVENANCE_KEY: json.dumps(provenance, sort_keys=True),
        },
    )


def read_spec(path: Path) -> DetectorSpec | None:
    """The spec in a file's metadata; None for a file that isn't ours.

    Raises:
        ArtifactError: not an ONNX file, or metadata of another format or damaged.
    """
    return spec_of(_load(path), str(path))


def spec_of(model: onnx.ModelProto, name: str) -> DetectorSpec | None:
    """As `read_spec`, of a model that is loaded already; errors call it `name`.

    Raises:
        ArtifactError: metadata of another format, or damaged.
    """
    found = _properties_of(model)
    if SPEC_KEY not in found:
        return None
    if found.get(FORMAT_KEY) != FORMAT:
        raise ArtifactError(f"{name} has metadata of format {found.get(FORMAT_KEY)}; this version reads {FORMAT}")
    try:
        return DetectorSpec.from_dict(json.loads(found[SPEC_KEY]))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{name}: the metadata {SPEC_KEY} is damaged: {error}") from error


def read_provenance(path: Path) -> dict[str, Any]:
    """What a file was made from; empty for a file that isn't ours.

    Raises:
        ArtifactError: not an ONNX file, or damaged metadata.
    """
    try:
        return dict(json.loads(_properties(path).get(PROVENANCE_KEY, "{}")))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: the metadata {PROVENANCE_KEY} is damaged: {error}") from error


def is_unfit_for_accuracy(path: Path) -> bool:
    """Whether an int8 file says that it was calibrated on noise.

    Raises:
        ArtifactError: not an ONNX file, or damaged metadata.
    """
    try:
        record = json.loads(_properties(path).get(QUANTIZATION_KEY, "{}"))
    except ValueError as error:
        raise ArtifactError(f"{path}: the metadata {QUANTIZATION_KEY} is damaged: {error}") from error
    return record.get("calibration", {}).get("fit_for_accuracy") is False


def read_accuracy(path: Path) -> float | None:
    """The score 0..1 that an int8 file says it reached; None when it says nothing, as files do that nobody has judged."""
    try:
        return float(json.loads(_properties(path).get(ACCURACY_KEY, "{}"))["int8"])
    except (ValueError, TypeError, KeyError):
        return None


def copy_with_property(source: Path, target: Path, key: str, document: dict[str, Any]) -> None:
    """Write the ONNX file `source` to `target`, atomically, with one more metadata property."""
    model = onnx.load(source)
    onnx.helper.set_model_props(model, _properties_of(model) | {key: json.dumps(document)})
    write_bytes(target, lambda file: file.write(model.SerializeToString(deterministic=True)))


def add_spec(path: Path, spec: DetectorSpec, provenance: dict[str, Any]) -> None:
    """Let the ONNX file at `path` say its spec, atomically; what else its metadata says stays."""
    model = onnx.load(path)
    kept = _properties_of(model)
    write_metadata(model, spec, provenance)
    onnx.helper.set_model_props(model, kept | _properties_of(model))
    write_bytes(path, lambda file: file.write(model.SerializeToString(deterministic=True)))


def _properties(path: Path) -> dict[str, str]:
    return _properties_of(_load(path))


def _properties_of(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"no model file at {path}", "check model.model_path") from error
    except Exception as error:  # protobuf raises its own kinds for a file that isn't ONNX
        raise ArtifactError(f"{path} is not a readable ONNX file: {error}") from error
