"""Training step (forward, loss, backward, SGD) of every registered model on the CPU, batch 16, about 12 boxes an image.

Claim: channels_last, the default, is at least 1.2x plain eager float32; with `fp16: True` (bfloat16 autocast on a
processor that has it) at least 1.6x. In CPU time, since the machine may be shared. Run: python benchmarks/train_step.py
"""

from __future__ import annotations

import time

import torch
from harness import arguments, interleave, report, save

from stdet.data.preprocess import normalize
from stdet.interfaces.detector import Detector, Targets
from stdet.nn.precision import choose_precision
from stdet.plugins.loader import load_plugins

BATCH, BOXES, SIZE = 16, 12, 320


def make_step(name: str, size: int, channels_last: bool, fp16: bool):
    catalogue, _ = load_plugins()
    family = catalogue.family(name)
    spec = family.spec(name, ("a", "b", "c"), family.preprocess.with_size(size, size))
    torch.manual_seed(0)
    detector: Detector = catalogue.build("models", name, spec)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    detector.to(memory_format=layout).train()
    precision = choose_precision("cpu", fp16)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3, momentum=0.9)
    pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
    images = normalize(pixels, spec.preprocess).contiguous(memory_format=layout)
    corner = torch.rand(BATCH, BOXES, 2) * size * 0.7
    boxes = torch.cat([corner, corner + size * (0.05 + 0.25 * torch.rand(BATCH, BOXES, 2))], 2)
    targets = Targets(boxes, torch.randint(0, 3, (BATCH, BOXES)))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            raw = detector(images)
        detector.loss(raw, targets)["total"].backward()
        optimizer.step()

    return step


def main() -> None:
    args = arguments(__doc__ or "", rounds=5)
    results = []
    for name in load_plugins()[0].names("models"):
        variants = {
            "eager float32, contiguous": make_step(name, SIZE, channels_last=False, fp16=False),
            "channels_last (default)": make_step(name, SIZE, channels_last=True, fp16=False),
            "channels_last + autocast (fp16: True)": make_step(name, SIZE, channels_last=True, fp16=True),
        }
        timings = interleave(variants, args.rounds, time.process_time)
        results.append(report(f"train step, {name}, {SIZE} px, batch {BATCH}", timings, next(iter(variants))))
    save(args.json, results)


if __name__ == "__main__":
    main()
