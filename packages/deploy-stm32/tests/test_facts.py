"""What STM32 targets tell the config layer: what their keys need, and what goes together, before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stdet.interfaces.target import QuantizationNeeds, TargetRequest, TargetSections
from stdet.modes import MODES
from stdet_deploy_stm32.bench.section import Benchmarking
from stdet_deploy_stm32.facts import STM32
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.sections import Deployment, Evaluation, Prediction, Tools


def mistakes(
    mode: str = "quantization", model: str | None = None, trained: str | None = None, **keys: Any
) -> list[str]:
    sections = TargetSections(quantization=Quantization(**keys))
    request = TargetRequest(MODES[mode], sections, Path(model) if model else None, trained)
    return [f"{m.key}: {m.message}" for m in STM32.check(request)]


def test_the_simulated_weights_are_those_of_the_file_that_is_made() -> None:
    (wrong,) = mistakes("chain_tqe", trained="Int4")
    assert wrong.endswith("simulates weights Int4 per_channel, but quantization makes them Int8 per_channel")
    assert "makes them Int8 per_tensor" in mistakes("chain_tqe", trained="Int8", granularity="per_tensor")[0]
    for name, value in (("SequentialMSE", True), ("BiasCorrection", True), ("Int4Share", 0.5)):
        found = mistakes("chain_tqe", trained="Int8", target_opset=21, onnx_extra_options={name: value})
        assert f"changes them by {name}" in found[0]
    assert "changes them by quantizer: nncf" in mistakes("chain_tqe", trained="Int8", quantizer="nncf")[0]
    assert not mistakes("chain_tqe", trained="Int4", target_opset=21, onnx_quant_parameters={"weightType": "int4"})


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ({"operating_mode": "full_auto"}, "quantization.max_drop", "full_auto searches under this budget"),
        ({"operating_mode": "normalise", "max_drop": 1}, "quantization.max_drop", "no float model to compare with"),
        ({"operating_mode": "normalise"}, "model.model_path", "needs the ONNX file of another tool"),
        (
            {"onnx_quant_parameters": {"percentile": 99}},
            "quantization.onnx_quant_parameters.percentile",
            "has no meaning here",
        ),
        ({"onnx_quant_parameters": {"calibrate_method": "Guess"}}, "quantization.onnx_quant_parameters", "is 'Guess'"),
        ({"onnx_extra_options": {"Int16Share": 0.1}}, "quantization", "Int16Share needs opset 21"),
    ],
)
def test_options_that_do_not_go_together_are_told_with_their_key(keys: dict[str, Any], key: str, said: str) -> None:
    found = [m for m in mistakes(**keys) if m.startswith(key)]
    assert any(said in m for m in found)
    assert not mistakes("training", **keys)  # nothing is quantized there


def test_somebody_elses_int8_file_has_no_place_in_a_chain_that_scores() -> None:
    assert not mistakes("chain_qb", "a.onnx", operating_mode="normalise")
    assert not mistakes("chain_qb", "A.ONNX", operating_mode="normalise")
    assert "no place in chain_eqe" in mistakes("chain_eqe", "a.onnx", operating_mode="normalise")[0]


def test_each_mode_says_what_quantizing_takes() -> None:
    def needs(**keys: Any) -> QuantizationNeeds:
        return STM32.needs(Quantization(**keys))

    assert needs() == QuantizationNeeds()
    assert needs(operating_mode="normalise") == QuantizationNeeds(calibration=False)
    assert needs(operating_mode="full_auto") == QuantizationNeeds(scorer=True)
    mapped = needs(operating_mode="inspection", iterative_quant_parameters={"inspection_map": 3})
    assert mapped == QuantizationNeeds(scorer=True, evaluation_images=True)


def test_what_the_references_examples_carry_for_boards_and_tools_is_accepted_and_said_to_do_nothing() -> None:
    given = TargetSections(
        evaluation=Evaluation(profile="profile_O3", input_type="uint8"), tools=Tools(path_to_cubeIDE="C:/ST/CubeIDE")
    )
    said = list(STM32.idle(TargetRequest(MODES["evaluation"], given)))
    assert [s.split(":")[0] for s in said] == ["evaluation.profile, input_type", "tools.path_to_cubeIDE"]
    assert not list(
        STM32.idle(TargetRequest(MODES["evaluation"], TargetSections(evaluation=Evaluation(), tools=Tools())))
    )


@pytest.mark.parametrize("section", [Evaluation, Prediction])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("profile", "profile_O3"),
        ("input_type", "uint8"),
        ("output_type", "int8"),
        ("input_chpos", "chlast"),
        ("output_chpos", "chfirst"),
        ("quantization_input_type", "uint8"),
        ("quantization_output_type", "float32"),
    ],
)
def test_each_key_for_a_model_on_a_board_is_said_to_do_nothing(
    section: type[Evaluation | Prediction], key: str, value: str
) -> None:
    name = section.__name__.lower()
    sections = TargetSections(**{name: section(**{key: value})})  # type: ignore[arg-type]
    (said,) = STM32.idle(TargetRequest(MODES["evaluation"], sections))
    assert said.startswith(f"{name}.{key}: for a model on a board; nothing follows")


def test_a_key_that_core_obeys_is_not_said_to_do_nothing() -> None:
    scored = TargetSections(evaluation=Evaluation(scorer="pycocotools"))
    assert not list(STM32.idle(TargetRequest(MODES["evaluation"], scored)))


@pytest.mark.parametrize(
    "given",
    [{"version": "3.0"}, {"optimization": "time"}, {"on_cloud": False}, {"profile": "default"}, {"validate_on": "board"},
     {"serial": "serial:COM4"}, {"timeout_s": 5}],
)  # fmt: skip
def test_each_key_for_an_external_tool_is_said_to_do_nothing(given: dict[str, Any]) -> None:
    tools = Tools.model_validate({"stedgeai": given})
    (said,) = STM32.idle(TargetRequest(MODES["benchmarking"], TargetSections(tools=tools)))
    assert said == "tools.stedgeai: nothing in this run drives ST's tools"


def test_where_sts_tool_runs_the_model_its_keys_do_something() -> None:
    keys = {"profile": "profile_O3", "input_type": "uint8", "output_chpos": "chfirst"}

    def idle(mode: str, **sections: Any) -> list[str]:
        tools = Tools.model_validate({"stedgeai": {"version": "3.0"}})
        return [
            said.split(":")[0]
            for said in STM32.idle(TargetRequest(MODES[mode], TargetSections(tools=tools, **sections)))
        ]

    assert not idle("evaluation", evaluation=Evaluation(target="stedgeai_n6", **keys))
    assert idle("evaluation", evaluation=Evaluation(target="stedgeai_host", **keys)) == ["evaluation.profile"]
    assert not idle("prediction", prediction=Prediction(target="stedgeai_n6", **keys))
    assert idle("training", evaluation=Evaluation(target="stedgeai_n6")) == ["tools.stedgeai"]
    assert "stedgeai_n6" in STM32.runs_on


def test_a_tool_that_the_config_names_is_driven_by_a_bench() -> None:
    named = TargetSections(tools=Tools.model_validate({"stedgeai": {"path_to_stedgeai": "C:/ST/stedgeai"}}))
    assert STM32.asked_backends(named) == ("stedgeai",)
    assert not list(STM32.idle(TargetRequest(MODES["benchmarking"], named)))
    assert list(STM32.idle(TargetRequest(MODES["evaluation"], named)))
    only_here = dataclasses.replace(named, benchmarking=Benchmarking(backends=("host",)))
    assert list(STM32.idle(TargetRequest(MODES["benchmarking"], only_here)))
    assert STM32.asked_backends(TargetSections()) == ()


@pytest.mark.parametrize(
    ("mode", "place", "keys", "idle"),
    [
        ("benchmarking", "host", {"serial": "serial", "timeout_s": 5}, "serial"),
        ("benchmarking", "host", {"serial": "serial", "validate_on": "board", "on_cloud": False}, ""),
        ("evaluation", "stedgeai_host", {"serial": "serial", "optimization": "ram"}, "serial"),
        ("evaluation", "stedgeai_n6", {"serial": "serial", "optimization": "ram"}, "optimization"),
        ("evaluation", "stedgeai_n6", {"on_cloud": True, "profile": "fast", "validate_on": "board"},
         "on_cloud, profile, validate_on"),
    ],
)  # fmt: skip
def test_a_key_that_the_tool_is_not_asked_for_is_told(mode: str, place: str, keys: dict[str, Any], idle: str) -> None:
    tools = Tools.model_validate({"stedgeai": {"path_to_stedgeai": "C:/ST/stedgeai"} | keys})
    sections = TargetSections(tools=tools, evaluation=Evaluation(target=place))
    said = list(STM32.idle(TargetRequest(MODES[mode], sections)))
    assert said == ([f"tools.stedgeai.{idle}: nothing in this run asks for that"] if idle else [])


def test_the_cloud_is_asked_only_when_the_config_says_so() -> None:
    asked = {"on_cloud": True, "path_to_stedgeai": "C:/ST/stedgeai", "serial": "serial"}
    cloud = TargetSections(tools=Tools.model_validate({"stedgeai": asked}))
    assert STM32.asked_backends(cloud) == ("cloud",)
    (said,) = STM32.idle(TargetRequest(MODES["benchmarking"], cloud))
    assert said == "tools.stedgeai.path_to_stedgeai, serial: nothing in this run asks for that"
    assert "cloud" not in STM32.default_backends
    for on_cloud in (None, False):
        named = TargetSections(tools=Tools.model_validate({"stedgeai": asked | {"on_cloud": on_cloud}}))
        assert STM32.asked_backends(named) == ("stedgeai",)


@pytest.mark.parametrize(("on_cloud", "backend"), [(True, "stedgeai"), (False, "cloud")])
def test_a_backend_and_the_place_of_the_tool_may_contradict_each_other(on_cloud: bool, backend: str) -> None:
    def found(mode: str, on_cloud: bool | None) -> list[str]:
        tools = Tools.model_validate({"stedgeai": {"on_cloud": on_cloud}})
        sections = TargetSections(tools=tools, benchmarking=Benchmarking(backends=(backend,)))
        return [mistake.key for mistake in STM32.check(TargetRequest(MODES[mode], sections))]

    assert found("benchmarking", on_cloud) == ["tools.stedgeai.on_cloud"]
    assert not found("benchmarking", not on_cloud)
    assert not found("benchmarking", None)
    assert not found("evaluation", on_cloud)


def deploying(**keys: Any) -> TargetRequest:
    return TargetRequest(MODES["deployment"], TargetSections(deployment=Deployment.model_validate(keys)))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"IDE": "gcc"}, "IDE"),
        ({"verbosity": 1}, "verbosity"),
        ({"hardware_setup": {"input": "DCMI"}}, "hardware_setup.input"),
        ({"hardware_setup": {"log_level": "debug"}}, "hardware_setup.log_level"),
        ({"hardware_setup": {"stlink_serial_number": "0042"}}, "hardware_setup.stlink_serial_number"),
    ],
)
def test_each_key_of_a_build_that_is_not_done_is_said_to_do_nothing(given: dict[str, Any], key: str) -> None:
    (said,) = STM32.idle(deploying(**given))
    assert said.startswith(f"deployment.{key}: nothing is built or flashed here")
    assert not list(STM32.idle(TargetRequest(MODES["evaluation"], deploying(**given).sections)))


def test_a_firmware_project_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert not list(STM32.idle(deploying(c_project_path=tmp_path)))
    (said,) = STM32.idle(deploying(c_project_path=tmp_path / "none"))
    assert "there is no folder" in said


def test_the_series_is_that_of_the_board() -> None:
    def wrong(serie: str, board: str | None = None) -> list[str]:
        return [m.message for m in STM32.check(deploying(hardware_setup={"serie": serie, "board": board}))]

    assert not wrong("STM32N6", "STM32N6570-DK")
    assert not wrong("stm32h7", "NUCLEO-H743ZI2")
    assert not wrong("STM32U5")
    assert "STM32N6570-DK has an STM32N6" in wrong("STM32H7", "STM32N6570-DK")[0]
    assert "runs Linux" in wrong("STM32MP2")[0]
