"""Somebody else's ONNX in the form that every stage takes: one image of a known size, without float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stdet.artifacts import ModelFile, write_bytes
from stdet.errors import ArtifactError
from stdet.export.metadata import read_spec
from stdet.extras import need
from stdet.onnx_file import OnnxFacts, admit

_CLOSE = 1e-3


def plain_form(
    file: ModelFile,
    output: Path,
    note: Callable[[str], object],
    size: tuple[int, int] | None = None,
    *,
    any_input: bool = False,
) -> ModelFile:
    """`file` when every stage can take it as it is, else `output`, which is written; `note` is told what was changed.

    Args:
        size: (height, width) that the config names.
        any_input: let what takes no image pass; for stages that feed none.

    Raises:
        ArtifactError: as `needs_change` and `write_plain`.
    """
    if read_spec(file.path) is not None:
        return file
    facts = admit(file.path)
    if facts.no_image and any_input:
        return file
    changes = needs_change(facts, size)
    if not changes:
        return file
    note(f"{file.path.name} is taken in another form: {'; '.join(changes)}")
    write_plain(facts, size, output)
    return ModelFile(output, file.kind)


def needs_change(facts: OnnxFacts, size: tuple[int, int] | None) -> list[str]:
    """What must be changed for the stages, each in words; empty for a file that is plain already.

    Args:
        size: (height, width) that the config names; None when it doesn't.

    Raises:
        ArtifactError: the file takes no image; it takes any size, and the config names none; or it takes another one.
    """
    image = facts.image
    if facts.size is None and size is None:
        raise ArtifactError(
            f"{facts.path} doesn't say the size of its image: {facts.describe()}",
            "set model.input_shape: [channels, height, width] to the size that the model was trained for",
        )
    if facts.size is not None and size is not None and facts.size != size:
        raise ArtifactError(
            f"model.input_shape says {size[0]} x {size[1]}, but the file's size is {facts.size[0]} x {facts.size[1]}: "
            f"{facts.describe()}",
            "leave model.input_shape out, or export the model for that size",
        )
    found = [f"its size is {size[0]} x {size[1]}"] if facts.size is None and size is not None else []
    if image.element == "float16":
        found.append("float16 is computed in float32")
    if image.shape is not None and image.shape[0] not in (None, 1):
        found.append(f"its batch of {image.shape[0]} becomes 1")
    return found


def write_plain(facts: OnnxFacts, size: tuple[int, int] | None, output: Path) -> None:
    """Write the plain form of `facts.path`; see `needs_change`.

    Raises:
        ArtifactError: its weights can't be read, or with one image it doesn't compute what it computes with its batch.
    """
    try:
        model = onnx.load(facts.path)
    except Exception as error:  # onnx raises its own kinds for weights beside the file that are missing or outside
        raise ArtifactError(f"{facts.path}: its weights can't be read: {error}", "keep them beside the file") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    _to_float32(model)
    whole = ModelProto.FromString(model.SerializeToString())
    height, width = facts.size or size or (0, 0)
    shape = facts.image.shape or (None, None, None, None)
    channels = shape[1] or 3
    batch = 1 if shape[0] is not None else "batch"
    element = model.graph.input[0].type.tensor_type.elem_type
    value = helper.make_tensor_value_info(kept[0].name, element, [batch, channels, height, width])
    model.graph.input[0].CopyFrom(value)
    del model.graph.value_info[:]
    for result in model.graph.output:  # shape inference says them anew
        result.type.tensor_type.ClearField("shape")
    if shape[0] not in (None, 1):
        _one_image(model, whole, (shape[0] or 1, channels, height, width), facts)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    write_bytes(output, lambda file: file.write(model.SerializeToString()))


def _to_float32(model: ModelProto) -> None:
    """Every float16 constant, cast and stated type; nothing happens to a model without."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT

    def widened(tensor: TensorProto) -> TensorProto:
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)

    for tensor in model.graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(widened(tensor))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == half:
                attribute.t.CopyFrom(widened(attribute.t))
            elif attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single


def _one_image(model: ModelProto, whole: ModelProto, shape: tuple[int, int, int, int], facts: OnnxFacts) -> None:
    """Let constants that name the batch name 1, in place, and prove that each image gets what it got in the batch."""
    batch = shape[0]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored |= {
        n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")
    }
    for node in model.graph.node:
        target = stored.get(node.input[1]) if node.op_type in ("Reshape", "Expand") and len(node.input) > 1 else None
        if target is not None:
            sides = numpy_helper.to_array(target).copy()
            if sides.ndim == 1 and sides.size and sides[0] == batch:
                sides[0] = 1
                target.CopyFrom(numpy_helper.from_array(sides, target.name))
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.float32)
    try:
        together = _run(whole, pixels)
        alone = _run(model, pixels[:1])
        same = all(
            a.shape == (1, *b.shape[1:])
            and np.allclose(a[0], b[0], rtol=_CLOSE, atol=_CLOSE * float(np.abs(b[0]).max()))
            for a, b in zip(alone, together, strict=True)
        )
    except Exception:  # onnxruntime's exceptions share no base class; a graph that holds its batch elsewhere can't run
        same = False
    if not same:
        raise ArtifactError(
            f"{facts.path} has batch size {batch} in its graph, not only at its input: {facts.describe()}",
            "export it with batch 1, which is what a device runs",
        )


def _run(model: ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    need("onnxruntime", "proving that one image gets what it gets in a batch")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, {session.get_inputs()[0].name: pixels})]
