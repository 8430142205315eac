"""AIMET as quantizer. What needs the real library is skipped without the extra; missing and too old ones are played."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.surgery import dequantized, producers
from stdet_deploy_stm32.quantize import libraries
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import Int8, make_int8, quantize_onnx
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.aimet import AIMET
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SensitivityRanges
from stdet_deploy_stm32.quantize.weights import aimet_rounding
from stdet_deploy_stm32.quantize.weights.aimet_rounding import IMAGES, round_by_aimet

Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]
INT4 = {"params": {"weightType": "Int4"}, "target_opset": 21}


class FakeQuantizer:
    """Of one weight; symmetric, strictly if asked."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight, self.bits, self.frozen = weight, 8, False
        self.per_channel = self.use_strict_symmetric = False

    def enable_per_channel_quantization(self) -> None:
        self.per_channel = True

    def set_bitwidth(self, bits: int) -> None:
        self.bits = bits

    def is_encoding_frozen(self) -> bool:
        return self.frozen

    def get_encodings(self) -> list[SimpleNamespace]:
        assert self.per_channel
        assert self.use_strict_symmetric
        largest = 2 ** (self.bits - 1) - 1
        return [SimpleNamespace(delta=float(v) / largest) for v in np.abs(self.weight).max(axis=(1, 2, 3))]


