from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph import gradients
from stdet_deploy_stm32.onnx_graph.gradients import TorchGraph, no_gradient
from stdet_deploy_stm32.onnx_graph.operators import OPERATORS
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.prepare import prepare

Build = Callable[..., ModelProto]
RNG = np.random.default_rng(0)
INTS = {"axes": [1, 2], "shape": [0, -1], "starts": [1, -1], "ends": [3, -5], "by": [1, -2], "on": [1, 3],
        "pads": [0, 0, 1, 0, 0, 0, 0, 2], "parts": [1, 3], "sum_axes": [2, 3], "zero": [0], "pick": [2, 0],
        "copies": [1, 2, 1, 3], "whole": [2, 1, 1, 1]}  # fmt: skip
FLOATS = {
    "w": RNG.normal(0, 1, (6, 4, 3, 2)), "depthwise": RNG.normal(0, 1, (4, 1, 3, 3)), "up": RNG.normal(0, 1, (4, 3, 2, 2)),
    "b": RNG.normal(0, 1, 6), "c": RNG.normal(0, 1, (4, 1, 1)), "low": np.array(-0.5), "high": np.array(1.0),
    "m": RNG.normal(0, 1, (6, 5)), "gains": RNG.uniform(1, 2, 4), "twice": np.array([1, 1, 2, 2.0]), "half": np.array(0.5),
    "row": RNG.uniform(1, 2, 6), "twos": np.array(2.0),
}  # fmt: skip

