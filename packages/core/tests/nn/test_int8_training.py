"""What training simulates is what int8 files compute: checked against plain NumPy, autograd and onnxruntime's QDQ."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from stdet.errors import ModelError
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.nn.int8_training import Int8Simulation
from stdet.structures import DetectorSpec, Preprocess


class Layers(Detector):
    """Any layers as a detector without a head."""

    output_names = ("output",)

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.spec = DetectorSpec("layers", "layers", ("a",), Preprocess(16, 16), "none", (16,))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(images),)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"total": raw[0].square().mean()}

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(raw)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        raise NotImplementedError

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset()


def learned_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm whose statistics and weights are not those of a fresh one."""
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.normal_(norm.bias)
    return norm


def simulation_with(low: float, high: float) -> Int8Simulation:
    simulation = Int8Simulation(Layers(nn.ReLU()), "Int8")
    simulation.low[:], simulation.high[:] = low, high
    return simulation


@given(
    st.floats(-100, 10, width=32),
    st.floats(-10, 100, width=32),
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=50),
)
def test_activations_round_as_plain_arithmetic_says(one: float, other: float, values: list[float]) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    if high - low < 1e-3:
        return
    rounded = simulation_with(min(one, other), max(one, other)).round(0, torch.tensor(values)).numpy()
    scale = np.float32(high - low) / np.float32(255)
    zero_point = np.rint(-128 - np.float32(low) / scale)
    exact = (np.clip(np.rint(np.float32(values) / scale) + zero_point, -128, 127) - zero_point) * scale
    # a value half-way between two steps may go either way: torch multiplies by 1/scale, NumPy divides
    halves = np.abs(np.abs(np.float32(values) / scale % 1) - 0.5) < 1e-3
    np.testing.assert_allclose(rounded[~halves], exact[~halves], rtol=1e-5, atol=1e-6)
    assert (np.abs(rounded - exact) <= scale * 1.001).all()


def test_gradients_pass_straight_through_the_rounding_and_stop_outside_the_range() -> None:
    values = torch.tensor([-3.0, -1.0, 0.3, 1.9, 2.5], requires_grad=True)
    simulation_with(-1, 2).round(0, values).backward(torch.arange(1.0, 6.0))
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 4, 0]


@pytest.mark.parametrize(("weight_type", "levels"), [("Int8", 127), ("Int4", 7.5)])
def test_weights_have_a_scale_for_each_output_channel(weight_type: str, levels: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 3, 3) * torch.tensor([1e-3, 0.1, 1, 10, 0]).view(-1, 1, 1, 1)
    rounded = Int8Simulation(Layers(nn.ReLU()), weight_type).round_weight(weight, 0)
    assert torch.isfinite(rounded).all()
    for original, mine in zip(weight.numpy()[:4], rounded.numpy(), strict=False):
        scale = np.abs(original).max() / levels
        steps = np.clip(np.rint(original / scale), -8 if weight_type == "Int4" else -127, int(levels))
        np.testing.assert_allclose(mine, steps * scale, rtol=1e-5)
    assert not rounded[4].any()


def test_weights_and_their_gradients_are_those_of_torchs_own_simulation() -> None:
    torch.manual_seed(0)
    mine, theirs = (torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    scale = theirs.detach().abs().amax((1, 2, 3)) / 127
    expected = torch.fake_quantize_per_channel_affine(theirs, scale, torch.zeros(8, dtype=torch.int32), 0, -127, 127)
    rounded = Int8Simulation(Layers(nn.ReLU()), "Int8").round_weight(mine, 0)
    torch.testing.assert_close(rounded, expected)
    upstream = torch.randn_like(rounded)
    rounded.backward(upstream)
    expected.backward(upstream)
    assert mine.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad)