class FakeAimet(ModuleType):
    """Rounds every weight down, and leaves it a little above the step, as AdaRound does where it's undecided."""

    def __init__(self) -> None:
        super().__init__("aimet_onnx")
        self.asked: dict[str, Any] = {}
        self.refused: set[str] = set()
        self.bar = ModuleType("aimet_onnx.adaround.adaround_weight")
        self.bar.progress_bar = self.animated  # type: ignore[attr-defined]

    def animated(self, items: list[Any]) -> Iterator[Any]:
        raise AssertionError("a progress bar of its own")

    def QuantizationSimModel(self, model: ModelProto) -> SimpleNamespace:  # noqa: N802
        weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        quantizers = {name: FakeQuantizer(weight) for name, weight in weights.items()}
        return SimpleNamespace(model=SimpleNamespace(model=model), qc_quantize_op_dict=quantizers)

    def apply_adaround(self, sim: Any, inputs: list[dict[str, np.ndarray]], iterations: int, names: list[str]) -> None:
        print("a line where the JSON goes")
        graph = sim.model.model.graph
        self.asked = {"images": len(inputs), "iterations": iterations, "names": names, "graph": graph}
        tensors = {t.name: t for t in graph.initializer}
        for node in self.bar.progress_bar(graph.node):  # type: ignore[attr-defined]
            if node.name not in names or node.name in self.refused:
                continue
            quantizer, tensor = sim.qc_quantize_op_dict[node.input[1]], tensors[node.input[1]]
            step = np.array([e.delta for e in quantizer.get_encodings()], np.float32).reshape(-1, 1, 1, 1)
            weight = (np.floor(numpy_helper.to_array(tensor) / step) + np.float32(0.3)) * step
            tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), tensor.name))
            quantizer.frozen = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAimet:
    """AIMET 2.42.1, as far as anybody here can tell."""
    module, logger = FakeAimet(), ModuleType("aimet_onnx.common.utils")
    logger.AimetLogger = SimpleNamespace(set_level_for_all_areas=lambda level: None)  # type: ignore[attr-defined]
    for part in (module, module.bar, logger):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    for package in ("aimet_onnx.adaround", "aimet_onnx.common"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setattr(libraries, "version", lambda name: "2.42.1")
    return module


def test_a_missing_library_is_told_with_the_command_before_the_work_begins(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aimet_onnx", None)  # importing it raises ImportError
    monkeypatch.setattr(SensitivityRanges, "run", lambda *args: pytest.fail("too late"))
    with pytest.raises(QuantizationError, match="aimet can't be used") as caught:
        quantize_onnx(saved, tmp_path / "int8.onnx", photos(), section(quantizer="aimet"))
    assert caught.value.hint == "pip install 'stdet-deploy-stm32[aimet]'"
    assert not (tmp_path / "int8.onnx").exists()


def test_a_library_that_is_too_old_is_told_with_both_versions(
    fake: FakeAimet, saved: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "version", lambda name: "2.9.0")
    with pytest.raises(QuantizationError, match=r"needs AIMET 2\.42 or later, but 2\.9\.0 is installed") as caught:
        make_int8(saved, photos(), section(quantizer="aimet"))
    assert caught.value.hint == "pip install --upgrade 'stdet-deploy-stm32[aimet]'"


def weights(made: Int8) -> dict[str, np.ndarray]:
    """By layer, what the stored weights stand for."""
    writers = producers(made.inside)
    return {
        n.name: dequantized(writers[n.input[1]], made.inside) for n in made.inside.graph.node if n.op_type == "Conv"
    }


def floats(model: ModelProto) -> dict[str, np.ndarray]:
    """By layer, the float weights."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {n.name: values[n.input[1]] for n in model.graph.node if n.op_type == "Conv"}


@pytest.mark.parametrize(("largest", "options"), [(127, {}), (7, INT4)])
def test_the_rounding_survives_our_own_quantization_and_the_form_stays_ours(
    largest: int, options: dict[str, Any], fake: FakeAimet, saved: Path, section: Section, photos: Photos,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plain, made = (make_int8(saved, photos(), section(quantizer=q, **options)) for q in ("onnx_quantizer", "aimet"))
    assert check_form(made.model) == check_form(plain.model)
    original, found = floats(made.floating), weights(made)
    assert len(found) == 5
    for name, weight in original.items():  # `floating` keeps the weights that rounding is judged by
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / largest
        expected = np.clip(np.floor(weight / step), -largest, largest) * step
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7)
    assert any(not np.array_equal(found[name], weight) for name, weight in weights(plain).items())
    told = made.record["aimet"]
    assert told["version"] == "2.42.1"
    assert told["layers"] == 5
    assert 0.4 < told["share_not_rounded_to_nearest"] < 0.6
    assert "aimet" not in plain.record
    assert capsys.readouterr().out == ""  # that's where the JSON goes


def test_it_is_asked_for_the_layers_that_are_quantized_and_shows_its_progress(
    fake: FakeAimet, saved: Path, section: Section, photos: Photos
) -> None:
    done: list[tuple[int, int | None]] = []
    first, second, *others = (n for n in onnx.load(saved).graph.node if n.op_type == "Conv")
    extra = {"AdaRoundIterations": 7, "weights_tensor_override": [[second.input[1], {"quant_type": "Int8"}]]}
    options = section({"nodes_to_exclude": [first.name]}, extra, quantizer="AIMET")
    made = make_int8(saved, photos(IMAGES + 4), options, lambda i, n: done.append((i, n)))
    assert fake.asked["images"] == IMAGES
    assert fake.asked["iterations"] == made.record["aimet"]["iterations"] == 7
    assert fake.asked["names"] == [node.name for node in others]  # an override per tensor is left alone
    assert done[-1] == (len(fake.asked["graph"].node),) * 2
    assert fake.bar.progress_bar == fake.animated  # type: ignore[attr-defined]


def test_a_layer_that_it_passes_over_is_rounded_to_nearest(
    fake: FakeAimet, saved: Path, section: Section, photos: Photos
) -> None:
    skipped = next(n.name for n in onnx.load(saved).graph.node if n.op_type == "Conv")
    fake.refused = {skipped}
    plain, made = (make_int8(saved, photos(), section(quantizer=q)) for q in ("onnx_quantizer", "aimet"))
    assert made.record["aimet"]["layers"] == 4
    np.testing.assert_array_equal(weights(made)[skipped], weights(plain)[skipped])


def test_no_activation_but_relu_follows_a_layer_in_the_graph_that_it_gets(
    fake: FakeAimet, graph: Callable[..., ModelProto], section: Section, photos: Photos
) -> None:
    """It would compare the results of a SiLU's Sigmoid alone, and take a Clip for a ReLU6."""
    weight = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "silu_conv"), helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["a", "s"], ["b"], "mul"), helper.make_node("Conv", ["b", "w2"], ["c"], "relu_conv"),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]  # fmt: skip
    model = graph(nodes, {"w": weight, "w2": weight}, {"x": [1, 3, 16, 16]}, {"y": [1, 3, 16, 16]})
    round_by_aimet(AIMET, model, photos(), read_options(section(quantizer="aimet")), 3)
    given = fake.asked["graph"].node
    readers = {n.name: [r.op_type for r in given if n.output[0] in r.input] for n in given}
    assert readers["silu_conv"] == ["Identity"]
    assert readers["relu_conv"] == ["Relu"]


