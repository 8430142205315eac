"""The local tool is found, asked for its version, and every way in which it fails has a kind and a next step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.failures import ToolFailure, failure_of
from stdet_deploy_stm32.st_tools.stedgeai import core_folder, find, open_tool, serial_port, series

Install = Callable[..., "StandIn"]  # noqa: F821  # of conftest.py


def test_the_config_comes_before_variables_and_those_before_path(
    stand_in: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_config, in_variable, on_path = stand_in("4.0"), stand_in("3.0"), stand_in("2.0")
    monkeypatch.setenv("PATH", f"{on_path.program.parent}{os.pathsep}{os.environ['PATH']}")
    assert find(None) == on_path.program
    monkeypatch.setenv("STM32_AI_EXE", str(in_variable.program))
    assert find(Stedgeai()) == in_variable.program
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(in_variable.folder))
    assert find(None) == in_variable.program
    for named in (in_config.program, in_config.program.parent, in_config.folder):
        assert find(Stedgeai(path_to_stedgeai=named)) == in_config.program
    assert core_folder(in_config.program) == in_config.folder


def test_a_named_place_without_the_tool_is_an_error_wherever_else_there_is_one(
    stand_in: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ToolFailure, match=r"isn't here\nhint: install ST Edge AI Core"):
        find(None)
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(stand_in().folder))
    with pytest.raises(ToolFailure, match=r"tools\.stedgeai\.path_to_stedgeai is .*nowhere") as failure:
        find(Stedgeai(path_to_stedgeai=tmp_path / "nowhere"))
    assert failure.value.kind == "missing"
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(tmp_path / "gone"))
    with pytest.raises(ToolFailure, match="STEDGEAI_CORE_DIR is"):
        find(None)


def test_a_program_that_may_not_be_run_is_told(stand_in: Install) -> None:
    program = stand_in().program
    program.chmod(0o644)
    if os.access(program, os.X_OK):
        pytest.skip("this user may run everything")
    with pytest.raises(ToolFailure, match=r"chmod \+x"):
        find(Stedgeai(path_to_stedgeai=program))


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2", "3.0", "4.0"])
def test_each_version_says_which_it_is(stand_in: Install, tmp_path: Path, version: str) -> None:
    program = stand_in(version).program
    for wanted in (None, version, "10.2"):
        tool = open_tool(Stedgeai(path_to_stedgeai=program, version=wanted), tmp_path / "log")
        assert tool.version.startswith(version)
        assert tool.major == int(version[0])
        assert not tool.notes


@pytest.mark.parametrize(
    ("said", "wanted", "message"),
    [
        (
            "ST Edge AI Core v2.2.0-20266 2adc",
            "2.20",
            r"is version 2\.2\.0-20266, and tools\.stedgeai\.version is 2\.20",
        ),
        ("ST Edge AI Core v2.2.0\nSTM32CubeAI 10.2.0-RC1", "10.0.0", r"2\.2\.0 \(STM32Cube\.AI 10\.2\.0\), and"),
        ("ST Edge AI Core v1.0.0-19894", None, r"is version 1\.0\.0-19894"),
        ("STM32CubeAI 8.1.0", None, "from before ST Edge AI Core"),
        ("hello", None, "doesn't say which ST Edge AI Core it is"),
        ("", None, "doesn't say"),
    ],
)
def test_a_version_that_will_not_do_is_refused(
    stand_in: Install, tmp_path: Path, said: str, wanted: str | None, message: str
) -> None:
    tool = stand_in()
    (tool.answers / "version.txt").write_text(said)
    with pytest.raises(ToolFailure, match=message) as failure:
        open_tool(Stedgeai(path_to_stedgeai=tool.program, version=wanted), tmp_path / "log")
    assert failure.value.kind == "version"
    assert failure.value.hint


def test_a_newer_version_is_tried_and_said_to_be_newer(stand_in: Install, tmp_path: Path) -> None:
    tool = open_tool(Stedgeai(path_to_stedgeai=stand_in("5.0.0-1").program), tmp_path / "log")
    assert "newer than those whose files are known" in tool.notes[0]


def test_a_tool_that_cannot_even_say_its_version_has_a_log(stand_in: Install, tmp_path: Path) -> None:
    tool = stand_in()
    tool.fault("--version", output="licence expired\n", returncode=7)
    with pytest.raises(ToolFailure) as failure:
        open_tool(Stedgeai(path_to_stedgeai=tool.program), tmp_path / "log")
    assert failure.value.kind == "version"
    assert "licence expired" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("output", "kind", "told"),
    [
        ("E010: NOT IMPLEMENTED: Unsupported layer types: Einsum, GridSample, stopping.", "operator",
         "doesn't know the operators Einsum, GridSample"),
        ("TOOL ERROR: operator 'NonMaxSuppression' is not supported", "operator", "the operator NonMaxSuppression ("),
        ("NOT IMPLEMENTED: Order of dimensions of input cannot be interpreted", "model", "Order of dimensions"),
        ("INTERNAL ERROR: Mismatch in channel position", "model", "Mismatch in channel position"),
        ("E103(CliRuntimeError): Error calling the Neural Art compiler\nInternal compiler error (signo=2)", "crash", "signo"),
        ("buffer Conv2D_4_out_0 cannot be allocated in npuRAM5 (3145728 bytes)", "memory", "no room in the pool npuRAM5"),
        ("E103(CliRuntimeError): Error calling the Neural Art compiler\natonn: 116 MB unallocatable", "memory", "a memory"),
        ("ld: region `FLASH' overflowed by 1234 bytes", "memory", "in the pool FLASH"),
        ("E801(HwIOError): No SERIAL COM port detected (STM board is not connected!)", "board", "not connected"),
        ("E801(HwIOError): could not open port 'COM6': PermissionError(13, 'Access is denied.', None, 5)", "board", "COM6"),
        ('E200(ValidationError): TARGET: Unable to bind the ST.AI runtime with "network" c-model: []\n'
         "E801(HwIOError): Invalid firmware - COM6:115200", "board", "bind the ST.AI runtime"),
        ("something new", "failed", "/ something new"),
        ("", "failed", "ended with 5: "),
    ],
)  # fmt: skip
def test_what_a_failed_tool_says_has_a_kind_and_a_next_step(tmp_path: Path, output: str, kind: str, told: str) -> None:
    failure = failure_of("stedgeai analyze", f"ST Edge AI Core v2.2.0\n{output}\n", 5, tmp_path / "a.log")
    assert failure.kind == kind
    assert told in failure.message
    assert failure.hint.endswith(f"its log is {tmp_path / 'a.log'}")


def test_boards_have_the_tools_names_of_their_chips() -> None:
    names = {name: series(board) for name, board in boards().items()}
    assert names["stm32n6570-dk"] == names["nucleo-n657x0-q"] == "stm32n6"
    assert names["stm32h747i-disco"] == names["nucleo-h743zi2"] == "stm32h7"
    assert (names["b-u585i-iot02a"], names["nucleo-f401re"], names["stm32l4r9i-disco"]) == (
        "stm32u5",
        "stm32f4",
        "stm32l4",
    )
    assert names["stm32"] == "stm32"


def test_a_port_has_the_speed_of_the_firmware_unless_it_says_another() -> None:
    assert [serial_port(port, npu) for port, npu in ((None, True), ("serial", False), ("serial:COM4", False))] == [
        "serial:921600", "serial:115200", "serial:COM4:115200"
    ]  # fmt: skip
    assert serial_port("serial:/dev/ttyACM0:9600", npu=True) == "serial:/dev/ttyACM0:9600"
