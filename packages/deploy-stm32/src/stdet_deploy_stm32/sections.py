"""Config sections of STM32 targets beside `quantization`, which is `quantize.section`'s. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from stdet.interfaces import target
from stdet.interfaces.family import Options

InputType = Literal["uint8", "int8", "float32"]
ChannelPosition = Literal["chlast", "chfirst"]


def upper(value: object) -> object:
    """A text in capitals; the rest as it is. Before a key is checked whose letter case doesn't matter."""
    return value.upper() if isinstance(value, str) else value


class OnBoard(Options):
    """How a network's borders are where ST's tool runs it; elsewhere nothing follows from these keys."""

    profile: str | None = Field(
        None,
        description="on stedgeai_n6: of the Neural-ART compiler, as in tools.stedgeai; auto_valid: loaded already",
    )
    input_type: InputType | None = Field(None, description="of the network on stedgeai_*; default: uint8")
    output_type: InputType | None = Field(None, description="of the network on stedgeai_*; default: int8")
    input_chpos: ChannelPosition | None = Field(None, description="layout on stedgeai_*; default: chlast")
    output_chpos: ChannelPosition | None = Field(None, description="layout on stedgeai_*; default: chlast")
    quantization_input_type: InputType | None = Field(None, description="another spelling of input_type")
    quantization_output_type: InputType | None = Field(None, description="another spelling of output_type")


class Evaluation(target.Evaluation, OnBoard):
    pass


class Prediction(target.Prediction, OnBoard):
    pass


class Stedgeai(Options):
    """ST Edge AI Core, as the reference's examples name it, and what it needs to know beside that."""

    version: str | None = Field(None, description="that the tool, or the cloud's, must have: `2.2` is any 2.2.x")
    optimization: Literal["balanced", "time", "ram"] | None = Field(
        None, description="what Cortex-M code favours; the NPU's compiler goes by its profile; default: the tool's"
    )
    on_cloud: bool | None = Field(
        None, description="the Developer Cloud, which gets the model, in the place of a local tool"
    )
    path_to_stedgeai: Path | None = Field(
        None, description="the program or its folder; default: STEDGEAI_CORE_DIR, STM32_AI_EXE, STM_AI_EXE, then PATH"
    )
    profile: str | None = Field(
        None, description="of the Neural-ART compiler in a bench: NAME or NAME@FILE.json; default: the tool's"
    )
    validate_on: Literal["host", "board"] | None = Field(
        None,
        description="a bench compares the C code with the model there; a board (over serial) measures the latency, too",
    )
    serial: str | None = Field(
        None,
        description="the board's port: serial, serial:COM4 or serial:/dev/ttyACM0:921600; default: the first found",
    )
    timeout_s: float = Field(
        900.0, gt=0, description="seconds that a command of the tool, or a job of the cloud, may take"
    )


class HardwareSetup(target.HardwareSetup):
    """As the reference's deployments have it."""

    serie: Annotated[str, BeforeValidator(upper)] | None = Field(
        None,
        pattern="^STM32[A-Z][A-Z0-9]{1,3}$",
        description="of the board, such as STM32N6: whose commands the README has",
    )
    output: str | None = Field(
        None, min_length=1, description="UVCL or SPI: the build configuration of ST's application that the README names"
    )
    input: str | None = Field(
        None, description="the camera's interface; nothing follows, the folder is the same for all"
    )
    log_level: str | None = Field(None, description="of the firmware; nothing follows, none is built")
    stlink_serial_number: str | None = Field(None, description="of the programmer; nothing follows, none is flashed")


class Deployment(target.Deployment):
    """The folder is written, and nothing is built or flashed: that takes ST's tools and its firmware project."""

    hardware_setup: HardwareSetup | None = Field(None, description="the board, and what is wired to it")
    c_project_path: Path | None = Field(
        None, description="ST's firmware project: the README has the commands that bring the headers into it"
    )
    build_conf: str | None = Field(
        None, min_length=1, description="build configuration that the README names; default: hardware_setup.output"
    )
    IDE: Annotated[Literal["GCC"], BeforeValidator(upper)] | None = Field(
        None, description="any C99 compiler will do; nothing follows, nothing is built"
    )
    verbosity: Literal[0, 1, 2] | None = Field(None, description="of the build; nothing follows, nothing is built")


class Tools(target.Tools):
    stedgeai: Stedgeai | None = Field(None, description="ST Edge AI Core, for the backends stedgeai and cloud")
    path_to_cubeIDE: Path | None = Field(None, description="STM32CubeIDE; nothing is built with it")
