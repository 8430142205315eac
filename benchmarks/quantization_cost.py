"""Time and peak memory of `stdet quantize`, by model and recipe, at 320 px.

Claim: 500 images of 320 px stay under 1 GiB with any recipe; the default takes at most 60 s for 200 images on two cores.
The networks have random weights, so nothing is scored. Each recipe runs in a process of its own, all its libraries included:
torch in its CUDA build alone is more than half of the peak.

Run: python benchmarks/quantization_cost.py [MODEL ...] --json benchmarks/results/quantization_cost.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path

from harness import save
from quantization import RECIPES, stdet

SIZE = 320
DEFAULT = "Sensitivity (default)"
CASES = (
    (DEFAULT, 200),
    (DEFAULT, 500),
    ("MinMax", 500),
    ("Entropy", 500),
    ("Percentile", 500),
    ("MSE", 500),
    ("Sensitivity, half int4, both", 500),
)
"""Recipe and images: one recipe for each way to choose ranges, and the one with every option that holds images."""


def export(model: str, path: Path) -> None:
    """The model with random weights as ONNX; in a process of its own, since a child's peak starts at its parent's."""
    import torch

    from stdet.export.onnx import export_onnx
    from stdet.plugins.loader import load_plugins

    catalogue, _ = load_plugins()
    family = catalogue.family(model)
    spec = family.spec(model, ("disc", "triangle", "cross"), family.preprocess.with_size(SIZE, SIZE))
    torch.manual_seed(0)
    export_onnx(catalogue.build("models", model, spec).eval(), path)


def config_of(model: str, onnx: Path, images: int) -> str:
    return f"""
operation_mode: quantization
general: {{logger: null}}
model: {{model_name: {model}, model_path: {onnx}, input_shape: [3, {SIZE}, {SIZE}]}}
dataset:
  dataset_name: synthetic
  class_names: [disc, triangle, cross]
  num_images: {images}
  image_size: {SIZE}
  quantization_split: 1.0
  num_workers: 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["ssd_mobilenetv2_pt", "st_yolodv2tiny_actrelu_pt"])
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    print(f"{'model':28} {'recipe':28} {'images':>6} {'s':>6} {'CPU s':>6} {'MiB':>7}")
    with tempfile.TemporaryDirectory() as scratch:
        for model in args.models:
            onnx, config = Path(scratch) / f"{model}.onnx", Path(scratch) / f"{model}.yaml"
            exporting = multiprocessing.get_context("spawn").Process(target=export, args=(model, onnx))
            exporting.start()
            exporting.join()
            for recipe, images in CASES:
                config.write_text(config_of(model, onnx, images), encoding="utf-8")
                spent = stdet("quantize", str(config), *RECIPES[recipe], f"hydra.run.dir={scratch}/run")
                seconds, cpu_s, peak_mib = (round(value, 1) for value in spent)
                print(f"{model:28} {recipe:28} {images:6d} {seconds:6.0f} {cpu_s:6.0f} {peak_mib:7.0f}", flush=True)
                found = {"s": seconds, "cpu_s": cpu_s, "peak_mib": peak_mib}
                rows.append({"model": model, "recipe": recipe, "images": images} | found)
                save(args.json, rows)


if __name__ == "__main__":
    main()
