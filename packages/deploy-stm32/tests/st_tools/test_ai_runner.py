"""`stedgeai_host` and `stedgeai_n6`: a stand-in for ST's AiRunner computes, and its answers come back as the ONNX file's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from stdet.errors import ConfigError, StdetError
from stdet.interfaces.deploy import PlacedNetwork
from stdet.interfaces.target import TargetSections
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.sections import Evaluation, Prediction, Tools
from stdet_deploy_stm32.st_tools.failures import ToolFailure
from stdet_deploy_stm32.target import Stm32Target

RUNNER = """\
import json, os, sys
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
class AiRunner:
    def connect(self, descriptor):
        with open(os.path.join(HERE, "session.json")) as file:
            self.told = json.load(file)
        self.told["connected"].append(descriptor)
        with open(os.path.join(HERE, "session.json"), "w") as file:
            json.dump(self.told, file)
        print("ST says hello")
        self.is_connected = self.told["reachable"]
    def get_error(self):
        return "E801(HwIOError): No SERIAL COM port detected (STM board is not connected!)"
    def disconnect(self):
        pass
    def get_input_infos(self):
        return [self.info("input", "image", (3, 16, 16))]
    def get_output_infos(self):
        return [self.info("output", "rows_Transpose", (64, 6))]
    def info(self, side, name, shape):
        options = self.told["options"]
        kind, last = options["--%s-data-type" % side], options["--%ss-ch-position" % side] == "chlast"
        shape = shape[1:] + shape[:1] if last else shape
        scale, zero = self.told[side]
        quantized = {"scale": np.float32(scale), "zero_point": np.int32(zero)}
        pad = (1,) * (4 - len(shape))
        return {"name": name, "shape": pad + shape, "type": np.dtype(kind).type,
                **(quantized if kind != "float32" else {"scale": None, "zero_point": None})}
    def invoke(self, inputs):
        import onnxruntime
        options = self.told["options"]
        scale, zero = self.told["input"]
        values = inputs.astype(np.float32)
        if inputs.dtype != np.float32:
            values = (values - zero) * np.float32(scale)
        if options["--inputs-ch-position"] == "chlast":
            values = np.moveaxis(values, -1, 1)
        session = onnxruntime.InferenceSession(os.path.join(HERE, "model.onnx"), providers=["CPUExecutionProvider"])
        out = np.concatenate([session.run(None, {"image": np.ascontiguousarray(v[None])})[0] for v in values])
        if options["--outputs-ch-position"] == "chlast":
            out = np.moveaxis(out, 1, -1)
        kind = np.dtype(options["--output-data-type"])
        if kind != np.float32:
            scale, zero = self.told["output"]
            limits = np.iinfo(kind)
            out = np.clip(np.rint(out / np.float32(scale)) + zero, limits.min, limits.max).astype(kind)
        return [out.reshape((len(out),) + (1,) * (4 - out.ndim) + out.shape[1:])], {"c_durations": [1.5] * len(out)}
"""
PREPARE = """
if command == "generate":
    runner = os.path.join(here, "..", "..", "scripts", "ai_runner", "stm_ai_runner")
    with open(os.path.join(runner, "session.json")) as file:
        session = json.load(file)
    session["options"] = {k: v for k, v in zip(sys.argv, sys.argv[1:]) if k.startswith("--")}
    with open(os.path.join(runner, "session.json"), "w") as file:
        json.dump(session, file)
    shutil.copyfile(session["options"]["--model"], os.path.join(runner, "model.onnx"))
"""
LOADER = "import sys, os\nopen('loaded', 'a').write('x')\n"


Place = Callable[..., PlacedNetwork]


@pytest.fixture
def tool(stand_in: Callable[..., Any]) -> Any:
    """An installation with ST's AiRunner and the loader of an N6."""
    tool = stand_in("3.0")
    runner = tool.folder / "scripts" / "ai_runner" / "stm_ai_runner"
    runner.mkdir(parents=True)
    (runner / "__init__.py").write_text(RUNNER)
    session = {"connected": [], "reachable": True, "input": [1.0, 0], "output": [0.05, 10], "options": {}}
    (runner / "session.json").write_text(json.dumps(session))
    scripts = tool.folder / "scripts" / "N6_scripts"
    scripts.mkdir()
    (scripts / "n6_loader.py").write_text(LOADER)
    (scripts / "user_neuralart.json").write_text('{"Profiles": {"profile_O3": {"options": "--O3"}}}')
    tool.program.write_text(tool.program.read_text() + PREPARE)
    return tool


