"""The ranking of tensors, the groups, and whether ranges have settled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Evaluator
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize import modes
from stdet_deploy_stm32.quantize.inspection import NO_NOISE_DB, SqnrMeter, group_effects, only, quantized_tensors, rank
from stdet_deploy_stm32.quantize.int8 import Int8, make_int8
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.ranges.settling import range_settling
from stdet_deploy_stm32.quantize.section import Quantization

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


@pytest.fixture
def made(saved: Path, section: Section, photos: Photos) -> Int8:
    return make_int8(saved, photos(), section())


def outputs(model: ModelProto, image: np.ndarray) -> list[np.ndarray]:
    session = new_session(model.SerializeToString(), optimize=False)
    return [np.asarray(o) for o in session.run(None, {session.get_inputs()[0].name: image})]


def test_every_quantized_tensor_is_found_once(made: Int8) -> None:
    found = quantized_tensors(made.floating, made.inside)
    names = [t.tensor for t in found]
    assert len(set(names)) == len(names)
    assert {t.tensor for t in found if t.kind == "weight"} == {"w0", "w1", "w2", "w3", "w4"}
    activations = {t.tensor: t for t in found if t.kind == "activation"}
    assert {"image", "c1", "s1", "m1", "c2", "a2", "boxes", "logits", "scores"} <= activations.keys()
    assert (activations["m1"].layer, activations["m1"].op_type) == ("silu_mul", "Mul")
    assert activations["image"].op_type == "Input"


@pytest.mark.parametrize("kinds", [{"activation"}, {"weight", "activation"}, {"weight"}])
def test_a_group_is_measured_with_the_other_tensors_in_float(made: Int8, photos: Photos, kinds: set[str]) -> None:
    """Oracle: the same graph without any optimizer, of which one makes float weights 8-bit ones."""
    probe = only(made.floating, [t for t in quantized_tensors(made.floating, made.inside) if t.kind in kinds])
    real, found = (
        np.stack([outputs(m, image)[0] for image in photos().batches()]).astype(np.float64)
        for m in (made.floating, probe)
    )
    expected = 10 * np.log10(np.square(real).sum() / np.square(real - found).sum())
    assert SqnrMeter(made.floating, photos(), 6)(probe)["output"] == pytest.approx(expected, abs=0.05)


def test_one_weight_alone_is_the_float_model_with_that_weight_rounded(made: Int8, photos: Photos) -> None:
    (weight,) = (t for t in quantized_tensors(made.floating, made.inside) if t.tensor == "w2")
    model = only(made.floating, [weight])
    real = {c.name: numpy_helper.to_array(c) for c in made.floating.graph.initializer}
    new = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    changed = [name for name in real if not np.array_equal(real[name], new[name])]
    assert changed == ["w2"]
    steps = np.abs(real["w2"]).reshape(8, -1).max(1).reshape(8, 1, 1, 1) / 127
    assert np.all(np.abs(new["w2"] - real["w2"]) <= steps * 0.5001)
    assert np.allclose(np.rint(new["w2"] / steps), new["w2"] / steps, atol=1e-3)


@pytest.mark.parametrize("tensor", ["c1", "a2", "output"])
def test_one_activation_alone_is_rounded_where_it_is_made(
    saved: Path, section: Section, photos: Photos, tensor: str
) -> None:
    """The graph's own outputs tell: with only the last tensor quantized, they are the rounded float outputs."""
    made = make_int8(saved, photos(), section(quantization_output_type="int8"))
    (entry,) = (t for t in quantized_tensors(made.floating, made.inside) if t.tensor == tensor)
    model = only(made.floating, [entry])
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == ["output"]
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == 1
    image = next(photos(1).batches())
    (real,), (rough,) = outputs(made.floating, image), outputs(model, image)
    assert entry.scale is not None
    if tensor == "output":
        assert entry.zero_point is not None
        steps = np.clip(np.rint(real / entry.scale) + entry.zero_point, -128, 127) - float(entry.zero_point)
        assert np.abs(rough - steps * entry.scale).max() <= entry.scale * 1.001
        assert np.mean(np.abs(rough - steps * entry.scale) > 1e-5) < 0.01
    assert np.abs(real - rough).max() > 0


def test_a_tensor_with_a_ruined_range_comes_first(saved: Path, section: Section, photos: Photos) -> None:
    ruin = {"activations_tensor_override": [["m1", {"scale": 5.0, "zero_point": 0}]]}
    made = make_int8(saved, photos(), section(extra=ruin))
    effects = rank(made.floating, made.inside, SqnrMeter(made.floating, photos(), 3))
    assert effects[0].tensor == "m1"
    assert effects[0].worst_db < effects[1].worst_db - 10
    assert [e.worst_db for e in effects] == sorted(e.worst_db for e in effects)


def test_the_signal_to_noise_is_that_of_numpy(made: Int8, photos: Photos) -> None:
    effects = {e.tensor: e for e in rank(made.floating, made.inside, SqnrMeter(made.floating, photos(), 2))}
    (entry,) = (t for t in quantized_tensors(made.floating, made.inside) if t.tensor == "c1")
    signal = noise = 0.0
    for image in list(photos().batches())[:2]:
        (real,), (rough,) = outputs(made.floating, image), outputs(only(made.floating, [entry]), image)
        signal, noise = signal + np.square(real).sum(), noise + np.square(real - rough).sum()
    assert effects["c1"].sqnr_db["output"] == pytest.approx(10 * np.log10(signal / noise), abs=0.05)


