"""What int8 costs each model on the eight generated images that it learned by heart (see overfit.py), by the default recipe.

Claim: at most half a point of AP50. The images are those of the training and of the calibration, so this shows that the int8
form computes what the float form does in all eight networks; how much a detector of unseen images loses is another question.
Run: python benchmarks/overfit_int8.py [MODEL ...] --json benchmarks/results/overfit_int8.json
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import save
from overfit import IMAGES, Shapes, options, overfit

from stdet.config.schema import Quantization
from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.coco import evaluate
from stdet.evaluation.predictors import OnnxPredictor
from stdet.export.onnx import export_onnx
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.recipe import quantize_onnx

WANTED = 0.999
"""Float AP50: with 15 objects a single one that float only just finds would count for points."""


def measure(name: str, size: int, steps: int, learning_rate: float, seed: int) -> dict[str, object]:
    trained, detector, _, _ = overfit(name, size, steps, learning_rate, seed, WANTED)
    dataset, preprocess = Shapes(size, seed), detector.spec.preprocess

    def image(index: int) -> np.ndarray:
        return normalize(prepare(dataset.read_image(index), preprocess)[0][None], preprocess)

    digest = hashlib.sha256(b"".join(image(index).tobytes() for index in range(IMAGES))).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        floating, int8 = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(detector, floating)
        start = time.process_time()
        quantize_onnx(floating, int8, CalibrationData(image, IMAGES, digest, "generated"), Quantization())
        seconds = time.process_time() - start
        before, after = (
            evaluate(OnnxPredictor(path, detector), dataset, preprocess, confidence_thresh=0.01).scalars()
            for path in (floating, int8)
        )
    return {
        "model": name,
        "steps": trained["steps"],
        "AP50_float": before["AP50"],
        "AP50_int8": after["AP50"],
        "drop_points": 100 * (before["AP50"] - after["AP50"]),
        "AP_float": before["AP"],
        "AP_int8": after["AP"],
        "quantize_cpu_s": seconds,
    }


def main() -> None:
    args = options(__doc__ or "")
    rows = []
    for name in args.models:
        rows.append(measure(name, args.size, args.steps, args.lr, args.seed))
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
        save(args.json, rows)


if __name__ == "__main__":
    main()