def session(tool: Any, **changes: Any) -> dict[str, Any]:
    """What the stand-in's runner knows, changed."""
    path = tool.folder / "scripts" / "ai_runner" / "stm_ai_runner" / "session.json"
    told: dict[str, Any] = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(told))
    return told


@pytest.fixture
def placed(tool: Any, saved: Path, tmp_path: Path) -> Place:
    """The miniature detector at a place, by a config's sections."""

    def build(place: str = "stedgeai_host", asks: str = "evaluation", **keys: Any) -> PlacedNetwork:
        kind = {"evaluation": Evaluation, "prediction": Prediction}[asks]
        tools = Tools.model_validate({"stedgeai": {"path_to_stedgeai": tool.program, "optimization": "ram"}})
        sections = TargetSections(tools=tools, **{asks: kind(target=place, **keys)})  # type: ignore[arg-type]
        (tmp_path / "logs").mkdir(exist_ok=True)
        return Stm32Target(boards()["stm32"], sections).network(saved, place, tmp_path / "logs", asks)

    return build


@pytest.fixture
def images() -> np.ndarray:
    """A batch of pixels."""
    return np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def expected(saved: Path, images: np.ndarray) -> np.ndarray:
    run = onnxruntime.InferenceSession(saved, providers=["CPUExecutionProvider"]).run
    return np.concatenate([run(None, {"image": image[None]})[0] for image in images])


@pytest.mark.parametrize("asks", ["evaluation", "prediction"])
def test_by_default_the_borders_are_those_of_the_reference(
    placed: Place, tool: Any, images: np.ndarray, expected: np.ndarray, asks: str, tmp_path: Path
) -> None:
    answers = placed(asks=asks)(images)
    assert list(answers) == ["output"]
    assert answers["output"].dtype == np.float32
    assert answers["output"].shape == expected.shape == (2, 64, 6)
    np.testing.assert_allclose(answers["output"], expected.clip(-6.9, 5.85), atol=0.026)  # int8 steps of 0.05
    options = tool.calls("generate")[0]["argv"]
    assert options[options.index("--dll") :] == [
        "--dll", "--optimization", "ram", "--input-data-type", "uint8", "--output-data-type", "int8",
        "--inputs-ch-position", "chlast", "--outputs-ch-position", "chlast",
    ]  # fmt: skip
    assert session(tool)["connected"] == [options[options.index("--workspace") + 1]] * 2
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == [
        "describe.log", "generate.log", "run.log", "version.log"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asks", "keys"),
    [
        ("evaluation", {"output_type": "float32"}),
        ("evaluation", {"output_type": "float32", "output_chpos": "chfirst"}),
        ("evaluation", {"output_type": "float32", "input_chpos": "chfirst"}),
        ("evaluation", {"output_type": "float32", "input_type": "float32"}),
        ("evaluation", {"quantization_output_type": "float32", "quantization_input_type": "float32"}),
        ("prediction", dict.fromkeys(["input_type", "output_type"], "float32")
                       | dict.fromkeys(["input_chpos", "output_chpos"], "chfirst")),
        ("prediction", {"quantization_output_type": "float32", "quantization_input_type": "float32"}),
    ],
)  # fmt: skip
def test_types_and_layouts_are_those_of_the_config_and_the_answers_the_same(
    placed: Place, tool: Any, images: np.ndarray, expected: np.ndarray, keys: dict[str, str], asks: str
) -> None:
    np.testing.assert_allclose(placed(asks=asks, **keys)(images)["output"], expected, rtol=1e-5, atol=1e-6)
    flags = {"input_type": "--input-data-type", "output_type": "--output-data-type", "input_chpos": "--inputs-ch-position",
             "output_chpos": "--outputs-ch-position"}  # fmt: skip
    options = session(tool)["options"]
    assert {options[flags[key.removeprefix("quantization_")]] for key in keys} == set(keys.values())


