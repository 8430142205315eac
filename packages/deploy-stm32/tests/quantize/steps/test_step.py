"""A method of quantization is one object and one line: a toy shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Evaluator
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.int8 import make_int8
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.section import GeneralQuantization, Quantization, with_steps
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Step, Try, Work, meaningless

Photos = Callable[..., CalibrationData]
Section = Callable[..., Quantization]


class ToyOptions(Options):
    Toy: bool = Field(False, description="plays")


class Toy(Step[ToyOptions]):
    options = ToyOptions
    tries = (Try({"Toy": True}, seconds=0),)

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).Toy and settings.quantizer != "onnx_quantizer":
            yield meaningless("onnx_extra_options.Toy", "quantizer: onnx_quantizer")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"toy": self.of(settings).Toy}

    def run(self, work: Work) -> dict[str, Any]:
        return {"played": len(work.placed().graph.node)} if self.of(work.settings).Toy else {}


@pytest.fixture
def section_with_toy(monkeypatch: pytest.MonkeyPatch) -> type[GeneralQuantization]:
    monkeypatch.setattr(steps, "STEPS", (*steps.STEPS, Toy()))
    return with_steps()


def test_its_option_is_accepted_and_its_record_stored(
    section_with_toy: type[GeneralQuantization], section: Section, saved: Path, photos: Photos
) -> None:
    made = make_int8(saved, photos(), section_with_toy(onnx_extra_options={"Toy": True}))
    assert made.record["played"] == len(made.inside.graph.node)
    assert made.record["options"]["toy"] is True
    without = make_int8(saved, photos(), section_with_toy())
    assert "played" not in without.record
    assert without.record["options"]["toy"] is False
    with pytest.raises(ValidationError, match="Toy"):
        section(extra={"Toy": True})


def test_its_rule_is_enforced(section_with_toy: type[GeneralQuantization]) -> None:
    with pytest.raises(QuantizationError, match=r"quantization\.onnx_extra_options\.Toy has no meaning here") as caught:
        read_options(section_with_toy(quantizer="nncf", onnx_extra_options={"Toy": True}))
    assert caught.value.hint == "it needs quantizer: onnx_quantizer"
    assert read_options(section_with_toy(quantizer="nncf")).quantizer == "nncf"


def test_the_search_tries_it(
    section_with_toy: type[GeneralQuantization], saved: Path, photos: Photos, tmp_path: Path
) -> None:
    def score(path: Path) -> float:
        return 1.0 if path == saved else 0.5

    trials = len(steps.methods()) + 1
    config = section_with_toy(
        operating_mode="full_auto", max_drop=1.0, iterative_quant_parameters={"max_trials": trials}
    )
    run_mode(Job(saved, tmp_path / "q.onnx", photos(), config, None, Evaluator(score, "AP50", "judge", None)))
    last = json.loads((tmp_path / "search.json").read_text())["trials"][-1]
    assert last["label"].endswith(" + Toy")
    assert last["changes"]["onnx_extra_options"] == {"Toy": True}


def test_configs_are_checked_without_onnx_onnxruntime_and_torch() -> None:
    code = (
        "import sys, stdet_deploy_stm32.quantize.options; "
        "print(sorted({'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_step_says_what_its_keys_are_for() -> None:
    fields = [(name, field) for step in steps.STEPS for name, field in step.options.model_fields.items()]
    assert len({name for name, _ in fields}) == len(fields) == 13
    assert all(field.description for _, field in fields)


@pytest.mark.parametrize("extra", [{"SmoothQuantAlpha": 0.7}, {"SmoothQuantFolding": False}])
def test_how_to_smooth_means_nothing_without_smoothing(section: Section, extra: dict[str, Any]) -> None:
    with pytest.raises(QuantizationError, match=f"{next(iter(extra))} has no meaning here"):
        read_options(section(extra=extra))
    read_options(section(extra=extra | {"SmoothQuant": True}))


def test_what_leaves_a_simulated_training_is_named(section: Section) -> None:
    options = section(target_opset=21, extra={"Int4Share": 0.5, "SequentialMSE": True, "BiasCorrection": True})
    settings = read_options(options)
    assert [named for step in steps.STEPS if (named := step.changes_trained(settings))] == [
        "Int4Share",
        "SequentialMSE",
        "BiasCorrection",
    ]
    assert not any(step.changes_trained(read_options(section())) for step in steps.STEPS)


def test_its_key_stands_in_the_schema_with_its_description(section_with_toy: type[GeneralQuantization]) -> None:
    properties = with_steps().model_json_schema()["$defs"]["OnnxExtraOptions"]["properties"]
    assert properties["Toy"]["description"] == "plays"
    assert {"WeightSymmetric", "BiasCorrection", "SmoothQuantAlpha"} <= properties.keys()


def test_quantizers_and_methods_of_the_schema_are_those_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Toy):
        library = Library("other", "Other", "weights left alone", "other", "other", (1, 0))
        methods = ("Guess",)

    monkeypatch.setattr(steps, "STEPS", (*steps.STEPS, Other()))
    schema = with_steps().model_json_schema()
    quantizer = schema["properties"]["quantizer"]
    assert quantizer["enum"] == ["onnx_quantizer", "nncf", "aimet", "other"]
    assert "other: weights left alone" in quantizer["description"]
    told = schema["$defs"]["OnnxQuantParameters"]["properties"]["calibrate_method"]["description"]
    assert told.startswith("of activation ranges: Guess, Sensitivity")
    asked = with_steps()(quantizer="OTHER", onnx_quant_parameters={"calibrate_method": "guess"})
    assert (read_options(asked).quantizer, read_options(asked).method) == ("other", "Guess")
