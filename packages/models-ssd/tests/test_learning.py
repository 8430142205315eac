"""A small model learns a few pictures by heart: network, matching, loss and decoding agree with each other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stdet.evaluation.postprocess import select
from stdet.interfaces.detector import Targets
from stdet.structures import Thresholds
from stdet_models_ssd.detector import Ssd
from stdet_models_ssd.matching import overlaps


def test_four_pictures_are_learned_by_heart(make: Callable[..., Ssd]) -> None:
    model = make("ssdlite_mobilenetv3small_pt", 2, 96, 128)
    images = torch.rand(4, 3, 96, 128) * 0.4 - 0.2
    boxes = torch.tensor([[8.0, 10, 60, 56], [70, 30, 120, 90], [20, 40, 74, 88], [50, 8, 110, 60]])
    labels = torch.tensor([0, 1, 1, 0])
    for image, (x1, y1, x2, y2), label in zip(images, boxes.int().tolist(), labels.tolist(), strict=True):
        image[:, y1:y2, x1:x2] = 0.9 if label else -0.9
    targets = Targets(boxes[:, None], labels[:, None])
    optimizer = torch.optim.Adam(model.parameter_groups(1e-3, 0.0))
    first = last = 0.0
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(model(images), targets)["total"]
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = first or last
    assert last < 0.5 * first
    model.eval()
    with torch.no_grad():
        found = model.decode(model.export_outputs(model(images)))
    for image in range(4):
        best, label = divmod(int(found.scores[image].argmax()), 2)
        assert label == int(labels[image])
        assert float(found.scores[image, best, label]) > 0.5
        assert float(overlaps(found.boxes[image, best][None, None], boxes[image][None])) > 0.5


def test_a_prior_is_one_detection_for_each_class_that_scores_enough(make: Callable[..., Ssd]) -> None:
    model = make(num_classes=3)
    logits, offsets = torch.zeros(1, 3000, 4), torch.zeros(1, 3000, 4)
    logits[..., 0] = 20.0
    logits[0, 1000] = torch.tensor([0.0, 5.0, 5.0, 0.0])
    found = select(model.decode((logits, offsets)), Thresholds(0.3, 0.5))[0]
    assert found.labels.tolist() == [0, 1]
    assert (found.boxes[0] == found.boxes[1]).all()
