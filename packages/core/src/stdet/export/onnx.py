"""Export to ONNX: static shapes, BatchNorm folded, checked against torch, written atomically."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from stdet.artifacts import sha256_file, write_bytes
from stdet.data.preprocess import normalize
from stdet.errors import ExportError
from stdet.export.metadata import write_metadata
from stdet.extras import need
from stdet.interfaces.detector import Detector, ExportWrapper
from stdet.structures import Preprocess

OPSET = 17
"""The newest opset that ST's compilers list everywhere; per-channel QDQ needs 13."""
TOLERANCE = 1e-4
"""Largest deviation from torch, relative to the largest value of an output; see also `_rounding`."""
ROUNDINGS = 10
"""How many times as far as one step of float32 in its input moves a network it may deviate where that is more."""
PROBES = ((0, 256), (0, 32), (224, 256))
"""Ranges of the noise images of the parity check: all values, dark, bright. Images of one colour are no probe: there trained
layers cancel large numbers, and onnxruntime's kernels were off by 1e-3 in a graph that is right within 1e-6 elsewhere."""


@dataclass(frozen=True)
class ExportReport:
    """Attributes:
    path, sha256: the file.
    opset: of the default domain.
    outputs: name to shape.
    max_deviation: the largest difference from torch over all outputs and probe images, relative to the output's range.
    """

    path: str
    sha256: str
    opset: int
    outputs: dict[str, list[int]]
    max_deviation: float


def export_onnx(
    detector: Detector,
    path: Path,
    *,
    opset: int = OPSET,
    provenance: dict[str, Any] | None = None,
    made_with: dict[str, str] | None = None,
) -> ExportReport:
    """Write `detector` to `path` with batch 1 and the input size of its spec; the detector itself isn't changed.

    The input is called `input`, float32 (1, C, H, W), preprocessed outside the graph as the metadata says.

    Args:
        provenance: what the weights came from; versions are added.
        made_with: further distributions that took part, with their versions: whose the detector is.

    Raises:
        ExportError: the graph computes something else than torch, or can't be written.
        MissingExtraError: onnxruntime, which checks it, is not installed.
    """
    need("onnxruntime", "exporting to ONNX")
    wrapper = ExportWrapper(copy.deepcopy(detector).cpu().to(memory_format=torch.contiguous_format)).eval()
    spec = detector.spec
    example = torch.zeros(1, spec.preprocess.channels, *spec.preprocess.size)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Constant folding warns of slices it leaves alone, and torch of its newer exporter, whose graphs keep BatchNorm
        # apart and carry local functions that ST's compilers don't take.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            (example,),
            buffer,  # type: ignore[arg-type]
            input_names=["input"],
            output_names=list(detector.output_names),
            opset_version=opset,
            dynamo=False,
        )
    model = simplify(buffer.getvalue())
    onnx.checker.check_model(model, full_check=True)
    versions = {name: version(name) for name in ("stdet-core", "torch", "onnx")} | (made_with or {})
    write_metadata(model, spec, {"made_with": versions, **(provenance or {})})
    deviation = check_parity(wrapper, model, spec.preprocess)
    write_bytes(path, lambda file: file.write(model.SerializeToString(deterministic=True)))
    outputs = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    return ExportReport(str(path), sha256_file(path), opset, outputs, deviation)


def simplify(model: bytes) -> onnx.ModelProto:
    """Fold constants and drop no-ops, so that no Shape, Slice or Identity is left for the NPU compiler to stumble over.

    onnxruntime's basic level does that within the standard operators.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "simplified.onnx")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        simplified = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in simplified.graph.node}
    kept = [opset for opset in simplified.opset_import if opset.domain in used]
    del simplified.opset_import[:]
    simplified.opset_import.extend(kept)
    return simplified


def check_parity(wrapper: ExportWrapper, model: onnx.ModelProto, preprocess: Preprocess) -> float:
    """Run torch and onnxruntime on noise, also dark and bright; the largest deviation relative to the output's range.

    Raises:
        ExportError: it is above `TOLERANCE`; names the output.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = (1, preprocess.channels, *preprocess.size)
    rng = np.random.default_rng(0)
    worst = 0.0
    for low, high in PROBES:
        images = normalize(rng.integers(low, high, shape).astype(np.uint8), preprocess)
        with torch.no_grad():
            expected = [t.numpy() for t in wrapper(torch.from_numpy(images))]
        for name, want, got in zip(
            wrapper.detector.output_names, expected, session.run(None, {"input": images}), strict=True
        ):
            if want.shape != got.shape:
                raise ExportError(f"output `{name}` has shape {got.shape} in ONNX and {want.shape} in torch")
            deviation = _deviation(want, got)
            if not deviation <= TOLERANCE and not deviation <= ROUNDINGS * _rounding(wrapper, images, name, want):
                raise ExportError(
                    f"output `{name}` of the ONNX graph is off by {deviation:.2e} of its range; allowed {TOLERANCE:.0e}",
                    "this is a bug in the model's export_outputs or in the exporter: please report it with the config",
                )
            worst = max(worst, deviation)
    return worst


def _deviation(want: np.ndarray, got: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(want - got).max() / max(np.abs(want).max(), 1e-6))


def _rounding(wrapper: ExportWrapper, images: np.ndarray, name: str, want: np.ndarray) -> float:
    """How far an output moves when every input value goes to the next float32.

    A network with channels that were next to dead in training (a BatchNorm variance of 1e-8) magnifies rounding on noise by
    some thousand times: torch itself is then off from float64 by more than the tolerance.
    """
    with torch.no_grad():
        moved = wrapper(torch.from_numpy(np.nextafter(images, np.float32(np.inf))))
    return _deviation(want, moved[wrapper.detector.output_names.index(name)].numpy())
