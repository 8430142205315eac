"""The peer to beat on blood cells: torchvision's ssdlite320_mobilenet_v3_large from random weights, in the same CPU time.

torchvision's own reference settings for that model (references/detection: SGD 0.15 for 192 images a step, momentum 0.9,
weight decay 4e-5, cosine over all epochs, one epoch of linear warm-up, IoU crop and mirror, batch 24), its own
post-processing, its learning rate scaled to the one batch of 24 that this machine takes. Only the data reading and
pycocotools' scoring are stdet's. Run: python benchmarks/ssdlite_peer.py --cpu-minutes 30
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from harness import SHARED
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from stdet.evaluation.coco import score
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet.plugins.loader import load_plugins
from stdet.structures import Detections

BATCH = 24
LEARNING_RATE = 0.15 * BATCH / 192
CLASSES = ("RBC", "WBC", "Platelets")
AUGMENT = v2.Compose(
    [v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)]
)


def read(root: Path, split: str) -> DetectionDataset:
    request = DatasetRequest(
        split, root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main" / f"{split}.txt", CLASSES
    )
    dataset = load_plugins()[0].build("datasets", "voc", request)
    assert isinstance(dataset, DetectionDataset)
    return dataset


def sample(dataset: DetectionDataset, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    a = dataset.annotation(index)
    keep = ~a.ignore
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(a.boxes[keep]), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(a.height, a.width)
    )
    image = tv_tensors.Image(torch.from_numpy(dataset.read_image(index)).permute(2, 0, 1))
    return AUGMENT(image, {"boxes": boxes, "labels": torch.from_numpy(a.labels[keep]) + 1})


@torch.no_grad()
def ap(model: torch.nn.Module, dataset: DetectionDataset) -> dict[str, float | None]:
    model.eval()
    found = {}
    for index in range(len(dataset)):
        image = torch.from_numpy(dataset.read_image(index)).permute(2, 0, 1).float() / 255
        (out,) = model([image])
        found[index] = Detections(out["boxes"].numpy(), out["scores"].numpy(), out["labels"].numpy() - 1)
    model.train()
    return score(dataset, found).metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu-minutes", type=float, default=30.0)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    root = options.shared / "data/bccd/VOCdevkit/VOC2007"
    train, val, test = (read(root, split) for split in ("train", "val", "test"))
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1).train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=4e-5)
    budget, steps = 60 * options.cpu_minutes, len(train) // BATCH
    epochs, epoch, history, started = 10**9, 0, [], time.perf_counter()
    while epoch < epochs:
        order = rng.permutation(len(train))
        for step in range(steps):
            warm = min(1.0, 1e-3 + step / (steps - 1)) if epoch == 0 else 1.0
            for group in optimizer.param_groups:
                group["lr"] = warm * LEARNING_RATE / 2 * (1 + math.cos(math.pi * epoch / epochs))
            images, targets = zip(
                *(sample(train, int(i)) for i in order[step * BATCH : (step + 1) * BATCH]), strict=True
            )
            loss = sum(model(list(images), list(targets)).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        epoch += 1
        if epoch == 3:  # the first epochs tell how many fit
            epochs = max(epoch, int(0.93 * budget / (time.process_time() / epoch)))
        if epoch % max(1, min(epochs, 200) // 5) == 0:
            scores = ap(model, val)
            history.append({"epoch": epoch, "loss": float(loss.detach()), "AP50": scores["AP50"], "AP": scores["AP"]})
            print(f"epoch {epoch}/{epochs} {history[-1]} {time.process_time() / 60:.1f} CPU min", flush=True)
    result = {
        "model": "torchvision ssdlite320_mobilenet_v3_large, random weights",
        "epochs": epochs,
        "cpu_minutes": time.process_time() / 60,
        "wall_minutes": (time.perf_counter() - started) / 60,
        "validation": history,
        "test": ap(model, test),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
