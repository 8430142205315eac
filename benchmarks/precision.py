"""Does mixed precision cost accuracy? The same trainings in float32 and in bfloat16, both families, several seeds.

Claim: after the same number of epochs bfloat16 scores as float32 does, within what the seed makes (docs/models.md).

The same seed in both precisions is no pair: from the first rounding on, the two go different ways, and training has luck in
either. So several seeds are trained, and their means compared.

A processor that computes bfloat16 runs `fp16: True` as it is. On others, `Rounded` rounds in float32 what bfloat16
arithmetic rounds: operands, results and gradients of every layer (its forward pass is autocast's, bit for bit).
Generated images, so the numbers mean something side by side only.
Run: python benchmarks/precision.py --json benchmarks/results/precision.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from harness import save
from quantization import scores
from quantized_models import config_of, train
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stdet import api
from stdet.interfaces.reporter import SilentReporter
from stdet.nn import precision

CONFIG = """\
operation_mode: training
general: {{ logger: null, global_seed: {seed} }}
model: {{ model_name: {model}, input_shape: [3, 64, 64] }}
dataset:
  dataset_name: synthetic
  class_names: [disc]
  num_images: 960
  image_size: 64
  max_objects: 3
  seed: {seed}
  num_workers: 0
  mosaic_prob: 0.0
  degrees: 0.0
  shear: 0.0
  translate: 0.0
  hsv_prob: 0.0
training:
  batch_size: 16
  epochs: {epochs}
  warmup_epochs: 1
  eval_interval: 2
  device: cpu
  fp16: {fp16}
  optimizer: {{ AdamW: {{ learning_rate: 0.002, weight_decay: 5e-4 }} }}
"""
MILLI, SMALL = "st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt"
EPOCHS = {MILLI: 10, SMALL: 2}


class _Round(torch.autograd.Function):
    """To bfloat16's 8 bits and back, the value and its gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().float()


class Rounded(TorchFunctionMode):
    """What bfloat16 autocast computes, in float32 arithmetic: products are exact, sums in float32, as processors do it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            args = tuple(_Round.apply(a) if isinstance(a, Tensor) else a for a in args)
        found = func(*args, **(kwargs or {}))
        is_activation = isinstance(found, Tensor) and found.dtype == torch.float32 and found.requires_grad
        return _Round.apply(found) if is_activation and not isinstance(found, torch.nn.Parameter) else found


def milli(folder: Path, seed: int, fp16: bool) -> dict[int, float]:
    """AP50 by epoch of a training by `stdet train`."""
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(seed=seed, fp16=fp16, epochs=EPOCHS[MILLI], model=MILLI), encoding="utf-8")
    result = api.run(api.load_config(config, [f"hydra.run.dir={folder}/run"]), SilentReporter())
    history = json.loads(next(result.run_dir.glob("*/history.json")).read_text(encoding="utf-8"))["epochs"]
    return {int(row["epoch"]): row["AP50"] for row in history if "AP50" in row}


def small(folder: Path, seed: int, fp16: bool) -> dict[int, float]:
    """AP50 at the end, on 1280 unseen images. SSD's augmentation, which can't be switched off, makes a detector of these
    images a matter of hours, so this is the plain loop of quantized_models.py."""
    config, onnx = folder / "config.yaml", folder / "model.onnx"
    config.write_text(yaml.safe_dump(config_of(SMALL)), encoding="utf-8")
    train(SMALL, config, onnx, EPOCHS[SMALL], seed, precision.choose_precision("cpu", fp16).autocast)
    return {EPOCHS[SMALL]: scores(config, [], onnx, folder / "scores")["AP50"]}


def trained(model: str, seed: int, fp16: bool) -> dict[str, object]:
    """One training."""
    emulated = fp16 and not precision.cpu_has_bfloat16()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as patches:
        if emulated:
            patches.enter_context(mock.patch.object(precision.Precision, "autocast", side_effect=Rounded))
        found = {MILLI: milli, SMALL: small}[model](Path(name), seed, fp16)
    return {
        "model": model,
        "seed": seed,
        "precision": "float32" if not fp16 else "bfloat16 emulated" if emulated else "bfloat16",
        "AP50": {epoch: round(ap50, 4) for epoch, ap50 in found.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def compare(rows: list[dict[str, Any]]) -> None:
    """Mean AP50 at the end by model and precision, with the standard deviation over the seeds."""
    for model, name in sorted({(row["model"], row["precision"]) for row in rows}):
        ends = [list(row["AP50"].values())[-1] for row in rows if (row["model"], row["precision"]) == (model, name)]
        spread = statistics.stdev(ends) if len(ends) > 1 else float("nan")
        print(f"{model:28} {name:18} {len(ends)} seeds: AP50 {statistics.mean(ends):.3f}, deviation {spread:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for model in args.models:
            for fp16 in (False, True):
                rows.append(trained(model, seed, fp16))
                print(rows[-1], flush=True)
                save(args.json, rows)
    compare(rows)


if __name__ == "__main__":
    main()
