"""The multibox loss and its mining against slow plain-Python oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdet.interfaces.detector import Targets
from stdet_models_ssd import detector as detector_module
from stdet_models_ssd.detector import Ssd
from stdet_models_ssd.losses import hardest_negatives, multibox_loss
from stdet_models_ssd.priors import corners, priors_in_pixels


def slow_negatives(losses: list[float], positive: list[bool]) -> list[bool]:
    negatives = [p for p, is_positive in enumerate(positive) if not is_positive]
    hardest = sorted(negatives, key=lambda p: (-losses[p], p))[: 3 * sum(positive)]
    return [p in hardest for p in range(len(losses))]


rows = st.integers(1, 24).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@given(rows)
def test_the_hardest_three_negatives_for_each_positive_are_mined(row: tuple[list[float], list[bool]]) -> None:
    losses, positive = row
    found = hardest_negatives(torch.tensor([losses, losses[::-1]]), torch.tensor([positive, positive[::-1]]))
    assert found[0].tolist() == slow_negatives(losses, positive)
    assert found[1].tolist() == slow_negatives(losses[::-1], positive[::-1])


def test_the_sums_are_those_of_plain_arithmetic() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 20, 4, generator=generator)
    offsets = torch.randn(2, 20, 4, generator=generator) * 2
    labels = torch.zeros(2, 20, dtype=torch.long)
    labels[0, 3], labels[0, 11], labels[1, 7] = 2, 1, 3
    encoded = torch.randn(2, 20, 4, generator=generator)
    classification, regression = multibox_loss(logits, offsets, labels, encoded)

    wanted_cls = wanted_box = 0.0
    for image in range(2):
        cost = [[math.log(sum(map(math.exp, r))) - v for v in r] for r in logits[image].tolist()]
        positive = [bool(label) for label in labels[image]]
        mined = slow_negatives([c[0] for c in cost], positive)
        for prior in range(20):
            if positive[prior] or mined[prior]:
                wanted_cls += cost[prior][int(labels[image, prior])]
            if positive[prior]:
                for got, want in zip(offsets[image, prior].tolist(), encoded[image, prior].tolist(), strict=True):
                    gap = abs(got - want)
                    wanted_box += 0.5 * gap * gap if gap < 1 else gap - 0.5
    assert float(classification) == pytest.approx(wanted_cls, rel=1e-5)
    assert float(regression) == pytest.approx(wanted_box, rel=1e-5)


def raw_of(model: Ssd, batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    count = len(model.priors)
    logits = torch.randn(batch, count, model.spec.num_classes + 1, generator=generator).requires_grad_()
    offsets = torch.randn(batch, count, 4, generator=generator).requires_grad_()
    return logits, offsets, torch.zeros(0, 3, *model.spec.preprocess.size)


@pytest.mark.parametrize("count", [0, 2])
def test_a_batch_without_boxes_has_a_loss_of_zero_and_gradients(count: int, make: Callable[..., Ssd]) -> None:
    model = make(num_classes=2, height=96, width=96)
    raw = raw_of(model, 2)
    losses = model.loss(raw, Targets(torch.zeros(2, count, 4), torch.full((2, count), -1)))
    losses["total"].backward()
    assert all(float(value.detach()) == 0 for value in losses.values())
    assert raw[0].grad is not None
    assert not raw[0].grad.any()


def test_an_image_gives_the_same_loss_whatever_padding_and_neighbours_it_has(make: Callable[..., Ssd]) -> None:
    model = make(num_classes=2, height=96, width=128)
    box, label = torch.tensor([[[10.0, 10, 70, 80]]]), torch.tensor([[1]])
    raw = raw_of(model, 1)
    alone = model.loss(raw, Targets(box, label))
    pair = (raw[0].expand(2, -1, -1), raw[1].expand(2, -1, -1), raw[2])
    padded = Targets(torch.zeros(2, 3, 4), torch.full((2, 3), -1))
    padded.boxes[0, 0], padded.labels[0, 0] = box[0, 0], label[0, 0]
    beside_empty = model.loss(pair, padded)
    for key, value in alone.items():
        torch.testing.assert_close(beside_empty[key], value)


def test_a_perfect_prediction_costs_almost_nothing(make: Callable[..., Ssd]) -> None:
    model = make(num_classes=2, height=300, width=300)
    priors = priors_in_pixels(300, 300, model.spec.strides, torch.device("cpu"))
    targets = Targets(corners(priors[None, 900:901]), torch.tensor([[1]]))
    model.match_threshold = 1.0
    logits = torch.zeros(1, 3000, 3)
    logits[..., 0] = 40
    logits[0, 900] = torch.tensor([0.0, 0.0, 40.0])
    losses = model.loss((logits, torch.zeros(1, 3000, 4), torch.zeros(0, 3, 300, 300)), targets)
    assert float(losses["total"]) < 1e-4
    found = model.decode((logits, torch.zeros(1, 3000, 4)))
    torch.testing.assert_close(found.boxes[0, 900], targets.boxes[0, 0], rtol=0, atol=1e-3)
    assert float(found.scores[0, 900, 1]) > 0.999


def test_the_divisor_is_the_mean_number_of_positives_over_the_processes(
    make: Callable[..., Ssd], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(num_classes=2, height=96, width=96)
    raw, targets = raw_of(model, 1), Targets(torch.tensor([[[10.0, 10, 70, 80]]]), torch.tensor([[1]]))
    alone = model.loss(raw, targets)
    monkeypatch.setattr(detector_module, "mean_over_ranks", lambda positives: positives * 4)
    shared = model.loss(raw, targets)
    torch.testing.assert_close(shared["total"], alone["total"] / 4)
    torch.testing.assert_close(shared["num_pos"], alone["num_pos"])


def test_huge_logits_keep_the_loss_finite(make: Callable[..., Ssd]) -> None:
    model = make(num_classes=2, height=96, width=96)
    logits, offsets, size = (t.detach() for t in raw_of(model, 1))
    targets = Targets(torch.tensor([[[10.0, 10, 70, 80]]]), torch.tensor([[1]]))
    for dtype in (torch.float32, torch.bfloat16):
        losses = model.loss(((logits * 1e4).to(dtype), (offsets * 1e3).to(dtype), size), targets)
        assert torch.isfinite(losses["total"])
