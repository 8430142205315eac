from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.int8 import quantize_onnx
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.int16_share import int16_tensors

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


def test_int16_goes_to_the_worst_tensors_within_the_budget(
    saved: Path, tmp_path: Path, photos: Photos, section: Section
) -> None:
    options = section(target_opset=21, extra={"Int16Share": 0.4})
    record = quantize_onnx(saved, tmp_path / "q.onnx", photos(), options)
    plain = quantize_onnx(saved, tmp_path / "p.onnx", photos(), section())
    chosen = record["int16"]["tensors"]
    assert chosen
    assert 0 < record["int16"]["share_of_activation_bytes"] <= 0.4
    kinds = {t.name: t.data_type for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert all(kinds[f"{name}_zero_point"] == TensorProto.INT16 for name in chosen)
    assert record["sqnr_db"]["output"] > plain["sqnr_db"]["output"]


def test_the_share_counts_bytes(detector: Build) -> None:
    """c1 and m1 have 8 x 8 x 8 elements each; everything together is counted by hand."""
    model = onnx.shape_inference.infer_shapes(detector())
    sizes = {"image": 768, "c0": 512, "r0": 512, "c1": 512, "s1": 512, "m1": 512, "c2": 512, "a2": 512, "boxes": 256,
             "logits": 128, "scores": 128, "joined": 384, "rows": 384, "output": 384}  # fmt: skip
    chosen, share = int16_tensors(model, {"c1": 5.0, "m1": 4.0, "boxes": 0.01}, 0.3)
    assert chosen == ["c1", "m1"]
    assert share == pytest.approx(2 * 1024 / (sum(sizes.values()) + 1024))
    assert int16_tensors(model, {"c1": 5.0, "m1": 4.0}, 0.2)[0] == ["c1"]
    assert int16_tensors(model, {"c1": 5.0, "m1": 4.0}, 0.0) == ([], 0.0)
