"""NNCF as quantizer. What needs the real library is skipped without the extra; missing and too old ones are played."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize import libraries
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import make_int8, quantize_onnx
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SensitivityRanges

Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


class FakeNncf(ModuleType):
    """Adds 1 to every bias; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("nncf")
        self.QuantizationPreset = self.OverflowFix = self.quantization = self.advanced_parameters = self
        self.MIXED = self.DISABLE = None
        self.asked: dict[str, Any] = {}

    def set_log_level(self, level: int) -> None: ...

    def Dataset(self, feeds: Any) -> Any:  # noqa: N802
        return feeds

    def IgnoredScope(self, names: list[str], validate: bool) -> list[str]:  # noqa: N802
        return names

    def QuantizationParameters(self, **options: Any) -> dict[str, Any]:  # noqa: N802
        return options

    def AdvancedQuantizationParameters(self, **options: Any) -> dict[str, Any]:  # noqa: N802
        return options

    def quantize(self, model: ModelProto, dataset: Any, **options: Any) -> ModelProto:
        print("a progress bar")
        self.asked = options | {"images": [next(iter(feed.values())) for feed in dataset]}
        shifted = ModelProto()
        shifted.CopyFrom(model)
        names = {node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2}
        for tensor in shifted.graph.initializer:
            if tensor.name in names:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
        return shifted


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeNncf:
    """NNCF 3.4.1, as far as anybody here can tell."""
    module = FakeNncf()
    monkeypatch.setitem(sys.modules, "nncf", module)
    monkeypatch.setattr(libraries, "version", lambda name: "3.4.1")
    return module


def test_a_missing_library_is_told_with_the_command_before_the_work_begins(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)  # importing it raises ImportError
    monkeypatch.setattr(SensitivityRanges, "run", lambda *args: pytest.fail("too late"))
    with pytest.raises(QuantizationError, match="nncf can't be used") as caught:
        quantize_onnx(saved, tmp_path / "int8.onnx", photos(), section(quantizer="nncf"))
    assert caught.value.hint == "pip install 'stdet-deploy-stm32[nncf]'"
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("old", ["2.19.0", "3.3", "3.3.9rc1"])
def test_a_library_that_is_too_old_is_told_with_both_versions(
    old: str, fake: FakeNncf, saved: Path, tmp_path: Path, section: Section, photos: Photos,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(libraries, "version", lambda name: old)
    with pytest.raises(QuantizationError, match=rf"needs NNCF 3\.4 or later, but {old} is installed") as caught:
        quantize_onnx(saved, tmp_path / "int8.onnx", photos(), section(quantizer="nncf"))
    assert caught.value.hint == "pip install --upgrade 'stdet-deploy-stm32[nncf]'"


def test_the_biases_are_taken_over_and_the_form_stays_ours(
    fake: FakeNncf, saved: Path, section: Section, photos: Photos, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, shifted = (make_int8(saved, photos(), section(quantizer=name)) for name in ("onnx_quantizer", "nncf"))
    assert check_form(shifted.model) == check_form(plain.model)
    assert shifted.record["nncf"] == {"version": "3.4.1", "biases_corrected": 5}
    assert "nncf" not in plain.record
    before, after = (_float_biases(made.inside) for made in (plain, shifted))
    assert before.keys() == after.keys()
    moved = [name for name in before if np.allclose(after[name] - before[name], 1, atol=0.02)]
    assert len(moved) == 5
    assert capsys.readouterr().out == ""  # that's where the JSON goes


def _float_biases(model: ModelProto) -> dict[str, np.ndarray]:
    """What the int32 bias of each convolution stands for."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    writers = {n.output[0]: n for n in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            stored = writers[node.input[2]]
            found[node.name] = values[stored.input[0]] * values[stored.input[1]]
    return found


def test_nncf_is_asked_for_our_form_and_gets_every_image(
    fake: FakeNncf, saved: Path, section: Section, photos: Photos
) -> None:
    done: list[tuple[int, int | None]] = []
    excluded = onnx.load(saved).graph.node[0].name
    options = section({"nodes_to_exclude": [excluded]}, quantizer="NNCF", granularity="per_tensor")
    make_int8(saved, photos(5), options, lambda i, n: done.append((i, n)))
    assert len(fake.asked["images"]) == fake.asked["subset_size"] == 5
    assert done[-1] == (5, 5)
    assert excluded in fake.asked["ignored_scope"]
    advanced = fake.asked["advanced_parameters"]
    assert advanced["weights_quantization_params"] == {"num_bits": 8, "per_channel": False}
    assert advanced["activations_quantization_params"] == {"num_bits": 8, "per_channel": False}


def test_a_failure_of_the_library_is_an_error_of_ours(
    fake: FakeNncf, saved: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no such metatype")

    monkeypatch.setattr(fake, "quantize", broken)
    with pytest.raises(QuantizationError, match=r"NNCF 3\.4\.1 fails on this model: RuntimeError: no such metatype"):
        make_int8(saved, photos(), section(quantizer="nncf"))


@pytest.mark.parametrize(
    ("params", "extra", "needed"),
    [
        ({}, {"BiasCorrection": True}, "NNCF corrects the biases itself"),
        ({"weightType": "Int4"}, {}, "without Int4Share"),
        ({"activType": "Int16"}, {}, "without Int4Share"),
        ({}, {"Int4Share": 0.5}, "without Int4Share"),
    ],
)
def test_options_that_nncf_has_no_meaning_with_are_refused(
    params: dict[str, Any], extra: dict[str, Any], needed: str, section: Section
) -> None:
    with pytest.raises(QuantizationError, match="has no meaning here") as caught:
        read_options(section(params, extra, quantizer="nncf", target_opset=21))
    assert needed in caught.value.hint


def test_the_real_library_corrects_biases_and_the_file_is_in_the_form(
    saved: Path, tmp_path: Path, section: Section, photos: Photos
) -> None:
    pytest.importorskip("nncf")
    record = quantize_onnx(saved, tmp_path / "int8.onnx", photos(8), section(quantizer="nncf"))
    assert record["nncf"]["biases_corrected"] > 0
    assert not [f for f in check_form(onnx.load(tmp_path / "int8.onnx")) if f.level == "error"]
    assert min(record["sqnr_db"].values()) > 15
