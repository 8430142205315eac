"""Firmware facts without a network, and the C code compiled for this computer."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdet.evaluation.postprocess import select
from stdet.interfaces.detector import Candidates
from stdet.structures import BoxCoding, Detections, DetectorSpec, Preprocess, Thresholds
from stdet_deploy_stm32.firmware import c_sources
from stdet_deploy_stm32.firmware.facts import Firmware, Tensor, expected_shapes
from stdet_deploy_stm32.firmware.generated import model_header, model_source

LIMITS = Thresholds(0.3, 0.5, 20)
FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic")
INSTALL = {"gcc": "gcc", "clang": "clang", "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi"}


class Detection(ctypes.Structure):
    """`stdet_detection_t`."""

    _fields_ = [*((side, ctypes.c_float) for side in ("x1", "y1", "x2", "y2", "score")), ("label", ctypes.c_int32)]


class Picture(ctypes.Structure):
    """`stdet_picture_t`."""

    _fields_ = [("pixels", ctypes.c_void_p), *((name, ctypes.c_int32) for name in ("width", "height", "stride"))]


class Scales(ctypes.Structure):
    """`stdet_geometry_t`."""

    _fields_ = [(name, ctypes.c_float) for name in ("scale_x", "scale_y", "offset_x", "offset_y")]


@dataclass(frozen=True)
class CModel:
    """The C functions, with one generated model."""

    firmware: Firmware
    library: ctypes.CDLL

    @property
    def model(self) -> Any:
        return ctypes.byref(ctypes.c_char.in_dll(self.library, "stdet_model"))

    def detect(self, outputs: Sequence[np.ndarray]) -> Detections:
        arrays = [np.ascontiguousarray(output) for output in outputs]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        limit = self.firmware.thresholds.max_detections
        assert limit is not None
        found = (Detection * limit)()
        work = ctypes.create_string_buffer(1 << 16)
        count = self.library.stdet_postprocess(self.model, pointers, work, found)
        rows = np.array([(d.x1, d.y1, d.x2, d.y2, d.score, d.label) for d in found[:count]]).reshape(-1, 6)
        return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64))

    def feed(self, image: np.ndarray) -> tuple[np.ndarray, Scales]:
        """The network's input for a picture uint8 (H, W, 3), whose rows may lie apart."""
        tensor = self.firmware.input
        filled, geometry = np.zeros(tensor.shape, tensor.dtype), Scales()
        picture = Picture(image.ctypes.data, image.shape[1], image.shape[0], image.strides[0])
        failed = self.library.stdet_preprocess(
            self.model, ctypes.byref(picture), ctypes.c_void_p(filled.ctypes.data), ctypes.byref(geometry)
        )
        if failed:
            raise ValueError("stdet_preprocess refused the picture")
        return filled, geometry


