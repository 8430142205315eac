"""Small hand-made networks and images; every builder is a fixture, since test folders aren't packages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.section import Quantization

SIZE = 16


@pytest.fixture
def shared() -> Path:
    """Folder of the shared models and photographs."""
    folder = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[4] / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data here")
    return folder


@pytest.fixture
def section() -> Callable[..., Quantization]:
    """A `quantization` section; keys of the nested sections are given as `params` and `extra`."""

    def build(params: dict[str, Any] | None = None, extra: dict[str, Any] | None = None, **keys: Any) -> Quantization:
        nested = {"onnx_quant_parameters": params or {}, "onnx_extra_options": extra or {}}
        return Quantization.model_validate(keys | nested)

    return build


@pytest.fixture
def graph() -> Callable[..., ModelProto]:
    """A model from nodes, constants and the shapes of inputs and outputs."""

    def build(
        nodes: list[onnx.NodeProto],
        constants: dict[str, np.ndarray],
        inputs: dict[str, list[Any]],
        outputs: dict[str, list[Any]],
        opset: int = 17,
    ) -> ModelProto:
        made = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            made, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports, ignore_unknown=True)
        )
        onnx.checker.check_model(model)
        return model

    return build


@pytest.fixture
def detector(graph: Callable[..., ModelProto]) -> Callable[..., ModelProto]:
    """A detector in miniature: dense, depthwise and pointwise convolutions, SiLU, residual add, concat, transpose."""

    def build(opset: int = 17, batch: Any = 1, size: Any = SIZE, residual: bool = True) -> ModelProto:
        rng = np.random.default_rng(3)

        def weight(*shape: int) -> np.ndarray:
            return rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

        conv = helper.make_node
        nodes = [
            conv("Conv", ["image", "w0", "b0"], ["c0"], "stem", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            conv("Relu", ["c0"], ["r0"], "stem_relu"),
            conv("Conv", ["r0", "w1", "b1"], ["c1"], "depthwise", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8),
            conv("Sigmoid", ["c1"], ["s1"], "silu_sigmoid"),
            conv("Mul", ["c1", "s1"], ["m1"], "silu_mul"),
            conv("Conv", ["m1", "w2", "b2"], ["c2"], "pointwise", kernel_shape=[1, 1]),
            conv("Add", ["c2", "r0"], ["a2"], "residual") if residual else conv("Relu", ["c2"], ["a2"], "relu2"),
            conv("Conv", ["a2", "w3", "b3"], ["boxes"], "box_head", kernel_shape=[1, 1]),
            conv("Conv", ["a2", "w4", "b4"], ["logits"], "score_head", kernel_shape=[1, 1]),
            conv("Sigmoid", ["logits"], ["scores"], "score_sigmoid"),
            conv("Concat", ["boxes", "scores"], ["joined"], "join", axis=1),
            conv("Reshape", ["joined", "flat"], ["rows"], "flatten"),
            conv("Transpose", ["rows"], ["output"], "to_rows", perm=[0, 2, 1]),
        ]
        constants = {
            "w0": weight(8, 3, 3, 3) / 128, "b0": rng.normal(0, 0.1, 8).astype(np.float32),
            "w1": weight(8, 1, 3, 3), "b1": rng.normal(0, 0.1, 8).astype(np.float32),
            "w2": weight(8, 8, 1, 1), "b2": rng.normal(0, 0.1, 8).astype(np.float32),
            "w3": weight(4, 8, 1, 1), "b3": rng.normal(0, 0.1, 4).astype(np.float32),
            "w4": weight(2, 8, 1, 1), "b4": np.full(2, -1, np.float32),
            "flat": np.array([0, 6, -1], np.int64),
        }  # fmt: skip
        anchors = (size // 2) ** 2 if isinstance(size, int) else "anchors"
        return graph(nodes, constants, {"image": [batch, 3, size, size]}, {"output": [batch, anchors, 6]}, opset)

    return build


@pytest.fixture
def saved(tmp_path: Path, detector: Callable[..., ModelProto]) -> Path:
    """The miniature detector as a file."""
    path = tmp_path / "float.onnx"
    onnx.save(detector(), path)
    return path


@pytest.fixture
def photos() -> Callable[..., CalibrationData]:
    """Seeded images, 0..255."""

    def build(count: int = 6, size: int = SIZE, value: float | None = None, channels: int = 3) -> CalibrationData:
        def image(index: int) -> np.ndarray:
            if value is not None:
                return np.full((1, channels, size, size), value, np.float32)
            pixels = np.random.default_rng(index).integers(0, 256, (1, channels, size, size))
            return pixels.astype(np.float32)

        digest = hashlib.sha256(f"{count} {size} {value}".encode()).hexdigest()
        return CalibrationData(image, count, digest, "seeded noise")

    return build


@pytest.fixture
def reader(photos: Callable[..., CalibrationData]) -> Callable[[], CalibrationDataReader]:
    """Makes what hands `photos` to onnxruntime's own pipeline, once through."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = photos().batches()

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            image = next(self.images, None)
            return None if image is None else {"image": image}

    return Reader