def test_all_tensors_together_are_the_int8_model(made: Int8, photos: Photos) -> None:
    groups = group_effects(made.floating, made.inside, SqnrMeter(made.floating, photos(), 6))
    assert groups["both"]["output"] == pytest.approx(made.record["sqnr_db"]["output"], abs=0.7)
    assert groups["both"]["output"] < min(groups["weights"]["output"], groups["activations"]["output"]) + 0.1


def test_a_tensor_that_rounds_to_itself_has_no_noise(graph: Build, section: Section, tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[1, 1])
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * 127  # its own int8 form
    onnx.save(graph([node], {"w": weight}, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}), tmp_path / "f.onnx")
    image = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    data = CalibrationData(lambda index: image, 1, "", "one")
    made = make_int8(tmp_path / "f.onnx", data, section())
    effects = {e.tensor: e for e in rank(made.floating, made.inside, SqnrMeter(made.floating, data, 1))}
    assert effects["w"].sqnr_db["y"] == NO_NOISE_DB
    assert effects["x"].worst_db < NO_NOISE_DB


def test_the_mode_writes_file_ranking_and_picture(
    saved: Path, section: Section, photos: Photos, tmp_path: Path
) -> None:
    asked: list[Path] = []

    def judge(path: Path) -> float:
        asked.append(path)
        assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(path).graph.node) <= 1
        return 0.5 + len(asked) / 100

    config = section(
        operating_mode="inspection", iterative_quant_parameters={"inspection_map": 2, "inspection_images": 2}
    )
    out = tmp_path / "out" / "q.onnx"
    result = run_mode(Job(saved, out, photos(), config, None, Evaluator(judge, "AP50", "e")))
    assert len(asked) == 2
    assert not any(path.exists() for path in asked)
    document = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert document["format"] == "stdet.inspection/1"
    assert [t["score"] for t in document["tensors"][:3]] == [0.51, 0.52, None]
    assert {t["tensor"] for t in document["tensors"]} >= {"w0", "image", "m1"}
    assert {p.name for p in out.parent.iterdir()} == {"q.onnx", "inspection.json", "inspection.png"}
    assert result.record["worst_tensors"][0]["tensor"] == document["tensors"][0]["tensor"]
    first = document["tensors"][0]
    assert result.worst["layer"].startswith(f"{first['layer']} ({first['op_type']}; {first['tensor']} alone: ")
    signal = result.record["sqnr_db"]
    assert result.worst["output"] == f"{min(signal, key=signal.get)} ({min(signal.values()):.1f} dB)"
    assert any(table.columns[-1] == "AP50" for table in result.tables)
    stored = {p.key: p.value for p in onnx.load(out).metadata_props}["stdet.quantization"]
    assert json.loads(stored) == json.loads(json.dumps(result.record))


def test_tensors_are_ranked_with_as_many_images_as_asked(
    saved: Path, section: Section, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter, asked = modes.SqnrMeter, []

    def counting(*arguments: Any) -> Any:
        made = meter(*arguments)
        asked.append(len(made.images))
        return made

    monkeypatch.setattr(modes, "SqnrMeter", counting)
    config = section(operating_mode="inspection", iterative_quant_parameters={"inspection_images": 3})
    run_mode(Job(saved, tmp_path / "q.onnx", photos(), config, None, None))
    assert asked == [3]


def test_the_score_of_single_tensors_needs_an_evaluator(
    saved: Path, section: Section, photos: Photos, tmp_path: Path
) -> None:
    config = section(operating_mode="inspection", iterative_quant_parameters={"inspection_map": 1})
    with pytest.raises(QuantizationError, match="inspection_map needs evaluation images"):
        run_mode(Job(saved, tmp_path / "q.onnx", photos(), config, None, None))
    assert not (tmp_path / "q.onnx").exists()


# --- ranges -----------------------------------------------------------------------------------------------------------


def settled(model: ModelProto, scale_of: Callable[[int], float], count: int) -> dict[str, Any]:
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    data = CalibrationData(lambda i: image * np.float32(scale_of(i)), count, "", "made")
    return range_settling(model, data)


def test_ranges_of_equal_images_are_settled_and_those_of_one_outlier_are_not(made: Int8) -> None:
    equal = settled(made.floating, lambda i: 1.0, 10)
    assert equal["settled"] is True
    assert equal["median_missed"] == 0
    outlier = settled(made.floating, lambda i: 50.0 if i == 3 else 1.0, 10)
    assert outlier["settled"] is False
    # the outlier is missing from (9/10)^10 = 35 % of the samples, and its range is then nearly gone
    assert outlier["worst"][next(iter(outlier["worst"]))] == pytest.approx(0.35, abs=0.12)


def test_one_image_cannot_tell(made: Int8) -> None:
    assert settled(made.floating, lambda i: 1.0, 1) == {"images": 1, "settled": None}