def test_a_failure_of_the_library_is_an_error_of_ours(
    fake: FakeAimet, saved: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(fake, "apply_adaround", broken)
    with pytest.raises(QuantizationError, match=r"AIMET 2\.42\.1 fails on this model: RuntimeError: no such operator"):
        make_int8(saved, photos(), section(quantizer="aimet"))


@pytest.mark.parametrize(
    ("params", "extra", "keys", "needed"),
    [
        ({}, {"SequentialMSE": True}, {}, "round anew"),
        ({}, {}, {"granularity": "per_tensor"}, "granularity: per_channel"),
        ({"weightType": "Int16"}, {}, {}, "weightType: Int8 or Int4"),
        ({}, {"AdaRoundIterations": 9}, {"quantizer": "nncf"}, "quantizer: aimet"),
    ],
)
def test_options_that_have_no_meaning_together_are_refused(
    params: dict[str, Any], extra: dict[str, Any], keys: dict[str, str], needed: str, section: Section
) -> None:
    with pytest.raises(QuantizationError, match="has no meaning here") as caught:
        read_options(section(params, extra, **({"quantizer": "aimet", "target_opset": 21} | keys)))
    assert needed in caught.value.hint


@pytest.mark.parametrize("options", [{}, INT4])
def test_the_real_library_rounds_otherwise_and_always_alike(
    options: dict[str, Any], saved: Path, tmp_path: Path, section: Section, photos: Photos
) -> None:
    pytest.importorskip("aimet_onnx")
    asked = section(quantizer="aimet", extra={"AdaRoundIterations": 300}, **options)
    record = quantize_onnx(saved, tmp_path / "int8.onnx", photos(8), asked)
    assert record["aimet"]["layers"] == 5
    assert 0 < record["aimet"]["share_not_rounded_to_nearest"] < 0.5
    deviations = {"weight-type"} if options else set()
    assert {f.rule for f in check_form(onnx.load(tmp_path / "int8.onnx")) if f.level == "error"} <= deviations
    assert min(record["sqnr_db"].values()) > (5 if options else 15)
    quantize_onnx(saved, tmp_path / "again.onnx", photos(8), asked)
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_the_real_library_takes_no_part_of_a_silu_for_the_whole(detector: Callable[..., ModelProto]) -> None:
    """Should the first assertion fail one day, AIMET knows SiLU, and the graph can be given as it is."""
    aimet, meta = pytest.importorskip("aimet_onnx"), pytest.importorskip("aimet_onnx.meta.utils")
    misread, given = (
        meta.get_module_act_func_pair(aimet.QuantizationSimModel(model).connected_graph)
        for model in (detector(), aimet_rounding._with_plain_results(detector()))
    )
    assert (misread["stem"], misread["depthwise"]) == ("Relu", "Sigmoid")
    assert given["stem"] == "Relu"
    assert "depthwise" not in given