CASES = [
    ("Conv", ["x", "w", "b"], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", ["x", "depthwise"], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [1, 2]}),
    ("Conv", ["x", "w"], {"dilations": [2, 3]}),
    ("Conv", ["x", "depthwise"], {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("ConvTranspose", ["x", "up"], {"strides": [2, 2], "pads": [1, 0, 1, 0], "output_padding": [1, 0]}),
    ("MaxPool", ["x"], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", ["x"], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1]}),
    ("AveragePool", ["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", ["x"], {}), ("GlobalMaxPool", ["x"], {}),
    ("Relu", ["x"], {}), ("LeakyRelu", ["x"], {"alpha": 0.2}), ("PRelu", ["x", "c"], {}), ("Clip", ["x", "low", "high"], {}),
    ("Clip", ["x", "", "high"], {}), ("HardSwish", ["x"], {}), ("HardSigmoid", ["x"], {"alpha": 0.3, "beta": 0.4}),
    ("HardSigmoid", ["x"], {}), ("Sigmoid", ["x"], {}), ("Tanh", ["x"], {}), ("Softmax", ["x"], {"axis": 1}),
    ("Exp", ["x"], {}), ("Abs", ["x"], {}), ("Neg", ["x"], {}), ("Identity", ["x"], {}), ("Dropout", ["x"], {}),
    ("Add", ["x", "c"], {}), ("Sub", ["x", "c"], {}), ("Mul", ["x", "c"], {}), ("Div", ["x", "c"], {}),
    ("Max", ["x", "c"], {}), ("Min", ["x", "c", "half"], {}), ("Concat", ["x", "x"], {"axis": -1}),
    ("Transpose", ["x"], {"perm": [0, 2, 3, 1]}), ("Transpose", ["x"], {}), ("Flatten", ["x"], {"axis": 2}),
    ("Reshape", ["x", "shape"], {}), ("Squeeze", ["x", "zero"], {}), ("Unsqueeze", ["x", "axes"], {}),
    ("Slice", ["x", "starts", "ends", "on", "by"], {}), ("Split", ["x", "parts"], {"axis": 1}),
    ("Gather", ["x", "pick"], {"axis": 1}), ("Pad", ["x", "pads", "half"], {}), ("ReduceMean", ["x"], {"axes": [2, 3]}),
    ("ReduceMean", ["x"], {"axes": [1], "keepdims": 0}), ("SpaceToDepth", ["x"], {"blocksize": 2}),
    ("Resize", ["x", "", "twice"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}),
    ("Resize", ["x", "", "twice"], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
    ("BatchNormalization", ["x", "gains", "gains", "gains", "gains"], {"epsilon": 0.01}),
    ("MatMul", ["x", "m"], {}),
    ("InstanceNormalization", ["x", "gains", "gains"], {"epsilon": 0.01}),
    ("GroupNormalization", ["x", "gains", "gains"], {"num_groups": 2, "epsilon": 0.01}),
    ("LayerNormalization", ["x", "row", "row"], {"epsilon": 0.01}), ("LayerNormalization", ["x", "row"], {"axis": 3}),
    ("Gelu", ["x"], {}), ("Gelu", ["x"], {"approximate": "tanh"}), ("Erf", ["x"], {}), ("Mish", ["x"], {}),
    ("Softplus", ["x"], {}), ("Softsign", ["x"], {}), ("Elu", ["x"], {"alpha": 0.7}), ("Elu", ["x"], {}),
    ("Celu", ["x"], {"alpha": 0.7}), ("Selu", ["x"], {}), ("Selu", ["x"], {"alpha": 1.5, "gamma": 1.1}),
    ("ReduceSum", ["x", "sum_axes"], {}), ("ReduceSum", ["x", "sum_axes"], {"keepdims": 0}), ("ReduceSum", ["x"], {}),
    ("ReduceSum", ["x"], {"noop_with_empty_axes": 1}), ("ReduceMax", ["x", "sum_axes"], {}),
    ("ReduceMin", ["x", "sum_axes"], {}), ("ReduceL2", ["x", "sum_axes"], {}), ("ReduceMean", ["x", "sum_axes"], {}),
    ("DepthToSpace", ["x"], {"blocksize": 2, "mode": "CRD"}), ("DepthToSpace", ["x"], {"blocksize": 2}),
    ("Pow", ["x", "twos"], {}), ("Sum", ["x", "c", "half"], {}), ("Mean", ["x", "c"], {}), ("Tile", ["x", "copies"], {}),
    ("Expand", ["x", "whole"], {}), ("LogSoftmax", ["x"], {"axis": 1}), ("Cast", ["x"], {"to": TensorProto.FLOAT}),
    ("Reciprocal", ["x"], {}), ("Sqrt", ["x"], {}), ("Log", ["x"], {}),
]  # fmt: skip


SINCE = {"GroupNormalization": 21, "Gelu": 20, "Mish": 18}


def one_node(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> ModelProto:
    """x of 1 x 4 x 8 x 6 through one node; the shape of y is left to onnxruntime."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4, 8, 6]), ("y", None)))
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    takes_axes = node.op_type.startswith("Reduce") and len(node.input) > 1  # attributes before, but for ReduceSum
    imports = [helper.make_opsetid("", 18 if takes_axes else SINCE.get(node.op_type, 17))]
    return helper.make_model(helper.make_graph([node], "one", [x], [y], stored), opset_imports=imports, ir_version=10)


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), CASES)
def test_an_operator_computes_what_onnxruntime_computes(
    op_type: str, inputs: list[str], attributes: dict[str, object]
) -> None:
    outputs = ["y", "y2"] if op_type == "Split" else ["y"]
    constants = {n: np.array(v, np.float32) for n, v in FLOATS.items() if n in inputs}
    constants |= {n: np.array(v, np.int64) for n, v in INTS.items() if n in inputs}
    model = one_node(helper.make_node(op_type, inputs, outputs, **attributes), constants)
    x = RNG.normal(0, 2, (1, 4, 8, 6)).astype(np.float32)
    expected = new_session(model.SerializeToString()).run(None, {"x": x})[0]
    found = TorchGraph(model).values(torch.from_numpy(x), ["y"])["y"].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_fully_connected_layer_computes_what_onnxruntime_computes(graph: Build) -> None:
    attributes = {"transB": 1, "alpha": 0.5, "beta": 2.0}
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], **attributes)]
    constants = {"w": RNG.normal(0, 1, (3, 12)).astype(np.float32), "b": RNG.normal(0, 1, 3).astype(np.float32)}
    model = graph(nodes, constants, {"x": [1, 3, 2, 2]}, {"y": [1, 3]})
    x = RNG.normal(0, 1, (1, 3, 2, 2)).astype(np.float32)
    expected = new_session(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(TorchGraph(model).values(torch.from_numpy(x), ["y"])["y"].numpy(), expected, rtol=1e-5)


def test_every_operator_is_tested() -> None:
    assert {case[0] for case in CASES} | {"Gemm"} == OPERATORS.keys()


def test_a_whole_detector_agrees_with_onnxruntime(saved, photos) -> None:  # type: ignore[no-untyped-def]
    model = prepare(saved, 17)
    image = next(photos(1).batches())
    expected = new_session(saved).run(None, {"image": image})[0]
    found = TorchGraph(model).values(torch.from_numpy(image), ["output"])["output"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("piece_bytes", [1, 20_000, 1 << 30])
def test_gradients_are_those_of_small_changes(  # type: ignore[no-untyped-def]
    detector: Build, photos, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    """Oracle: the model computed on from a tensor that was changed a little, by onnxruntime."""
    monkeypatch.setattr(gradients, "_PIECE_BYTES", piece_bytes)
    model = onnx.shape_inference.infer_shapes(detector())
    image = torch.from_numpy(next(photos(1).batches()))
    graph = TorchGraph(model)
    seeds = {n: torch.randn(v.shape, generator=torch.manual_seed(1)) for n, v in
             graph.values(image, ["boxes", "scores"]).items()}  # fmt: skip
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def visit(name: str, value: torch.Tensor, gradient: torch.Tensor) -> None:
        assert name not in found
        found[name] = value.clone(), gradient.clone()

    graph.gradients(image, seeds, visit)
    assert found.keys() == {"image", "c0", "r0", "c1", "s1", "m1", "c2", "a2", "boxes", "logits", "scores"}
    for name in ("r0", "c1", "a2"):
        value, gradient = found[name]
        change = 1e-2 * torch.randn(value.shape, generator=torch.manual_seed(2))
        rest = Extractor(model).extract_model([name, *(["r0"] if name == "c1" else [])], ["boxes", "scores"])
        session = new_session(rest.SerializeToString())
        fixed = {"r0": found["r0"][0].numpy()} if name == "c1" else {}
        plus, minus = (session.run(None, {name: (value + s * change).numpy(), **fixed}) for s in (1, -1))
        slope = sum(
            float(((p - m) / 2 * seeds[n].numpy()).sum())
            for n, p, m in zip(("boxes", "scores"), plus, minus, strict=True)
        )
        assert float((gradient * change).sum()) == pytest.approx(slope, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("NonZero", ["x"], ["y"]), "operators NonZero"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8), "UINT8"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic"), "Resize"),
    ],
)
def test_what_has_no_gradient_here_is_refused_with_a_way_out(node: onnx.NodeProto, message: str) -> None:
    model = one_node(node, {"s": np.array([1, 1, 2, 2], np.float32)})
    with pytest.raises(QuantizationError, match=message) as caught:
        TorchGraph(model).values(torch.zeros(1, 4, 8, 6), ["y"])
    assert "calibrate_method" in str(caught.value.hint)


class _Others(torch.nn.Module):
    """What YOLOs and their neighbours are made of beside convolutions, ReLU and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.group, self.layer = torch.nn.GroupNorm(2, 8), torch.nn.LayerNorm([8, 6, 6])
        self.head = torch.nn.Conv2d(2, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.gelu(self.group(self.stem(x)))
        x = torch.nn.functional.mish(self.layer(x))
        x = torch.nn.functional.pixel_shuffle(x * x.sum((2, 3), keepdim=True).softmax(1), 2)
        return torch.nn.functional.softplus(torch.nn.functional.elu(self.head(x), 0.7))


def test_gradients_of_the_other_networks_are_those_of_torch_itself(tmp_path: Path) -> None:
    """Oracle: autograd on the module that the graph was exported from."""
    torch.manual_seed(0)
    module, image = _Others().eval(), torch.randn(1, 3, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (image,), tmp_path / "m.onnx", opset_version=17, dynamo=False, input_names=["x"], output_names=["y"]
        )
    model = prepare(tmp_path / "m.onnx", 17)
    seed = torch.randn(1, 4, 12, 12)
    found: dict[str, torch.Tensor] = {}
    TorchGraph(model).gradients(
        image, {"y": seed}, lambda name, value, gradient: found.update({name: gradient.clone()})
    )
    leaf = image.clone().requires_grad_()
    module(leaf).backward(seed)
    torch.testing.assert_close(found["x"], leaf.grad, rtol=1e-3, atol=1e-5)


def test_whether_gradients_can_be_taken_is_known_before_the_work() -> None:
    assert no_gradient(one_node(helper.make_node("Relu", ["x"], ["y"]), {})) == ""
    resize = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic")
    assert "cubic" in no_gradient(one_node(resize, {"s": np.array([1, 1, 2, 2], np.float32)}))
