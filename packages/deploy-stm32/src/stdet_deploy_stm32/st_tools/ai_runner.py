"""A network that ST Edge AI Core has compiled, run by ST's AiRunner on this computer or on an STM32N6, as a predictor."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from stdet.errors import ConfigError
from stdet_deploy_stm32.firmware.facts import Tensor, tensors_of
from stdet_deploy_stm32.onnx_graph.view import load_model
from stdet_deploy_stm32.sections import OnBoard, Stedgeai
from stdet_deploy_stm32.st_tools.failures import ToolFailure, failure_of
from stdet_deploy_stm32.st_tools.loading import load_on_board, python_of
from stdet_deploy_stm32.st_tools.process import run_bounded
from stdet_deploy_stm32.st_tools.profiles import profile_argument
from stdet_deploy_stm32.st_tools.stedgeai import Tool, core_folder, on_npu, open_tool, serial_port

HOST, N6 = "stedgeai_host", "stedgeai_n6"
PLACES = (HOST, N6)
"""By the value of `evaluation.target` and `prediction.target`."""
LOADED_ALREADY = "auto_valid"
"""The profile that stands for: the board has it, compile and load nothing."""
WORKER = Path(__file__).parent / "ai_runner_worker.py"


@dataclass(frozen=True)
class Borders:
    """What the network takes and gives on its device.

    Attributes:
        input_type, output_type: `uint8`, `int8` or `float32`.
        input_chpos, output_chpos: `chlast` or `chfirst`.
    """

    input_type: str
    output_type: str
    input_chpos: str
    output_chpos: str

    @classmethod
    def of(cls, section: OnBoard, name: str) -> Borders:
        """Of an `evaluation` or `prediction` section: what it leaves out is as the reference has it.

        Raises:
            ConfigError: a type is given twice, in two ways.
        """
        types = []
        for side, usual in (("input", "uint8"), ("output", "int8")):
            given = [getattr(section, key) for key in (f"{side}_type", f"quantization_{side}_type")]
            if None not in given and given[0] != given[1]:
                raise ConfigError(f"{name}.{side}_type is {given[0]}, and {name}.quantization_{side}_type {given[1]}",
                                  "leave one of them out")  # fmt: skip
            types.append(given[0] or given[1] or usual)
        return cls(types[0], types[1], section.input_chpos or "chlast", section.output_chpos or "chlast")

    @property
    def options(self) -> list[str]:
        """Of `generate` and `validate`."""
        return ["--input-data-type", self.input_type, "--output-data-type", self.output_type,
                "--inputs-ch-position", self.input_chpos, "--outputs-ch-position", self.output_chpos]  # fmt: skip


class RunnerNetwork:
    """A compiled network, ready to run; each call is a process of its own, in bounded time."""

    def __init__(
        self, model: Path, place: str, stedgeai: Stedgeai | None, section: OnBoard, name: str, folder: Path
    ) -> None:
        """Compiles the model, brings it to its place and asks it what it takes.

        Args:
            model: ONNX file with one input, batch 1.
            place: of `PLACES`.
            section, name: `evaluation` or `prediction`, which says how the network's borders are.
            folder: for the logs.

        Raises:
            ToolFailure: the tool, ST's Python package or the board is missing, or one of them failed, by kind.
            ConfigError: the keys contradict each other, or the profile can't be had.
        """
        self._borders = Borders.of(section, name)
        self._tool, self._logs, self._calls = open_tool(stedgeai, folder / "version.log"), folder, count(1)
        self._kept = tempfile.TemporaryDirectory(prefix="stdet-stedgeai-")  # goes when the network does
        self._scratch = Path(self._kept.name)
        shutil.copyfile(WORKER, self._scratch / WORKER.name)  # a script's folder is the first that it imports from
        self._outputs = tensors_of(load_model(model))[1]
        if place == N6:
            self._descriptor = serial_port(stedgeai.serial if stedgeai else None, npu=True)
            if section.profile != LOADED_ALREADY:
                self._generate(model, "stm32n6", on_npu(_profile(self._tool, section.profile, self._scratch)))
                load_on_board(self._tool, self._scratch / "out", folder / "load.log")
        else:
            optimization = ["--optimization", self._tool.optimization] if self._tool.optimization else []
            self._generate(model, "stm32", ["--dll", *optimization])
            self._descriptor = str(self._scratch / "ws")
        told, _ = self._run(None)
        self._inside, self._outside = (_tensors(told, key) for key in ("inputs", "outputs"))
        if len(self._inside) != 1 or len(self._outside) != len(self._outputs):
            told_of = f"{len(self._inside)} inputs and {len(self._outside)} outputs"
            raise ToolFailure(
                "model", f"{model.name} has {len(self._outputs)} outputs, and what runs at {place} {told_of}",
                "is it this model that the board has?", folder,
            )  # fmt: skip

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `stdet.interfaces.deploy.PlacedNetwork`."""
        fed = np.moveaxis(images, 1, -1) if self._borders.input_chpos == "chlast" else images
        batch = len(images)
        inside = self._inside[0]
        if fed[0].size != np.prod(inside.shape[1:]):
            raise ToolFailure(
                "model", f"the network takes {list(inside.shape)}, and images are {list(images.shape)}",
                "is it this model that the board has?", self._logs,
            )  # fmt: skip
        _, answers = self._run(inside.quantize(fed).reshape(batch, *inside.shape[1:]))
        return {
            output.name: self._in_order(tensor.dequantize(answer), output.shape)
            for output, tensor, answer in zip(self._outputs, self._outside, answers, strict=True)
        }

    def _in_order(self, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """An output as the ONNX file has it: the tool pads shapes with ones, and puts axis 1 last where it is told so."""
        batch, sides = len(values), tuple(shape[1:])
        moved = (*sides[1:], sides[0])
        found = _without_ones(values.shape[1:])
        if self._borders.output_chpos == "chlast" and found == _without_ones(moved):
            return np.ascontiguousarray(np.moveaxis(values.reshape(batch, *moved), -1, 1))
        if found == _without_ones(sides):
            return values.reshape(batch, *sides)
        raise ToolFailure(
            "model", f"an output is {list(values.shape)} on the device and {list(shape)} in the ONNX file",
            "is it this model that the board has?", self._logs,
        )  # fmt: skip

    def _generate(self, model: Path, target: str, options: Sequence[str]) -> None:
        shutil.copyfile(model, self._scratch / "model.onnx")
        common: list[str | Path] = ["--model", self._scratch / "model.onnx", "--target", target, "--c-api", "st-ai"]
        common += ["--output", self._scratch / "out", "--workspace", self._scratch / "ws"]
        self._tool.run(
            "generate", [*common, *options, *self._borders.options], self._logs / "generate.log", self._scratch
        )

    def _run(self, inputs: np.ndarray | None) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What the network says of itself, and its answers to a batch."""
        answer = self._scratch / f"answer_{next(self._calls)}.npz"
        command: list[str | Path] = [python_of(self._tool), self._scratch / WORKER.name, self._descriptor, answer]
        if inputs is not None:
            np.save(self._scratch / "inputs.npy", inputs)
            command.append(self._scratch / "inputs.npy")
        log = self._logs / ("describe.log" if inputs is None else "run.log")
        environment = {
            "PYTHONPATH": str(core_folder(self._tool.path) / "scripts" / "ai_runner"),
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",  # its messages are of an older protobuf
        }
        finished = run_bounded(command, log, self._tool.timeout_s, cwd=self._scratch, environment=environment)
        if finished.returncode:
            if "ModuleNotFoundError" in finished.output:
                line = finished.output.strip().splitlines()[-1]
                hint = f"install ST Edge AI Core whole; its README in scripts/ai_runner lists what {command[0]} needs"
                raise ToolFailure("missing", f"ST's AiRunner can't be run: {line}", hint, log)
            raise failure_of("ST's AiRunner", finished.output, finished.returncode, log)
        try:
            with np.load(answer, allow_pickle=False) as found:
                told = json.loads(str(found["about"]))
                outputs = [found[f"output_{index}"] for index in range(len(found.files) - 1)]
        except (OSError, ValueError, KeyError) as error:
            raise ToolFailure("damaged_report", f"ST's AiRunner left no answer: {error}", "see its log", log) from error
        answer.unlink()
        return told, outputs


def _without_ones(sides: Sequence[int]) -> tuple[int, ...]:
    return tuple(side for side in sides if side != 1)


def _tensors(told: dict[str, Any], key: str) -> list[Tensor]:
    found = []
    for tensor in told[key]:
        dtype = np.dtype(tensor["type"])
        if dtype != np.float32 and tensor["scale"] is None:
            raise ToolFailure(
                "model", f"`{tensor['name']}` is {dtype} on the device, and nothing says what its numbers mean",
                f"set {key.removesuffix('s')}_type to float32",
            )  # fmt: skip
        scale, zero = (1.0, 0) if dtype == np.float32 else (tensor["scale"], int(tensor["zero_point"] or 0))
        found.append(Tensor(tensor["name"], tuple(tensor["shape"]), dtype, scale, zero))
    return found


def _profile(tool: Tool, profile: str | None, folder: Path) -> str | None:
    """As in a bench; a bare name may also be one of the file that comes with ST's script."""
    own = core_folder(tool.path) / "scripts" / "N6_scripts" / "user_neuralart.json"
    if profile and "@" not in profile and own.is_file():
        try:
            return profile_argument(f"{profile}@{own}", None, folder)
        except ConfigError:  # then it is one of the tool's
            pass
    return profile_argument(profile, None, folder)
