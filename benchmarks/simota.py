"""Label assignment of a batch: ours, all at once, against YOLOX's, image by image and box by box.

Claim: at 320 px, batch 16, at least 2.8x YOLOX's speed at 12 boxes an image and 4.5x at 30, with the same anchors chosen.
`near` predictions lie about the ground truth, so boxes get up to 10 anchors; `fresh` ones don't; `trained` ones are those
of a network that has learned the images of `overfit.py` by heart.

Both in CPU time. The peer runs in an interpreter of its own, since stdet must not depend on it:
    python -m venv peer && peer/bin/pip install pixeltable-yolox
    STDET_PEER_PYTHON=peer/bin/python python benchmarks/simota.py
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from harness import arguments, interleave, report, save
from overfit import overfit
from torch import Tensor

from stdet_models_yolod.detector import _cxcywh, _decode_boxes, _grid, _rows
from stdet_models_yolod.simota import assign

BATCH, SIZE, CLASSES = 16, 320, 80
Chosen = set[tuple[int, int, int]]
"""Image, anchor, box of the positives."""


def case(count: int, spread: float) -> tuple[Tensor, ...]:
    """Arguments of `assign`: predictions within about `spread` pixels of the nearest of `count` boxes."""
    torch.manual_seed(count)
    cells, strides = [], []
    for stride in (8, 16, 32):
        y, x = torch.meshgrid(torch.arange(SIZE // stride), torch.arange(SIZE // stride), indexing="ij")
        cells.append(torch.stack((x, y), -1).reshape(-1, 2) * stride + stride / 2)
        strides.append(torch.full((len(cells[-1]),), float(stride)))
    centres, stride_of = torch.cat(cells), torch.cat(strides)
    gt = torch.rand(BATCH, count, 4) * SIZE
    gt[..., 2:] = gt[..., 2:] * 0.3 + 8
    nearest = (centres[None, :, None] - gt[:, None, :, :2]).abs().sum(-1).argmin(-1)
    boxes = gt.gather(1, nearest[..., None].expand(-1, -1, 4)) + torch.randn(BATCH, len(centres), 4) * spread
    boxes[..., 2:] = boxes[..., 2:].clamp(min=4)
    labels = torch.randint(0, CLASSES, (BATCH, count))
    cls, obj = torch.randn(BATCH, len(centres), CLASSES), torch.randn(BATCH, len(centres), 1)
    return boxes, cls, obj, centres, stride_of, gt, labels


def trained_case() -> tuple[Tensor, ...]:
    """Arguments of `assign` from a detector that has learned eight images."""
    result, detector, images, targets = overfit("st_yolodv2tiny_actrelu_pt", 128, 300, 1e-3, 0)
    print(f"trained: AP50 {result['AP50']:.3f} after {result['steps']} steps")
    with torch.no_grad():
        raw = detector.eval()(images)
    regression, objectness, classes = (_rows(raw[kind::3]) for kind in range(3))
    cells, strides = _grid([(m.shape[2], m.shape[3]) for m in raw[0::3]], detector.spec.strides, images.device)
    boxes = _decode_boxes(regression, cells, strides)
    return boxes, classes, objectness, (cells + 0.5) * strides[:, None], strides, _cxcywh(targets.boxes), targets.labels


def as_set(image: Tensor, anchor: Tensor, box: Tensor) -> Chosen:
    return set(zip(image.tolist(), anchor.tolist(), box.tolist(), strict=True))


@contextmanager
def peer(python: str, inputs: tuple[Tensor, ...], folder: Path) -> Iterator[tuple[Callable[[], float], Chosen]]:
    """A call that makes the peer assign `inputs` once, and what it chooses."""
    torch.save({"case": inputs, "threads": torch.get_num_threads()}, folder / "inputs.pt")
    command = [python, str(Path(__file__).with_name("simota_peer.py")), str(folder / "inputs.pt")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdin
        assert process.stdout

        def ask(line: str = "run") -> float:
            assert process.stdin
            assert process.stdout
            process.stdin.write(line + "\n")
            process.stdin.flush()
            word, _, seconds = process.stdout.readline().partition(" ")
            if word != "done":
                raise RuntimeError("the peer failed; its message is above")
            return float(seconds)

        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{python} can't run the peer: pip install pixeltable-yolox there")
        ask(f"save {folder / 'chosen.pt'}")
        yield ask, as_set(*torch.load(folder / "chosen.pt", weights_only=True).T)
        process.stdin.close()


def main() -> None:
    args = arguments(__doc__ or "", rounds=15)
    python = os.environ.get("STDET_PEER_PYTHON")
    if not python:
        print("skipped: set STDET_PEER_PYTHON to an interpreter with pixeltable-yolox (see the top of this file)")
        return
    cases = {
        f"{kind}, {count} boxes an image": case(count, spread)
        for kind, spread in (("near", 6.0), ("fresh", 60.0))
        for count in (12, 30)
    }
    results = []
    for kind, inputs in (cases | {"trained, 1 to 3 boxes an image": trained_case()}).items():
        fast = assign(*inputs)
        own = as_set(fast.image, fast.anchor, fast.box)
        with tempfile.TemporaryDirectory() as folder, peer(python, inputs, Path(folder)) as (ask, theirs):
            variants = {"YOLOX": ask, "stdet": lambda i=inputs: assign(*i)}
            timings = interleave(variants, args.rounds, time.process_time)
        most = max(Counter((image, box) for image, _, box in own).values())
        facts = f"{len(own)} positives, up to {most} a box, {len(own ^ theirs)} differ"
        results.append(report(f"assignment, {kind}: {facts}", timings, "YOLOX"))
    save(args.json, results)


if __name__ == "__main__":
    main()
