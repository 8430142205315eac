"""Other tools' QDQ files through operating_mode normalise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from stdet.errors import ArtifactError, QuantizationError, Rejected
from stdet.interfaces.deploy import CalibrationData, QuantizationResult
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.section import Quantization

Foreign = Callable[..., Path]


@pytest.fixture
def foreign(saved: Path, tmp_path: Path, reader: Callable[[], CalibrationDataReader]) -> Foreign:
    """The miniature detector as onnxruntime's own pipeline quantizes it."""

    def build(**options: Any) -> Path:
        path = tmp_path / "foreign.onnx"
        settings = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8} | options
        quantize_static(saved, path, reader(), **settings)
        return path

    return build


def normalised(path: Path, output: Path) -> QuantizationResult:
    config = Quantization(operating_mode="normalise")
    return run_mode(Job(path, output, None, config, None, None))


def test_a_uint8_file_comes_into_the_form_and_computes_the_same(
    foreign: Foreign, tmp_path: Path, photos: Callable[..., CalibrationData]
) -> None:
    source, output = foreign(), tmp_path / "out" / "q.onnx"
    result = normalised(source, output)
    assert [f for f in check_form(onnx.load(output)) if f.level == "error"] == []
    assert {f["rule"] for f in result.record["found"]} >= {"activation-type"}
    assert json.loads((output.parent / "form.json").read_text()) == json.loads(json.dumps(result.record))
    (table,) = result.tables
    assert next(row for row in table.rows if row[0] == "activation-type")[3] == "0"
    sessions = [new_session(p, optimize=False) for p in (source, output)]
    for image in photos(3).batches():
        one, other = (session.run(None, {"image": image})[0] for session in sessions)
        assert np.abs(one - other).max() < 1e-5
    assert all(value > 100 for value in result.record["agreement_db"].values())


def test_microsofts_domain_goes(foreign: Foreign, tmp_path: Path) -> None:
    source = foreign(extra_options={"UseQDQContribOps": True})
    assert "com.microsoft" in {n.domain for n in onnx.load(source).graph.node}
    normalised(source, tmp_path / "q.onnx")
    assert {n.domain for n in onnx.load(tmp_path / "q.onnx").graph.node} == {""}


def test_a_file_in_the_form_stays_as_it_is(foreign: Foreign, tmp_path: Path) -> None:
    normalised(foreign(), tmp_path / "a.onnx")
    again = normalised(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [f for f in again.record["found"] if f["level"] == "error"] == []
    assert again.record["agreement_db"] == {"output": 200.0}


def test_what_cannot_be_mended_is_rejected_with_all_findings_and_no_file(foreign: Foreign, tmp_path: Path) -> None:
    output = tmp_path / "out" / "q.onnx"
    with pytest.raises(Rejected, match="findings stay") as caught:
        normalised(foreign(per_channel=False, weight_type=QuantType.QUInt8), output)
    assert [p.name for p in output.parent.iterdir()] == ["form.json"]
    assert {f["rule"] for f in caught.value.record["left"]} >= {"weight-per-tensor", "weight-asymmetric"}
    assert caught.value.tables[0].rows


def test_a_float_file_and_one_of_integer_operators_are_refused(foreign: Foreign, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="isn't quantized"):
        normalised(saved, tmp_path / "q.onnx")
    with pytest.raises(QuantizationError, match="QLinear"):
        normalised(foreign(quant_format=QuantFormat.QOperator), tmp_path / "q.onnx")
    (tmp_path / "no.onnx").write_text("no")
    with pytest.raises(ArtifactError, match=r"no\.onnx"):
        normalised(tmp_path / "no.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_a_dynamic_batch_becomes_one(foreign: Foreign, tmp_path: Path) -> None:
    model = onnx.load(foreign())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "dynamic.onnx")
    normalised(tmp_path / "dynamic.onnx", tmp_path / "q.onnx")
    value = onnx.load(tmp_path / "q.onnx").graph.input[0]
    assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert value.type.tensor_type.shape.dim[0].dim_value == 1
