"""Opening annotations of the size of COCO's instances_train2017, and what they cost two forked workers, against
pycocotools in the same run.

The file (118 287 images, 860 001 boxes with polygons, about 490 MB) is generated once into a scratch folder, with a link to
one and the same photograph for each image. Every step runs in a process of its own, so that its peak is its own. PSS is what
all processes together really occupy; it and the peak are given above those of a process that has only imported the same
libraries.

Run: python benchmarks/annotations.py [--folder /tmp/annotations_benchmark] (needs 2 GB of disk, and 7 GB of memory for
pycocotools; Linux only)
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES, BOXES, CLASSES, WORKERS = 118_287, 860_001, 80, 2
MIB = 1 << 20
LOOKUPS = 4 * IMAGES // WORKERS // 2
"""Of a worker: half an epoch of samples of four images."""


def generate(folder: Path) -> Path:
    """An instances file without spaces, as COCO's, and its images, all links to one. Made whole or not at all."""
    path = folder / "instances.json"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    photograph = folder / "photograph.jpg"
    Image.new("RGB", (640, 480)).save(photograph)
    ids = np.sort(rng.choice(600_000, IMAGES, replace=False)).tolist()
    owners = rng.choice(ids, BOXES).tolist()
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write('{"info":{"year":2017},"licenses":[],"images":[')
        for n, i in enumerate(ids):
            name = f"{i:012d}.jpg"
            with contextlib.suppress(FileExistsError):
                (images / name).symlink_to(photograph.absolute())
            entry = {"license": 1, "file_name": name, "coco_url": f"http://images.cocodataset.org/train2017/{name}"}
            entry |= {"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": i}
            file.write("," * (n > 0) + json.dumps(entry, separators=(",", ":")))
        file.write('],"annotations":[')
        for n, owner in enumerate(owners):
            x, y, w, h = rng.uniform((0, 0, 4, 4), (400, 300, 200, 170)).round(2).tolist()
            polygon = (rng.random(2 * int(rng.integers(12, 52))) * 200).round(2).tolist()
            entry = {"segmentation": [polygon], "area": round(w * h / 2, 3), "iscrowd": int(n % 100 == 0)}
            entry |= {"image_id": owner, "bbox": [x, y, w, h], "category_id": 1 + n % CLASSES, "id": n + 1}
            file.write("," * (n > 0) + json.dumps(entry, separators=(",", ":")))
        categories = [{"supercategory": "thing", "id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]
        file.write('],"categories":' + json.dumps(categories) + "}")
    part.replace(path)
    return path


def open_ours(path: Path) -> Callable[[int], int]:
    from stdet.interfaces.dataset import DatasetRequest
    from stdet_datasets.coco import CocoDataset

    dataset = CocoDataset(DatasetRequest("train", path.parent / "images", path))
    return lambda index: len(dataset.annotation(index).labels)


def open_pycocotools(path: Path) -> Callable[[int], int]:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    ids = coco.getImgIds()
    return lambda index: len([a["bbox"] for a in coco.loadAnns(coco.getAnnIds(ids[index]))])


def pss_mib(pids: list[int]) -> float:
    """Proportional set size of processes: shared pages are divided among those who share them."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(t.split("Pss:")[1].split()[0]) for t in texts) / 1024


def worker(look: Callable[[int], int] | None, seed: int, barrier: Barrier, boxes: Any) -> None:
    if look:
        boxes.value = sum(map(look, np.random.default_rng(seed).integers(0, IMAGES, LOOKUPS).tolist()))
    barrier.wait()  # all lookups are done: the parent measures
    barrier.wait()


def measure(opener: Callable[[Path], Callable[[int], int]], path: Path, open_it: bool, pipe: Any) -> None:
    """Open in this process, look up in forked ones, and send what it took."""
    importlib.import_module("stdet_datasets.coco" if opener is open_ours else "pycocotools.coco")  # not what is timed
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    look = opener(path) if open_it else None
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gc.collect()
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(WORKERS + 1)
    seen = [fork.Value("q", 0) for _ in range(WORKERS)]
    children = [fork.Process(target=worker, args=(look, i, barrier, seen[i])) for i in range(WORKERS)]
    for child in children:
        child.start()
    barrier.wait()
    total = pss_mib([os.getpid(), *(child.pid or 0 for child in children)])
    barrier.wait()
    for child in children:
        child.join()
    found = {"seconds": seconds, "cpu_s": cpu, "peak_mib": peak, "before_mib": peak_before, "pss_mib": total}
    pipe.send(found | {"boxes": [v.value for v in seen]})


def run(opener: Callable[[Path], Callable[[int], int]], path: Path, open_it: bool = True) -> dict[str, Any]:
    """`measure` in a fresh interpreter."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(opener, path, open_it, theirs))
    process.start()
    theirs.close()
    result: dict[str, Any] = ours.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "stdet_annotations_benchmark")
    parser.add_argument("--rounds", type=int, default=3, help="of everything; pycocotools takes about 20 s each")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    path = generate(args.folder)
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB, {IMAGES} images, {BOXES} boxes")
    os.environ["STDET_CACHE"] = str(args.folder / "cache")
    steps: dict[str, list[dict[str, Any]]] = {"pycocotools": [], "stdet, first open": [], "stdet, later opens": []}
    empty = {True: run(open_ours, path, False)["pss_mib"], False: run(open_pycocotools, path, False)["pss_mib"]}
    for _ in range(args.rounds):
        shutil.rmtree(args.folder / "cache", ignore_errors=True)
        steps["stdet, first open"].append(run(open_ours, path))
        steps["stdet, later opens"].append(run(open_ours, path))
        steps["pycocotools"].append(run(open_pycocotools, path))
    assert len({tuple(step["boxes"]) for rows in steps.values() for step in rows}) == 1, "they see different boxes"
    print(f"{'':20s} {'seconds':>17s} {'CPU s':>7s} {'peak MiB':>9s} {'PSS MiB':>8s} {'PSS above imports':>18s}")
    base = steps["pycocotools"]
    for name, rows in steps.items():
        seconds = [row["seconds"] for row in rows]
        median = {key: float(np.median([row[key] for row in rows])) for key in ("cpu_s", "peak_mib", "pss_mib")}
        above = median["pss_mib"] - empty[name != "pycocotools"]
        faster = float(np.median([b["seconds"] / s for b, s in zip(base, seconds, strict=True)]))
        smaller = float(np.median([b["pss_mib"] / row["pss_mib"] for b, row in zip(base, rows, strict=True)]))
        print(
            f"{name:20s} {np.median(seconds):6.2f} [{min(seconds):.2f}-{max(seconds):.2f}] {median['cpu_s']:6.2f} "
            f"{median['peak_mib']:9.0f} {median['pss_mib']:8.0f} {above:18.0f}   "
            f"x{faster:.1f} as fast, 1/{smaller:.0f} of the PSS"
        )
    kept = sum(file.stat().st_size for file in (args.folder / "cache").rglob("*.bin"))
    print(f"the cache of it takes {kept / MIB:.0f} MiB on disk")
    if args.json:
        args.json.write_text(json.dumps(steps, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
