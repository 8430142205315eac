"""What the default recipe keeps of a published detector's accuracy, by the project's own evaluator."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_a_published_yolox_keeps_its_average_precision_in_int8(tmp_path: Path) -> None:
    """Float has 0.324; onnxruntime's MinMax recipe leaves 0.025. Calibrated on other photographs than those scored."""
    from stdet import api
    from stdet.interfaces.reporter import SilentReporter

    shared = Path(os.environ.get("STDET_SHARED", ROOT.parent / "shared"))
    if not (shared / "models" / "yolox_nano_coco_416.onnx").is_file():
        pytest.skip("no shared data here")
    photographs = shared / "data" / "tiny_coco"
    config = api.load_config(
        ROOT / "examples" / "tiny_coco_quantize_onnx.yaml",
        [
            f"model.model_path={shared / 'models' / 'yolox_nano_coco_416.onnx'}",
            f"dataset.train_images_path={photographs / 'train2017'}",
            f"dataset.val_images_path={photographs / 'val2017'}",
            f"hydra.run.dir={tmp_path / 'run'}",
        ],
    )
    stages = api.run(config, SilentReporter()).document["stages"]
    assert stages["evaluate_int8"]["metrics"]["AP"] >= 0.30
    record = stages["quantize"]
    assert record["calibration"]["images"] == 50
    assert record["int16"]["tensors"] == []
    # what stays in float joins the heads at the very end, behind the last operator that computes
    in_float = {entry.split(": ")[1] for entry in record["form"]}
    nodes = {n.name: n.op_type for n in onnx.load(record["path"]).graph.node}
    assert {nodes[name] for name in in_float} <= {"Concat", "Transpose", "Reshape"}
