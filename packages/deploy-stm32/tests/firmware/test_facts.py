"""What firmware needs of a model file, and files that it can't use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stdet.errors import ModelError
from stdet.structures import BoxCoding, DetectorSpec, Preprocess, Thresholds
from stdet_deploy_stm32.firmware.facts import read_firmware

Build = Callable[..., ModelProto]
SPEC = DetectorSpec("a_model", "a_type", ("cat", "dog"), Preprocess(32, 64), "yolox", (8, 16, 32))
CODING, LIMITS = BoxCoding("yolox", ("output",)), Thresholds(0.3, 0.5, 20)


@pytest.fixture
def shell() -> Build:
    """A graph with borders alone: what is between them doesn't matter here."""

    def build(
        inputs: dict[str, list[Any]] | None = None,
        outputs: dict[str, list[Any]] | None = None,
        kind: int = TensorProto.FLOAT,
        border: bool = True,
    ) -> ModelProto:
        inputs = inputs or {"images": [1, 3, 32, 64]}
        outputs = outputs or {"output": [1, 42, 7]}
        nodes = [helper.make_node("Identity", [next(iter(inputs))], ["x"])]
        if kind != TensorProto.FLOAT and border:
            nodes = [helper.make_node("DequantizeLinear", [next(iter(inputs)), "scale", "zero"], ["x"])]
            nodes += [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], [name]) for name in outputs]
        constants = {
            "scale": np.array(0.25, np.float32),
            "zero": np.array(7, helper.tensor_dtype_to_np_dtype(kind)),
        }
        graph = helper.make_graph(
            nodes,
            "shell",
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph)

    return build


def test_types_scales_and_rows_are_the_files(shell: Build) -> None:
    firmware = read_firmware(shell(kind=TensorProto.INT8), SPEC, CODING, LIMITS)
    assert (firmware.input.dtype, firmware.input.scale, firmware.input.zero_point) == (np.int8, 0.25, 7)
    assert (firmware.outputs[0].dtype, firmware.outputs[0].scale, firmware.outputs[0].zero_point) == (np.int8, 0.25, 7)
    assert firmware.rows == 4 * 8 + 2 * 4 + 1 * 2
    assert firmware.thresholds == LIMITS
    assert firmware.input_table()[0, :33:8].tolist() == [7, 39, 71, 103, 127]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"a": [1, 3, 32, 64], "b": [1, 1]}}, "2 inputs: a, b"),
        ({"inputs": {"images": ["batch", 3, 32, 64]}}, "`images` is not static: .*batch"),
        ({"inputs": {"images": [1, 3, 64, 32]}}, r"\[1, 3, 64, 32\]; the model's metadata says \[1, 3, 32, 64\]"),
        ({"outputs": {"output": [1, 42, 8]}}, r"output \[1, 42, 8\]; a_model with 2 classes has output \[1, 42, 7\]"),
        ({"outputs": {"a": [1, 42, 7], "b": [1, 42, 4]}}, "outputs are a .*, b"),
        ({"outputs": {"output": [1, "rows", 7]}}, "`output` is not static"),
        ({"kind": TensorProto.INT16}, "int16; the C code reads float32, int8 and uint8"),
        ({"kind": TensorProto.INT8, "border": False}, "no DequantizeLinear with one constant scale"),
    ],
)
def test_a_file_that_the_c_code_cannot_use_is_refused_with_the_reason(
    shell: Build, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_firmware(shell(**changes), SPEC, CODING, LIMITS)
    assert caught.value.hint


def test_a_convention_without_c_code_is_refused(shell: Build) -> None:
    with pytest.raises(ModelError, match="no C code for the box coding `polar`"):
        read_firmware(shell(), SPEC, BoxCoding("polar", ("output",)), LIMITS)
    with pytest.raises(ModelError, match="no C code"):
        read_firmware(shell(), SPEC, BoxCoding("ssd", ("output", "boxes")), LIMITS)


def test_a_list_of_boxes_without_a_limit_is_refused(shell: Build) -> None:
    with pytest.raises(ModelError, match="limit of boxes"):
        read_firmware(shell(), SPEC, CODING, Thresholds(0.3, 0.5))
