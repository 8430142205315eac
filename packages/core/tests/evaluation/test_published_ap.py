"""Proof on real weights: the published YOLOX-nano file on real photographs, through the command's own code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdet.interfaces.reporter import SilentReporter

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[5] / "shared"))

CONFIG = """\
operation_mode: evaluation
model: {{ model_type: st_yolod, model_path: {shared}/models/yolox_nano_coco_416.onnx }}
dataset:
  dataset_name: coco
  val_images_path: {shared}/data/tiny_coco/val2017
  val_annotations_path: {shared}/data/tiny_coco/annotations/instances_val2017.json
  num_workers: 0
postprocessing: {{ confidence_thresh: 0.001, NMS_thresh: 0.65 }}
hydra: {{ run: {{ dir: {out} }} }}
"""


def test_yolox_nano_scores_its_published_ap(tmp_path: Path) -> None:
    if not (SHARED / "models/yolox_nano_coco_416.onnx").exists():
        pytest.skip("the published model isn't here")
    pytest.importorskip("stdet_models_yolod")
    pytest.importorskip("stdet_datasets")
    from stdet import api

    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(shared=SHARED, out=tmp_path / "run"))
    result = api.run(api.load_config(config), SilentReporter())
    metrics = result.document["stages"]["evaluate_float"]["metrics"]
    published = {
        "AP": 0.3237, "AP50": 0.4835, "AP75": 0.3380, "AP_small": 0.1140, "AP_medium": 0.4175, "AP_large": 0.5557,
        "AR1": 0.3086, "AR10": 0.4267, "AR100": 0.4468,
    }  # fmt: skip
    assert {name: metrics[name] for name in published} == pytest.approx(published, abs=1e-3)
    assert (tmp_path / "run" / "pictures" / "evaluate_float.jpg").exists()
