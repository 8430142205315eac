"""The peer's side of `simota.py`: YOLOX's own assignment, in an interpreter that has it (pip install pixeltable-yolox).

Started by `simota.py` with a file of inputs. For each line on stdin it assigns the batch once and answers with `done` and
its CPU seconds; `save FILE` writes what it chose. Imports nothing of stdet.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch


def main() -> None:
    warnings.simplefilter("ignore")
    from yolox.models.yolo_head import YoloxHead

    inputs = torch.load(sys.argv[1], weights_only=True)
    torch.set_num_threads(inputs["threads"])
    boxes, cls, obj, centres, strides, gt, labels = inputs["case"]
    head = YoloxHead(cls.shape[2])
    shifts = centres / strides[:, None] - 0.5
    grid = strides[None], shifts[None, :, 0], shifts[None, :, 1]

    def assign() -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per image the mask of positive anchors and the box of each."""
        chosen = []
        for image, kinds in enumerate(labels):
            count = int((kinds >= 0).sum())
            real = gt[image, :count], kinds[:count].float()
            _, mask, _, box, _ = head.get_assignments(image, count, *real, boxes[image], *grid, cls, obj)
            chosen.append((mask, box))
        return chosen

    print("ready", flush=True)
    for line in sys.stdin:
        started = time.process_time()
        chosen = assign()
        seconds = time.process_time() - started
        if line.startswith("save "):
            rows = [
                torch.stack((torch.full_like(box, image), mask.nonzero()[:, 0], box), 1)
                for image, (mask, box) in enumerate(chosen)
            ]
            torch.save(torch.cat(rows), line.removeprefix("save ").strip())
        print("done", seconds, flush=True)


if __name__ == "__main__":
    main()
