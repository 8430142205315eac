"""The SSD ports against the published keys, counts and golden outputs, and what they promise beyond."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stdet.errors import ModelError
from stdet.export.onnx import export_onnx
from stdet.interfaces.detector import Targets
from stdet_models_ssd.detector import Ssd
from stdet_models_ssd.family import SsdTrainingOptions
from stdet_models_ssd.priors import make_priors

Make = Callable[..., Ssd]
Shared = Callable[[str], Path]

COUNTS = {
    "ssd_mobilenetv1_pt": (
        (1, 6_579_096, 1_215_476_672),
        (20, 9_468_996, 1_526_986_688),
        (80, 18_594_996, 2_510_702_528),
    ),
    "ssdlite_mobilenetv1_pt": (
        (1, 3_990_680, 1_103_685_056),
        (20, 4_312_388, 1_138_297_280),
        (80, 5_328_308, 1_247_599_040),
    ),
    "ssd_mobilenetv2_pt": (
        (1, 7_605_848, 813_351_920),
        (20, 10_568_708, 1_174_576_880),
        (80, 19_925_108, 2_315_287_280),
    ),
    "ssdlite_mobilenetv2_pt": (
        (1, 3_051_928, 620_686_384),
        (20, 3_388_228, 660_828_976),
        (80, 4_450_228, 787_595_056),
    ),
    "ssdlite_mobilenetv3small_pt": (
        (1, 1_061_540, 135_002_136),
        (20, 1_257_392, 145_389_816),
        (80, 1_875_872, 178_193_016),
    ),
    "ssdlite_mobilenetv3large_pt": (
        (1, 2_141_372, 503_060_400),
        (20, 2_388_296, 520_459_536),
        (80, 3_168_056, 575_404_176),
    ),
}
PARTS = {
    "ssd_mobilenetv1_pt": (3_206_976, 2_459_520, 304_200, 608_400),
    "ssdlite_mobilenetv1_pt": (3_206_976, 630_912, 59_464, 93_328),
    "ssd_mobilenetv2_pt": (2_223_872, 4_446_336, 311_880, 623_760),
    "ssdlite_mobilenetv2_pt": (2_223_872, 652_736, 69_960, 105_360),
    "ssdlite_mobilenetv3small_pt": (487_628, 472_512, 40_392, 61_008),
    "ssdlite_mobilenetv3large_pt": (1_442_276, 570_816, 51_144, 77_136),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def multiply_accumulates(model: Ssd) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, *model.spec.preprocess.size))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("num_classes", [1, 7])
def test_state_dict_keys_order_and_shapes_are_the_published_ones(
    name: str, num_classes: int, make: Make, shared: Shared
) -> None:
    document = json.loads(shared("reference/state_dict_keys.json").read_text())
    published = document[f"{name} (1 class + background)"]
    model = make(name, num_classes)
    for key in model.class_dependent_keys():
        published[key][0] = 6 * (num_classes + 1)
    own = model.state_dict()
    assert list(own) == list(published)
    assert {key: list(value.shape) for key, value in own.items()} == published


def test_parameters_and_macs_are_counted_to_the_digit(name: str, make: Make) -> None:
    for num_classes, wanted, macs in COUNTS[name]:
        model = make(name, num_classes)
        assert parameters(model) == wanted
        assert multiply_accumulates(model) == macs
    one = make(name)
    parts = (one.base_net, one.extras, one.classification_headers, one.regression_headers)
    assert tuple(map(parameters, parts)) == PARTS[name]


def test_the_golden_outputs_are_reproduced(make: Make, shared: Shared) -> None:
    file = importlib.util.spec_from_file_location("golden_weights", shared("golden/weights.py"))
    assert file
    assert file.loader
    golden = importlib.util.module_from_spec(file)
    file.loader.exec_module(golden)
    wanted = np.load(shared("golden/ssdlite_mobilenetv2_pt_nc1_300.npz"))
    model = make("ssdlite_mobilenetv2_pt").eval()
    golden.fill(state := model.state_dict())
    model.load_state_dict(state)
    with torch.no_grad():
        outputs = model.export_outputs(model(torch.from_numpy(2 * golden.array("input", (1, 3, 300, 300)) - 1)))
        found = model.decode(outputs)
    for value, key in (
        (outputs[0], "logits"),
        (outputs[1], "offsets"),
        (found.boxes / 300, "boxes_unit"),
        (model.priors, "priors"),
    ):
        assert np.abs(value.numpy() - wanted[key]).max() <= 1e-4 * np.abs(wanted[key]).max(), key
    assert np.abs(found.scores.numpy() - wanted["scores"][..., 1:]).max() <= 1e-5


@pytest.mark.parametrize("side", [96, 97, 127, 160, 192, 223, 256, 289, 304, 305, 416])
def test_the_rows_are_those_of_the_priors_at_every_size_square_or_not(side: int, make: Make) -> None:
    model = make(num_classes=2).eval()
    for height, width in ((side, side), (side, 96), (129, side)):
        with torch.no_grad():
            raw = model(torch.zeros(1, 3, height, width))
            found = model.decode(model.export_outputs(raw), (height, width))
        count = len(make_priors(height, width, model.spec.strides))
        assert raw[0].shape == (1, count, 3)
        assert raw[1].shape == (1, count, 4)
        assert found.boxes.shape == (1, count, 4)
        assert torch.isfinite(found.boxes).all()


def test_every_model_takes_a_size_of_no_multiple_and_trains_at_another(name: str, make: Make) -> None:
    model = make(name, 2, 101, 150).train()
    targets = Targets(torch.tensor([[[10.0, 20, 90, 80]], [[30.0, 5, 60, 60]]]), torch.tensor([[0], [1]]))
    for height, width in ((101, 150), (130, 97)):
        losses = model.loss(model(torch.rand(2, 3, height, width)), targets)
        assert torch.isfinite(losses["total"])


def test_the_exported_graph_holds_raw_logits_and_offsets_and_nothing_else(
    name: str, make: Make, tmp_path: Path
) -> None:
    model = make(name, 3, 96, 130).eval()
    report = export_onnx(model, tmp_path / "model.onnx")
    count = len(make_priors(96, 130, model.spec.strides))
    assert report.outputs == {"output": [1, count, 4], "boxes": [1, count, 4]}
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not {"Softmax", "Exp", "Shape", "Gather", "Slice"} & {node.op_type for node in graph.node}
    assert all(list(tensor.dims) != [count, 4] for tensor in graph.initializer)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, 96, 130)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = [torch.from_numpy(output) for output in session.run(["output", "boxes"], {"input": images})]
    with torch.no_grad():
        raw = model(torch.from_numpy(images))
    for got, want in zip(outputs, raw[:2], strict=True):
        assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max())


@pytest.mark.parametrize("width_mult", [0.25, 0.35, 0.5, 0.75, 1.3])
def test_width_mult_scales_every_part(name: str, width_mult: float, make: Make) -> None:
    plain = make(name, 2, 96, 96)
    model = make(name, 2, 96, 96, width_mult=width_mult).eval()
    with torch.no_grad():
        raw = model(torch.zeros(1, 3, 96, 96))
    assert raw[0].shape[1] == len(model.priors)
    for part in ("base_net", "extras", "classification_headers", "regression_headers"):
        own, whole = parameters(getattr(model, part)), parameters(getattr(plain, part))
        assert (own < whole) == (width_mult < 1)
        assert own != whole
    outputs = {m.out_channels for m in model.base_net.modules() if isinstance(m, nn.Conv2d)}
    squeezed = {m.out_channels for key, m in model.base_net.named_modules() if key.endswith(".se.se.1")}
    assert all(channels % 8 == 0 for channels in outputs - squeezed)


def test_width_mult_one_is_the_reference(name: str, make: Make) -> None:
    one, plain = make(name, width_mult=1.0).state_dict(), make(name).state_dict()
    assert all(torch.equal(one[key], plain[key]) for key in plain)


@pytest.mark.parametrize("options", [{"width_mult": 0.0}, {"width_mult": "wide"}, {"act": "relu"}])
def test_an_option_that_cannot_be_honoured_is_refused(options: dict[str, object], name: str, make: Make) -> None:
    with pytest.raises(ModelError, match=next(iter(options))):
        make(name, **options)


def test_an_input_too_small_for_six_levels_is_refused(make: Make) -> None:
    with pytest.raises(ModelError, match="95 x 300"):
        make(height=95)


def test_published_files_load_strictly_with_and_without_priors(name: str, make: Make) -> None:
    source = make(name)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.5)
    weights = {key: value for key, value in source.state_dict().items() if key != "priors"}
    for extra in ({}, {"priors": source.priors}):
        model = make(name)
        model.load_state_dict(weights | extra)
        loaded = model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_a_file_of_another_input_size_keeps_the_priors_of_the_spec(name: str, make: Make) -> None:
    small = make(name, height=192, width=224)
    wanted = small.priors.clone()
    small.load_state_dict(make(name).state_dict())
    assert torch.equal(small.priors, wanted)


def test_a_file_with_other_priors_of_the_same_size_is_refused(name: str, make: Make) -> None:
    model = make(name)
    with pytest.raises(RuntimeError, match="other boxes"):
        model.load_state_dict(model.state_dict() | {"priors": model.priors * 0.9})


@pytest.mark.parametrize("boxes", [0, 1])
def test_a_batch_of_one_trains_on_maps_of_one_pixel(boxes: int, name: str, make: Make) -> None:
    model = make(name, 2, 96, 96).train()
    targets = Targets(torch.full((1, boxes, 4), 20.0) + torch.tensor([0.0, 0, 40, 40]), torch.zeros(1, boxes).long())
    losses = model.loss(model(torch.rand(1, 3, 96, 96)), targets)
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(bool(g.any()) for g in gradients) == bool(boxes)


def test_a_single_value_a_channel_leaves_the_running_statistics_alone(make: Make) -> None:
    model = make(height=96, width=96).train()
    norm = model.extras[3].bn3
    before = norm.running_var.clone()
    model(torch.rand(1, 3, 96, 96))
    assert torch.equal(norm.running_var, before)
    model(torch.rand(2, 3, 96, 96))
    assert not torch.equal(norm.running_var, before)


def test_losses_under_bfloat16_are_finite_and_near_those_of_float32(name: str, make: Make) -> None:
    count = 16  # batch norm sees as few values a channel where the map is one pixel, and rounding moves them
    model = make(name, 2, 128, 128).train()
    images = torch.rand(count, 3, 128, 128) * 2 - 1
    targets = Targets(torch.tensor([[20.0, 30, 90, 100]]).expand(count, 1, 4), torch.zeros(count, 1, dtype=torch.long))
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(images)
        inside = model.loss(raw, targets)
    outside = model.loss(raw, targets)
    exact = model.loss(model(images), targets)
    assert raw[0].dtype == torch.bfloat16
    for key, value in outside.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(inside[key], value)
        torch.testing.assert_close(value, exact[key], rtol=0.05, atol=0.05)


def test_the_parts_have_their_own_learning_rates(name: str, make: Make) -> None:
    model = make(name)
    base, extras, heads = model.parameter_groups(0.1, 5e-4, SsdTrainingOptions(base_net_lr=0.0, extra_layers_lr=0.05))
    assert [group["lr"] for group in (base, extras, heads)] == [0.0, 0.05, 0.1]
    assert [group["weight_decay"] for group in (base, extras, heads)] == [5e-4] * 3
    assert sum(p.numel() for p in heads["params"]) == sum(PARTS[name][2:])
    assert [group["lr"] for group in model.parameter_groups(0.1, 0.0)] == [0.1] * 3


def test_a_box_that_many_priors_hold_is_learned_by_the_first_or_all_of_them(make: Make) -> None:
    model = make(height=160, width=160)
    raw = model(torch.rand(1, 3, 160, 160))
    targets = Targets(torch.tensor([[[70.0, 70, 74, 74]]]), torch.zeros(1, 1, dtype=torch.long))
    found = []
    for forced in ("first", "all"):
        model.use_training_options(SsdTrainingOptions.model_validate({"forced_priors": forced}))
        found.append(float(model.loss(raw, targets)["num_pos"]))
    assert found[0] == 1.0 < found[1]


def test_the_match_threshold_decides_how_many_priors_learn_a_box(make: Make) -> None:
    model = make(height=160, width=160)
    raw = model(torch.rand(2, 3, 160, 160))
    targets = Targets(torch.tensor([[60.0, 60, 132, 132]]).expand(2, 1, 4), torch.zeros(2, 1, dtype=torch.long))
    found = []
    for threshold in (0.3, 0.5, 1.0):
        model.use_training_options(SsdTrainingOptions(match_threshold=threshold))
        found.append(float(model.loss(raw, targets)["num_pos"]))
    assert found[0] > found[1] > found[2] == 1.0
