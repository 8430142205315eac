"""The YOLOD ports against the published keys, counts and golden outputs, and what they promise beyond."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from stdet.export.onnx import export_onnx
from stdet.interfaces.detector import Targets
from stdet.structures import DetectorSpec
from stdet_models_yolod import st_yolodv2milli, st_yolodv2tiny
from stdet_models_yolod.detector import StYolod
from stdet_models_yolod.family import ST_YOLOD

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[4] / "shared"))
BUILDERS = {"st_yolodv2milli_actrelu_pt": st_yolodv2milli.build, "st_yolodv2tiny_actrelu_pt": st_yolodv2tiny.build}
MILLI = "st_yolodv2milli_actrelu_pt"


def make(name: str = MILLI, num_classes: int = 1, height: int = 64, width: int = 64, **options: Any) -> StYolod:
    torch.manual_seed(0)
    spec = DetectorSpec(
        name,
        "st_yolod",
        tuple(f"c{i}" for i in range(num_classes)),
        ST_YOLOD.preprocess.with_size(height, width),
        "yolox",
        (8, 16, 32),
        options,
    )
    return BUILDERS[name](spec)


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"{path} isn't here")
    return SHARED / path


@pytest.mark.parametrize("name", BUILDERS)
def test_state_dict_keys_and_shapes_are_the_published_ones(name: str) -> None:
    published = json.loads(shared("reference/state_dict_keys.json").read_text())[f"{name} (num_classes=1)"]
    own = make(name).state_dict()
    assert list(own) == list(published)
    assert {key: list(value.shape) for key, value in own.items()} == published


@pytest.mark.parametrize(
    ("name", "num_classes", "total", "parts"),
    [
        (MILLI, 1, 3_235_563, (2_626_297, 519_904, 89_362)),
        (MILLI, 80, 3_250_968, (2_626_297, 519_904, 104_767)),
        ("st_yolodv2tiny_actrelu_pt", 1, 4_876_763, (3_651_065, 1_033_296, 192_402)),
        ("st_yolodv2tiny_actrelu_pt", 80, 4_899_752, (3_651_065, 1_033_296, 215_391)),
    ],
)
def test_parameters_are_counted_to_the_digit(name: str, num_classes: int, total: int, parts: tuple[int, ...]) -> None:
    model = make(name, num_classes)
    assert sum(p.numel() for p in model.parameters()) == total
    assert tuple(sum(p.numel() for p in m.parameters()) for m in (model.backbone, model.neck, model.head)) == parts


TINY = "st_yolodv2tiny_actrelu_pt"
MEGA_MACS = {
    (MILLI, 1): {192: 849.54, 256: 1510.29, 288: 1911.47, 320: 2359.83, 640: 9439.33},
    (MILLI, 80): {192: 853.36, 256: 1517.09, 288: 1920.07, 320: 2370.45, 640: 9481.80},
    (TINY, 1): {192: 1020.34, 256: 1813.94, 288: 2295.77, 320: 2834.28, 640: 11337.11},
    (TINY, 80): {192: 1026.07, 256: 1824.13, 288: 2308.67, 320: 2850.20, 640: 11400.82},
}


@pytest.mark.parametrize(("name", "num_classes"), MEGA_MACS)
def test_convolution_macs_are_the_published_ones(name: str, num_classes: int) -> None:
    with torch.device("meta"):
        model = make(name, num_classes)
    macs = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == (112 if name == MILLI else 107)
    for module in convolutions:
        module.register_forward_hook(count)
    for size, expected in MEGA_MACS[name, num_classes].items():
        macs = 0
        model(torch.empty(1, 3, size, size, device="meta"))
        assert round(macs / 1e6, 2) == expected, size


def golden() -> tuple[ModuleType, Any]:
    path = shared("golden/weights.py")
    module_spec = importlib.util.spec_from_file_location("golden_weights", path)
    assert module_spec
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module, np.load(shared("golden/st_yolodv2milli_actrelu_pt_nc1_192.npz"))


def golden_model(weights: ModuleType) -> tuple[StYolod, torch.Tensor]:
    model = make(MILLI, 1, 192, 192)
    weights.fill(model.state_dict())
    return model, torch.from_numpy(255 * weights.array("input", (2, 3, 192, 192)))


def test_outputs_and_boxes_are_the_golden_ones() -> None:
    weights, expected = golden()
    model, images = golden_model(weights)
    model.eval()
    with torch.no_grad():
        for name, feature in zip(("dark3", "dark4", "dark5"), model.backbone(images), strict=True):
            got = [float(feature.mean()), float(feature.std())]
            np.testing.assert_allclose(got, expected[f"{name}_mean_std"], rtol=1e-4)
        (output,) = model.export_outputs(model(images))
    np.testing.assert_allclose(
        output.numpy(), expected["export"], rtol=1e-4, atol=1e-4 * np.abs(expected["export"]).max()
    )
    found = model.decode((output,))
    unit = expected["decoded_unit"]
    corners = np.concatenate([unit[..., :2] - unit[..., 2:4] / 2, unit[..., :2] + unit[..., 2:4] / 2], -1) * 192
    # exp() turns an absolute difference of the raw value into a relative one of the size: compare against the size.
    size = np.maximum(unit[..., 2:4] * 192, 8)
    np.testing.assert_array_less(np.abs(found.boxes.numpy() - corners) / np.concatenate([size, size], -1), 2e-4)
    np.testing.assert_allclose(found.scores[..., 0].numpy(), unit[..., 4] * unit[..., 5], rtol=1e-4)


@pytest.mark.parametrize(("kind", "closed"), [("train", False), ("train_l1", True)])
def test_losses_and_gradients_are_the_golden_ones(kind: str, closed: bool) -> None:
    weights, expected = golden()
    model, images = golden_model(weights)
    labels = torch.from_numpy(expected["labels"])
    boxes = torch.cat((labels[..., 1:3] - labels[..., 3:] / 2, labels[..., 1:3] + labels[..., 3:] / 2), -1)
    classes = torch.where(labels.sum(-1) > 0, labels[..., 0].long(), -1)
    losses = model.train().loss(model(images), Targets(boxes, classes), augmentation_closed=closed)
    losses["total"].backward()
    for name in ("iou_loss", "l1_loss", "conf_loss", "cls_loss", "num_fg"):
        assert float(losses[name].detach()) == pytest.approx(float(expected[f"{kind}/{name}"]), rel=1e-4)
    assert float(losses["total"].detach()) == pytest.approx(float(expected[f"{kind}/total_loss"]), rel=1e-4)
    norm = torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(expected[f"{kind}/grad_norm"]), rel=1e-4)


def test_batch_norm_constants_and_first_biases_follow_the_spec() -> None:
    for name, eps, momentum in ((MILLI, 1e-3, 0.03), ("st_yolodv2tiny_actrelu_pt", 1e-5, 0.1)):
        model = make(name, 80)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}
        for level in range(3):
            for kind in (model.head.cls_preds, model.head.obj_preds):
                torch.testing.assert_close(kind[level].bias, torch.full_like(kind[level].bias, -4.59512))


def test_every_place_has_an_activation_of_its_own_and_the_option_is_honoured() -> None:
    for name, kind, count in (("silu", nn.SiLU, 57), ("relu", nn.ReLU, 57 + 17), ("hardswish", nn.Hardswish, 57)):
        model = make(act=name)
        found = [m for m in model.modules() if isinstance(m, kind)]
        assert len({id(m) for m in found}) == len(found) == count


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 64)])
def test_every_multiple_of_32_works_also_when_it_is_not_square(height: int, width: int) -> None:
    model = make(MILLI, 2, height, width).eval()
    with torch.no_grad():
        raw = model(255 * torch.rand(1, 3, height, width))
        (output,) = model.export_outputs(raw)
    cells = sum((height // s) * (width // s) for s in (8, 16, 32))
    assert output.shape == (1, cells, 7)
    elsewhere = make(MILLI, 2, 320, 320)
    for found in (model.decode((output,)), elsewhere.decode((output,), (height, width))):
        boxes, scores = slow_decode(output[0].tolist(), height, width)
        torch.testing.assert_close(found.boxes[0], torch.tensor(boxes))
        torch.testing.assert_close(found.scores[0], torch.tensor(scores))


def slow_decode(rows: list[list[float]], height: int, width: int) -> tuple[list[list[float]], list[list[float]]]:
    """xyxy boxes in pixels and class scores, one anchor at a time."""
    remaining, boxes, scores = iter(rows), [], []
    for stride in (8, 16, 32):
        for row in range(height // stride):
            for column in range(width // stride):
                tx, ty, tw, th, objectness, *classes = next(remaining)
                x, y = (column + tx) * stride, (row + ty) * stride
                half_w, half_h = math.exp(tw) * stride / 2, math.exp(th) * stride / 2
                boxes.append([x - half_w, y - half_h, x + half_w, y + half_h])
                scores.append([objectness * c for c in classes])
    assert next(remaining, None) is None
    return boxes, scores


def loss_of(model: StYolod, boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    images = 255 * torch.rand(2, 3, 64, 64)
    if boxes:
        targets = Targets(torch.tensor([boxes, boxes]), torch.tensor([labels, [-1] * len(labels)]))
    else:
        targets = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    return model.loss(model(images), targets, **more)


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([], []),
        ([[0.0, 0, 0, 0]], [-1]),
        ([[-50.0, -50, -20, -20]], [0]),
        ([[10.0, 10, 10.5, 10.5]], [1]),
        ([[0.0, 0, 64, 64]] * 120, [0] * 120),
    ],
    ids=["no boxes at all", "only padding", "centre outside", "tiny", "more boxes than anchors"],
)
@pytest.mark.parametrize("closed", [False, True])
def test_losses_stay_finite(boxes: list[list[float]], labels: list[int], closed: bool) -> None:
    model = make(num_classes=2).train()
    losses = loss_of(model, boxes, labels, augmentation_closed=closed)
    losses["total"].backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_box_outside_the_image_gets_no_anchor_of_another_box() -> None:
    model = make(num_classes=2).train()
    alone = loss_of(model, [[10.0, 10, 40, 40]], [0])
    with_outsider = loss_of(model, [[10.0, 10, 40, 40], [-90.0, -90, -70, -70]], [0, 1])
    torch.testing.assert_close(alone["iou_loss"], with_outsider["iou_loss"])
    torch.testing.assert_close(alone["cls_loss"], with_outsider["cls_loss"])


def test_targets_and_box_arithmetic_are_float32_under_autocast() -> None:
    model = make(num_classes=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss_of(model, [[3.3, 5.7, 41.2, 50.9]], [1])
    assert all(v.dtype == torch.float32 for v in losses.values())
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_losses_are_divided_by_the_mean_number_of_positives_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(num_classes=2).train()
    alone = loss_of(model, [[10.0, 10, 40, 40]], [0], augmentation_closed=True)
    monkeypatch.setattr("stdet_models_yolod.detector.mean_over_ranks", lambda count: 3 * count)
    among_others = loss_of(model, [[10.0, 10, 40, 40]], [0], augmentation_closed=True)
    for name in ("iou_loss", "conf_loss", "cls_loss", "l1_loss", "total"):
        torch.testing.assert_close(alone[name], 3 * among_others[name])


def test_weight_decay_is_on_convolution_weights_only() -> None:
    model = make()
    groups = model.parameter_groups(0.1, 5e-4)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    expected = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert decayed == expected


def test_the_onnx_file_keeps_the_contract(tmp_path: Path) -> None:
    model = make(num_classes=3, height=64, width=96)
    report = export_onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {
        kind: sum(n.op_type == kind for n in graph.node) for kind in ("Conv", "Relu", "Sigmoid", "MaxPool", "Resize")
    }
    assert kinds == {"Conv": 112, "Relu": 17, "Sigmoid": 63, "MaxPool": 1, "Resize": 2}
    assert not {n.op_type for n in graph.node} & {"Shape", "Gather", "Slice", "Identity", "BatchNormalization"}
    assert report.outputs == {"output": [1, 126, 8]}
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input"]
    images = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        (expected,) = model.eval().export_outputs(model(images))
    (found,) = session.run(None, {"input": images.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_a_few_steps_make_the_loss_fall_strongly() -> None:
    model = make(num_classes=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images = torch.zeros(8, 3, 64, 64)
    boxes = torch.zeros(8, 1, 4)
    for i in range(8):
        x, y, side = 4 + 9 * (i % 4), 6 + 25 * (i // 4), 20 + i
        images[i, :, y : y + side, x : x + side] = 255
        boxes[i, 0] = torch.tensor([x, y, x + side, y + side])
    targets = Targets(boxes, torch.zeros(8, 1, dtype=torch.int64))
    totals = []
    for _ in range(40):
        optimizer.zero_grad()
        losses = model.loss(model(images), targets)
        losses["total"].backward()
        optimizer.step()
        totals.append(float(losses["total"].detach()))
    assert totals[-1] < 0.4 * totals[0]


def test_the_smallest_input_trains_alone_and_in_bfloat16() -> None:
    """At 32 px the last map is a single pixel: no variance for a batch norm, and taps that see nothing but padding."""
    model = make(height=32, width=32).train()
    targets = Targets(torch.tensor([[[4.0, 6, 28, 30]]]), torch.zeros(1, 1, dtype=torch.long))
    depthwise = model.head.cls_convs[2][0].dconv.conv
    kinds: list[torch.dtype] = []
    depthwise.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(torch.rand(1, 3, 32, 32))
    model.loss(raw, targets)["total"].backward()
    assert kinds == [torch.float32]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
