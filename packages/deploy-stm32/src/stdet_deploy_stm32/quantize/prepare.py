"""From anybody's float ONNX to the static, folded graph that quantization starts from."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, defs, helper, version_converter
from onnxruntime.quantization import quant_pre_process

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph.session import new_session, random_inputs
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs, is_quantized, opset, own_constants
from stdet_deploy_stm32.onnx_graph.view import dynamic_dimensions, fix_batch, load_model

log = logging.getLogger(__name__)


def prepare(path: Path, target_opset: int) -> ModelProto:
    """The float graph of `path`: batch 1, static shapes, `target_opset`, constants folded and batch norm merged.

    Raises:
        ArtifactError: not a readable ONNX file.
        QuantizationError: already quantized, more than one input, shapes that can't be fixed, operators that nobody
            knows, or an operator set that can't be brought to `target_opset`.
    """
    model = load_model(path)
    if is_quantized(model):
        raise QuantizationError(
            f"{path.name} is already quantized",
            "give the float model; quantization.operating_mode: normalise checks another tool's file and brings it into "
            "the form",
        )
    _one_input(model, path)
    fix_batch(model)
    model = _raise_opset(model, path, target_opset)
    name_nodes(model)
    _check_runs(model, path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    model = _fold(model, path)
    _check_static(model, path)
    name_nodes(model)  # folding makes new ones without a name
    own_constants(model)
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    return model


def _one_input(model: ModelProto, path: Path) -> None:
    inputs = graph_inputs(model)
    if len(inputs) != 1:
        raise QuantizationError(f"{path.name} has {len(inputs)} inputs; one image tensor is supported")
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise QuantizationError(f"input `{inputs[0].name}` of {path.name} isn't float32", "give the float model")
    names = {v.name for v in inputs}
    del model.graph.input[:]
    model.graph.input.extend(v for v in inputs if v.name in names)


def _raise_opset(model: ModelProto, path: Path, target: int) -> ModelProto:
    present = opset(model)
    if target < present:
        raise QuantizationError(
            f"quantization.target_opset is {target}, but {path.name} has opset {present}, which can't be lowered",
            f"set target_opset to {present} or more, or export the model with opset {target}",
        )
    if target > present:
        try:
            model = version_converter.convert_version(model, target)
        except Exception as error:  # onnx's C++ converter raises bare RuntimeError and its own classes
            raise QuantizationError(
                f"{path.name} can't be brought from opset {present} to {target}: {error}",
                f"export the model with opset {target}",
            ) from error
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return model


def name_nodes(model: ModelProto) -> None:
    """Give each node without a name, or with the name of one before it, a name of its own, in place."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)
        seen.add(node.name)


def _check_runs(model: ModelProto, path: Path) -> None:
    """Custom operators and contradictory shapes show here, before libraries trip over them."""
    foreign = sorted({f"{n.domain}:{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    unknown = sorted({n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx") and not defs.has(n.op_type)})
    if foreign or unknown:
        raise QuantizationError(
            f"{path.name} holds operators that can't be quantized: {', '.join((foreign + unknown)[:5])}",
            "export the model with operators of the standard ONNX domain",
        )
    if dynamic_dimensions(model):
        return  # reported once constants are folded, which may fix them
    session = new_session(model.SerializeToString())
    try:
        session.run(None, random_inputs(session))
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise QuantizationError(f"{path.name} can't be run: {error}", "the float model itself is broken") from error


def _fold(model: ModelProto, path: Path) -> ModelProto:
    """onnxruntime's own preparation: constant folding, batch-norm fusion, shape inference."""
    with tempfile.TemporaryDirectory() as folder:
        # As a file: given a model in memory, onnxruntime moves that model's own weights out into a scratch file.
        given, folded = Path(folder) / "given.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, given)
        try:
            quant_pre_process(given, folded, skip_symbolic_shape=True)
        except Exception as error:  # whatever onnxruntime or protobuf raise, the model is what they refuse
            raise QuantizationError(f"onnxruntime can't optimise {path.name}: {error}") from error
        return onnx.load(folded)


def _check_static(model: ModelProto, path: Path) -> None:
    dynamic = dynamic_dimensions(model)
    if dynamic:
        raise QuantizationError(
            f"{path.name} has dynamic shapes that can't be fixed: {', '.join(dynamic)}",
            "export the model with a fixed input size; only the batch dimension may be dynamic",
        )
    batch = graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value
    if batch != 1:
        raise QuantizationError(f"{path.name} has batch size {batch}; the device runs batch 1", "export with batch 1")