class OneBatch(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter([{"input": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


LAYERS = {
    "conv": lambda: [nn.Conv2d(3, 8, 3, padding=1)],
    "conv, norm, relu": lambda: [nn.Conv2d(3, 8, 3, bias=False), learned_norm(8), nn.ReLU()],
    "biased conv, norm, relu6": lambda: [nn.Conv2d(3, 8, 3, 2), learned_norm(8), nn.ReLU6()],
    "norm, depthwise, norm, silu": lambda: [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), learned_norm(6), nn.SiLU()],
    "conv, pool, linear": lambda: [nn.Conv2d(3, 3, 1), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(48, 50)],
}  # fmt: skip


@pytest.mark.parametrize("weight_type", ["Int8", "Int4"])
@pytest.mark.parametrize("layers", LAYERS)
def test_the_simulation_computes_what_onnxruntime_makes_of_the_exported_layers(
    layers: str, weight_type: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    detector = Layers(*LAYERS[layers]()).eval()
    images = torch.rand(1, 3, 16, 16) * 4 - 1
    buffer = io.BytesIO()
    torch.onnx.export(
        detector, (images,), buffer, input_names=["input"], output_names=["output"], opset_version=17, dynamo=False
    )
    model = onnx.version_converter.convert_version(onnx.load_from_string(buffer.getvalue()), 21)
    quantize_static(
        model,
        tmp_path / "int8.onnx",
        OneBatch(images.numpy()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type={"Int8": QuantType.QInt8, "Int4": QuantType.QInt4}[weight_type],
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"input": images.numpy()})

    simulation = Int8Simulation(detector, weight_type)
    simulated = simulation.of(detector)
    with torch.no_grad():
        (floating,) = detector(images)
        with pytest.MonkeyPatch.context() as patch:  # theirs are the ranges of the float layers
            patch.setattr(simulation, "round", lambda index, values: values)
            patch.setattr(simulation, "round_weight", lambda weight, axis: weight)
            torch.testing.assert_close(simulated.train()(images)[0], floating)  # folding changes nothing
        (mine,) = simulated.eval()(images)
    last = max(simulation.index.values())
    step = float(simulation.high[last].clamp(min=0) - simulation.low[last].clamp(max=0)) / 255
    difference = np.abs(theirs - mine.numpy())
    # A value half-way between two steps may go either way; so may the largest 4-bit weight, 7.5 steps by definition.
    assert difference.max() <= {"Int8": 1.01, "Int4": 4}[weight_type] * step
    assert (difference < 1e-3 * step).mean() > 0.9
    assert np.abs(floating.numpy() - theirs).max() > 0.4 * step  # the rounding isn't nothing


def test_ranges_are_a_moving_average_that_only_training_moves() -> None:
    detector = Layers(nn.ReLU())
    simulation = Int8Simulation(detector, "Int8")
    simulated = simulation.of(detector)
    assert torch.isnan(simulated.eval()(torch.ones(1, 3, 4, 4))[0]).all()  # nothing seen yet: no number at all
    simulated.train()
    simulated(torch.full((1, 3, 4, 4), 2.0))
    assert simulation.high.tolist() == [2, 2][: len(simulation.high)]
    simulated(torch.full((1, 3, 4, 4), 4.0))
    assert simulation.high.tolist() == pytest.approx([2.1] * len(simulation.high))
    simulated.eval()(torch.full((1, 3, 4, 4), 100.0))
    assert simulation.high.tolist() == pytest.approx([2.1] * len(simulation.high))


def test_nothing_of_the_detector_changes_but_what_is_learned() -> None:
    torch.manual_seed(0)
    detector = Layers(nn.Conv2d(3, 8, 3), learned_norm(8), nn.SiLU(), nn.Identity(), nn.Conv2d(8, 2, 1))
    before = copy.deepcopy(detector.state_dict())
    simulated = Int8Simulation(detector, "Int8").of(detector).train()
    simulated(torch.rand(2, 3, 16, 16))[0].square().sum().backward()
    assert detector.state_dict().keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(detector.state_dict()[key], value), key  # the statistics of the norm, too
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())


def test_one_simulation_serves_the_averaged_weights_too() -> None:
    torch.manual_seed(0)
    detector = Layers(nn.Conv2d(3, 8, 3), nn.ReLU())
    simulation = Int8Simulation(detector, "Int8")
    images = torch.rand(2, 3, 16, 16)
    simulation.of(detector).train()(images)
    other = copy.deepcopy(detector).eval()
    with torch.no_grad():
        other.layers[0].weight.zero_()
        constant = other.layers[0].bias.clamp(min=0)
        (result,) = simulation.of(other)(images)
    torch.testing.assert_close(result, constant.view(1, -1, 1, 1).expand_as(result), atol=0.01, rtol=0)


def test_a_forward_pass_that_branches_on_values_is_refused_with_the_reason() -> None:
    class Branching(Layers):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.layers(images) if images.sum() > 0 else images,)

    with pytest.raises(ModelError, match="layers can't be traced, so int8 can't be simulated"):
        Int8Simulation(Branching(nn.ReLU()), "Int8")


def test_a_norm_without_statistics_is_refused() -> None:
    detector = Layers(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(ModelError, match="running statistics"):
        Int8Simulation(detector, "Int8").of(detector)(torch.rand(2, 3, 16, 16))