def test_an_int8_input_is_fed_by_its_own_scale_and_zero_point(
    placed: Place, tool: Any, images: np.ndarray, expected: np.ndarray
) -> None:
    session(tool, input=[1.0, -128])
    found = placed(input_type="int8", output_type="float32")(images)["output"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_board_is_loaded_with_the_profile_of_the_config(
    placed: Place, tool: Any, images: np.ndarray, expected: np.ndarray
) -> None:
    network = placed("stedgeai_n6", profile="profile_O3", output_type="float32")
    np.testing.assert_allclose(network(images)["output"], expected, rtol=1e-5, atol=1e-6)
    options = tool.calls("generate")[0]["argv"]
    profile = options[options.index("--st-neural-art") + 1]
    assert profile.startswith("profile_O3@")  # of the file that comes with ST's script
    assert profile.endswith("neural_art.json")
    assert session(tool)["connected"] == ["serial:921600"] * 2
    loaded = tool.folder / "scripts" / "N6_scripts" / "loaded"
    assert loaded.read_text() == "x"
    placed("stedgeai_n6", profile="auto_valid")
    assert loaded.read_text() == "x"  # the board has it
    assert len(tool.calls("generate")) == 1
    placed("stedgeai_n6", profile="of-the-tool", asks="prediction")
    assert tool.calls("generate")[1]["argv"][-9:-8] == ["of-the-tool"]


def test_a_board_that_is_not_there_is_told_before_the_first_image(placed: Place, tool: Any, tmp_path: Path) -> None:
    session(tool, reachable=False)
    with pytest.raises(ToolFailure, match=r"ST's AiRunner can't reach the board: E801.*not connected") as failure:
        placed("stedgeai_n6")
    assert failure.value.kind == "board"
    assert failure.value.log == tmp_path / "logs" / "describe.log"


def test_an_installation_without_its_python_package_is_told(placed: Place, tool: Any) -> None:
    runner = tool.folder / "scripts" / "ai_runner" / "stm_ai_runner" / "__init__.py"
    runner.write_text("import nanopb_of_st\n" + RUNNER)
    with pytest.raises(ToolFailure, match="No module named 'nanopb_of_st'") as failure:
        placed()
    assert failure.value.kind == "missing"


def test_another_network_on_the_board_is_found_out(placed: Place, tool: Any, images: np.ndarray) -> None:
    runner = tool.folder / "scripts" / "ai_runner" / "stm_ai_runner" / "__init__.py"
    runner.write_text(RUNNER.replace("(3, 16, 16)", "(3, 8, 8)"))
    with pytest.raises(ToolFailure, match=r"takes \[1, 8, 8, 3\], and images are \[2, 3, 16, 16\]"):
        placed()(images)
    runner.write_text(RUNNER.replace("(64, 6))]", "(64, 6))] * 2"))
    with pytest.raises(ToolFailure, match="has 1 outputs, and what runs at stedgeai_host 1 inputs and 2 outputs"):
        placed()
    runner.write_text(RUNNER.replace("return [out.reshape", "out = out[:, :3]\n        return [out.reshape"))
    with pytest.raises(ToolFailure, match=r"an output is .* on the device and"):
        placed()(images)


def test_numbers_without_a_meaning_are_not_guessed(placed: Place, tool: Any) -> None:
    runner = tool.folder / "scripts" / "ai_runner" / "stm_ai_runner" / "__init__.py"
    runner.write_text(RUNNER.replace('"scale": np.float32(scale)', '"scale": None'))
    with pytest.raises(ToolFailure, match=r"nothing says what its numbers mean\nhint: set input_type to float32"):
        placed()


def test_two_spellings_that_differ_are_refused(placed: Place) -> None:
    with pytest.raises(
        ConfigError, match=r"prediction\.input_type is int8, and prediction\.quantization_input_type uint8"
    ):
        placed(asks="prediction", input_type="int8", quantization_input_type="uint8")


def test_what_is_missing_is_told_before_a_run(tool: Any, tmp_path: Path) -> None:
    def check(board: str, path: Path, places: set[str], backends: tuple[str, ...] = (), **keys: Any) -> None:
        tools = Tools.model_validate({"stedgeai": {"path_to_stedgeai": path} | keys})
        Stm32Target(boards()[board], TargetSections(tools=tools)).check_tools(backends, places)

    check("stm32", tool.program, {"stedgeai_n6", "stedgeai_host"}, ("stedgeai",))
    with pytest.raises(ToolFailure, match="there is no stedgeai"):
        check("stm32", tmp_path / "none", {"stedgeai_host"})
    with pytest.raises(StdetError, match="stedgeai_n6 is an STM32N6, and NUCLEO-F401RE is none"):
        check("nucleo-f401re", tool.program, {"stedgeai_n6"})
    with pytest.raises(ConfigError, match=r"the profile file .*gone\.json can't be read"):
        check("stm32n6570-dk", tool.program, set(), ("stedgeai",), profile=f"mine@{tmp_path / 'gone.json'}")
    with pytest.raises(ConfigError, match="names of its own profiles only"):
        check("stm32n6570-dk", tool.program, set(), ("cloud",), profile="mine@file.json")
    with pytest.raises(ConfigError, match="nothing emulates the NPU"):
        check("stm32n6570-dk", tool.program, set(), ("stedgeai",), validate_on="host")
    with pytest.raises(ToolFailure, match="token"):
        check("stm32", tool.program, set(), ("cloud",))
