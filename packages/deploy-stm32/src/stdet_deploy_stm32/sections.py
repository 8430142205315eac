"""Config sections of STM32 targets beside `quantization`, which is `quantize.section`'s. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stdet.interfaces import target
from stdet.interfaces.family import Options

InputType = Literal["uint8", "int8", "float32"]
ChannelPosition = Literal["chlast", "chfirst"]


class _OnBoard(Options):
    """Keys of the reference for a model that runs on a board; on the host nothing follows from them."""

    profile: str | None = Field(None, description="of the Neural-ART compiler; nothing follows on the host")
    input_type: InputType | None = Field(None, description="of the network on the board; nothing follows on the host")
    output_type: InputType | None = Field(None, description="of the network on the board; nothing follows on the host")
    input_chpos: ChannelPosition | None = Field(None, description="layout on the board; nothing follows on the host")
    output_chpos: ChannelPosition | None = Field(None, description="layout on the board; nothing follows on the host")
    quantization_input_type: InputType | None = Field(None, description="on the board; nothing follows on the host")
    quantization_output_type: InputType | None = Field(None, description="on the board; nothing follows on the host")


class Evaluation(target.Evaluation, _OnBoard):
    pass


class Prediction(target.Prediction, _OnBoard):
    pass


class Stedgeai(Options):
    """ST Edge AI Core, as the reference's examples name it."""

    version: str | None = Field(None, description="of the tool")
    optimization: Literal["balanced", "time", "ram"] | None = Field(None, description="what it favours")
    on_cloud: bool | None = Field(None, description="the Developer Cloud instead of a local tool")
    path_to_stedgeai: Path | None = Field(None, description="the local tool")


class Tools(target.Tools):
    stedgeai: Stedgeai | None = Field(None, description="ST Edge AI Core; no backend of this version drives it")
    path_to_cubeIDE: Path | None = Field(None, description="STM32CubeIDE; nothing is built with it")
