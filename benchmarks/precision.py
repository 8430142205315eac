"""Does mixed precision cost accuracy? The same training in float32 and with `fp16: True`, both families, same seed.

It makes no claim. milli, 30 epochs, AP50 with four seeds (results/precision.json): 0.927, 0.918, 0.907, 0.838 in float32, and
0.918, 0.684, 0.905, 0.848 in bfloat16. So three of four end within 0.01 of each other, less than the seed itself makes, and
one lags far behind and is still rising. With its batch norms computed in float32, tried by hand on that one seed, it ends at
0.916: the first thing to look at, more seeds and the time of a step included. torch's bfloat16 gradients of depthwise
windows larger than their map were another cause, in SSD, and aren't used any more.
Generated images, so the numbers mean something side by side only.
Run: python benchmarks/precision.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from stdet import api
from stdet.interfaces.reporter import SilentReporter

CONFIG = """\
operation_mode: training
general: {{ logger: null, global_seed: {seed} }}
model: {{ model_name: {model}, input_shape: [3, {size}, {size}] }}
dataset:
  dataset_name: synthetic
  class_names: [disc, triangle, cross]
  num_images: 480
  image_size: 128
  max_objects: 3
  seed: {seed}
  num_workers: 0
{augmentation}
training: {{ batch_size: 16, epochs: {epochs}, eval_interval: {interval}, device: cpu, fp16: {fp16},
            optimizer: {{ {optimizer} }} }}
"""
PLAIN = "\n".join(f"  {key}: 0.0" for key in ("mosaic_prob", "degrees", "shear", "translate", "hsv_prob"))
FAMILIES = {
    "st_yolodv2milli_actrelu_pt": (96, 30, PLAIN, "AdamW: { learning_rate: 0.002, weight_decay: 5e-4 }"),
    "ssdlite_mobilenetv3small_pt": (128, 60, "", "AdamW: { learning_rate: 0.002, weight_decay: 5e-4 }"),
}
"""Input size, epochs until the curve is flat, augmentation, optimizer."""


def trained(model: str, seed: int, fp16: bool) -> dict[str, object]:
    size, epochs, augmentation, optimizer = FAMILIES[model]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        values = {"size": size, "augmentation": augmentation, "optimizer": optimizer, "interval": max(1, epochs // 5)}
        path.write_text(CONFIG.format(model=model, seed=seed, epochs=epochs, fp16=fp16, **values), encoding="utf-8")
        start = time.process_time()
        result = api.run(api.load_config(path, [f"hydra.run.dir={folder}/run"]), SilentReporter())
        seconds = time.process_time() - start
        history = json.loads(next(result.run_dir.glob("*/history.json")).read_text(encoding="utf-8"))["epochs"]
    curve = {int(row["epoch"]): round(row["AP50"], 4) for row in history if "AP50" in row}
    last = history[-1]
    found = {"model": model, "seed": seed, "precision": "bfloat16" if fp16 else "float32", "epochs": epochs}
    return found | {"AP50": curve, "loss": round(last["total"], 4), "cpu_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results = []
    for seed in args.seeds:
        for model in args.models:
            for fp16 in (False, True):
                results.append(trained(model, seed, fp16))
                print(results[-1], flush=True)
                if args.json:
                    args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
