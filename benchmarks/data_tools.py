"""Peak memory and time of `stdet data` on an annotation file as large as COCO's instances_train2017.

Claim: `check` and `convert` stay under 1 GiB on 118 k images and 860 k boxes with polygons (450 MB of JSON). The images
are absent, which is the worst case for the list of faults, and the best for time.
Run: python benchmarks/data_tools.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, OBJECTS, CLASSES = 118_287, 860_001, 80
LIMIT_MIB = 1024


def generate(path: Path, images: int, objects: int) -> None:
    """A COCO file in the proportions of train2017: ids in no order, sub-pixel boxes, polygons, one crowd in 80 objects."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(600_000)[:images]
    owner = ids[np.sort(rng.integers(0, images, objects))]
    corner, side = rng.uniform(0, 500, (objects, 2)), rng.lognormal(4, 1, (objects, 2)).clip(2, 120)
    boxes = np.round(np.hstack([corner * [1, 0.7], side]), 2).tolist()
    labels = rng.integers(1, CLASSES + 1, objects).tolist()
    points = np.round(rng.uniform(0, 400, (200, 50)), 2).tolist()  # 25 points a polygon, as in COCO on the average
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for n, image in enumerate(ids.tolist()):
            entry = {"id": image, "file_name": f"{image:012d}.jpg", "height": 480, "width": 640, "license": 3}
            file.write(("," if n else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for n, (image, label, box) in enumerate(zip(owner.tolist(), labels, boxes, strict=True)):
            entry = {"id": n, "image_id": image, "category_id": label, "bbox": box, "iscrowd": int(n % 80 == 0)}
            entry |= {"area": round(box[2] * box[3] * 0.6, 4), "segmentation": [points[n % 200]]}
            file.write(("," if n else "") + json.dumps(entry))
        categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def measure(name: str, *arguments: str, cache: Path) -> dict[str, object]:
    """Run the command in a process of its own; its peak resident memory and wall and CPU seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "stdet_cli.main", "data", *arguments, "--json"]
    child = os.posix_spawn(
        command[0],
        command,
        os.environ | {"STDET_CACHE": str(cache)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    mib = usage.ru_maxrss / 1024
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(status)
    print(f"  {name:34s} peak {mib:7.0f} MiB   {seconds:6.1f} s wall   {cpu:6.1f} s CPU   exit {code}", flush=True)
    return {"name": name, "peak_mib": mib, "seconds": seconds, "cpu_seconds": cpu, "exit": code}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "instances.json"
        # in a process of its own: the peak of what is spawned later counts from this one's size
        maker = multiprocessing.get_context("spawn").Process(target=generate, args=(path, args.images, args.objects))
        maker.start()
        maker.join()
        (folder / "images").mkdir()
        source = ["--format", "coco", "--images", str(folder / "images"), "--annotations", str(path)]
        model = ["model.model_name=ssdlite_mobilenetv3small_pt", "model.input_shape=[3, 320, 320]"]
        run = f"hydra.run.dir={folder / 'run'}"
        print(f"{args.images} images, {args.objects} objects, {path.stat().st_size / 1e6:.0f} MB of JSON")
        commands = {
            "check": ["check", run, *source],
            "check with a model": ["check", run, *model, *source],
            "stats": ["stats", run, *source],
            "convert to coco": ["convert", *source, "--to", "coco", "-o", str(folder / "out")],
            "convert to voc": ["convert", *source, "--to", "voc", "-o", str(folder / "out")],
            "subset of one class": ["subset", *source, "--classes", "class 1", "-o", str(folder / "out")],
        }
        results = []
        for name, command in commands.items():
            cache = folder / f"cache of {name}"
            results.append(measure(f"{name}, first open", *command, cache=cache))
            shutil.rmtree(folder / "out", ignore_errors=True)
            results.append(measure(f"{name}, cached", *command, cache=cache))
            shutil.rmtree(folder / "out", ignore_errors=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if any(r["peak_mib"] > LIMIT_MIB for r in results):  # type: ignore[operator]
            raise SystemExit(f"more than {LIMIT_MIB} MiB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