def tool(name: str) -> str:
    """Path of a compiler; skips with what to install where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} isn't here: apt-get install {INSTALL[name]}")
    return found


@pytest.fixture
def compiler() -> Callable[[str], str]:
    return tool


@pytest.fixture
def write_sources() -> Callable[[Firmware, Path], list[Path]]:
    """Writes all C files of a model into a folder; returns those to compile."""

    def write(firmware: Firmware, folder: Path, channels_last: bool = False) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = c_sources() | {
            "stdet_model.h": model_header(firmware),
            "stdet_model.c": model_source(firmware, channels_last),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="ascii")
        return [folder / name for name in sorted(files) if name.endswith(".c") and name != "main.c"]

    return write


@pytest.fixture(scope="session")
def c_objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """The files that are the same for every model, compiled once a set of flags."""

    @functools.cache
    def build(*flags: str) -> list[Path]:
        folder = tmp_path_factory.mktemp("objects")
        for name, text in c_sources().items():
            (folder / name).write_text(text, encoding="ascii")
        sources = sorted(folder.glob("stdet_*.c"))
        subprocess.run([tool("gcc"), *FLAGS, *flags, "-fPIC", "-c", *map(str, sources)], check=True, cwd=folder)
        return sorted(folder.glob("*.o"))

    return build


@pytest.fixture
def compiled(tmp_path: Path, c_objects: Callable[..., list[Path]]) -> Callable[..., CModel]:
    """The C functions with the tables of a model, as a library of this process."""
    made = []

    def build(firmware: Firmware, *flags: str, channels_last: bool = False) -> CModel:
        objects = c_objects(*flags)
        made.append(tmp_path / f"model{len(made)}")
        made[-1].mkdir()
        (made[-1] / "stdet_model.h").write_text(model_header(firmware), encoding="ascii")
        source, library = made[-1] / "stdet_model.c", made[-1] / "library.so"
        source.write_text(model_source(firmware, channels_last), encoding="ascii")
        command = [tool("gcc"), *FLAGS, *flags, "-shared", "-fPIC", f"-I{objects[0].parent}", str(source)]
        subprocess.run([*command, *map(str, objects), "-o", str(library), "-lm"], check=True)
        return CModel(firmware, ctypes.CDLL(str(library)))

    return build


@pytest.fixture
def firmware() -> Callable[..., Firmware]:
    """Facts of a detector of either convention, without a network."""

    def build(
        coding: str = "yolox",
        kind: str = "float32",
        thresholds: Thresholds = LIMITS,
        classes: int = 3,
        **preprocess: Any,
    ) -> Firmware:
        shape = {"height": 64, "width": 96} | preprocess
        names = tuple(f"class {i}" for i in range(classes))
        strides = (8, 16, 32)
        spec = DetectorSpec("a_model", "a_type", names, Preprocess(**shape), coding, strides)
        if coding == "ssd":
            rng = np.random.default_rng(5)
            priors = rng.uniform(0.1, 0.9, (150, 4)).astype(np.float32)
            how = BoxCoding(coding, ("output", "boxes"), priors, 0.1, 0.2)
        else:
            how = BoxCoding(coding, ("output",))
        border = {"float32": (1.0, 0), "int8": (0.05, 3), "uint8": (0.04, 130)}[kind]
        outputs = tuple(
            Tensor(name, shape, np.dtype(kind), *border)
            for name, shape in zip(how.output_names, expected_shapes(spec, how), strict=True)
        )
        images = Tensor("images", (1, spec.preprocess.channels, *spec.preprocess.size), np.dtype(np.float32))
        return Firmware(spec, how, thresholds, images, outputs)

    return build


@pytest.fixture
def reference() -> Callable[[Firmware, Sequence[np.ndarray]], Detections]:
    """The detections in an image's outputs by PyTorch's arithmetic and the evaluator's selection."""

    def detect(firmware: Firmware, outputs: Sequence[np.ndarray]) -> Detections:
        values = [
            torch.from_numpy(tensor.dequantize(output))
            for tensor, output in zip(firmware.outputs, outputs, strict=True)
        ]
        decode = {"yolox": _yolox, "ssd": _ssd}[firmware.coding.name]
        limits = firmware.thresholds
        return select(decode(firmware, values), limits)[0]

    return detect


def _yolox(firmware: Firmware, outputs: Sequence[torch.Tensor]) -> Candidates:
    rows = []
    height, width = firmware.spec.preprocess.size
    for stride in firmware.spec.strides:
        rows += [(x, y, stride) for y in range(height // stride) for x in range(width // stride)]
    cells = torch.tensor(rows, dtype=torch.float32)
    raw = outputs[0]
    centre = (raw[..., :2] + cells[:, :2]) * cells[:, 2:]
    half = raw[..., 2:4].exp() * cells[:, 2:] / 2
    return Candidates(torch.cat((centre - half, centre + half), -1), raw[..., 4:5] * raw[..., 5:])


def _ssd(firmware: Firmware, outputs: Sequence[torch.Tensor]) -> Candidates:
    logits, offsets = outputs
    table = firmware.priors_px()
    assert table is not None
    priors = torch.from_numpy(table)
    centre = offsets[..., :2] * 0.1 * priors[:, 2:] + priors[:, :2]
    half = (offsets[..., 2:] * 0.2).exp() * priors[:, 2:] / 2
    return Candidates(torch.cat((centre - half, centre + half), -1), logits.softmax(-1)[..., 1:], multi_label=True)
