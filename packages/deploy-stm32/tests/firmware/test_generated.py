"""Generated C says what the model's metadata says, in any compiler."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdet.structures import Thresholds
from stdet_deploy_stm32.firmware.facts import Firmware
from stdet_deploy_stm32.firmware.generated import app_config, number, ssd_anchors, string

Build = Callable[..., Firmware]
CORES = {
    "m55": ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
    "m7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    "m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
}
STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wdouble-promotion")


def run_c(folder: Path, gcc: str, source: str) -> str:
    (folder / "main.c").write_text(source, encoding="ascii")
    subprocess.run([gcc, "-std=c99", "-Werror", "-Wall", "main.c", "-o", "program"], cwd=folder, check=True)
    return subprocess.run([folder / "program"], check=True, capture_output=True).stdout.decode()


def test_a_number_reads_back_as_the_same_float() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    for value in [*bits[np.isfinite(bits)], np.float32(0), np.float32(1), np.float32(0.1), np.float32(3e38)]:
        text = number(value)
        assert re.fullmatch(r"-?\d+(\.\d*)?(e[+-]\d+)?f", text)
        assert "." in text or "e" in text
        assert np.float32(text[:-1]) == value


def test_any_class_name_survives_the_compiler(tmp_path: Path, compiler: Any) -> None:
    names = ['say "hi"', "back\\slash", "what??/", "Zürich", "日本", "tab\there", "%d", "0x41"]
    rows = ", ".join(map(string, names))
    source = (
        f"#include <stdio.h>\nint main(void) {{ const char *t[] = {{{rows}}}; for (int i = 0; i < {len(names)}; i++) "
    )
    assert run_c(tmp_path, compiler("gcc"), source + "puts(t[i]); return 0; }\n") == "\n".join(names) + "\n"


@pytest.mark.parametrize("coding", ["yolox", "ssd"])
def test_app_config_says_what_the_metadata_says(tmp_path: Path, firmware: Build, compiler: Any, coding: str) -> None:
    facts = firmware(coding, thresholds=Thresholds(0.35, 0.45, 17), resize_mode="crop", color_mode="bgr")
    (tmp_path / "app_config.h").write_text(app_config(facts), encoding="ascii")
    prefix = {"yolox": "AI_OD_YOLO_D_PP", "ssd": "AI_OD_SSD_PP"}[coding]
    names = ["NB_CLASSES", "ASPECT_RATIO_MODE == ASPECT_RATIO_CROP", "COLOR_MODE == COLOR_BGR"]
    names += [f"{prefix}_{name}" for name in ("NB_CLASSES", "MAX_BOXES_LIMIT", "CONF_THRESHOLD", "IOU_THRESHOLD")]
    wanted = [3, 1, 1, 3, 17, 0.35, 0.45]
    if coding == "ssd":
        wanted[0] = wanted[3] = 4  # the background has a name
        names += [f"{prefix}_{name}" for name in ("TOTAL_DETECTIONS", "XY_VARIANCE", "WH_VARIANCE")]
        wanted += [150, 0.1, 0.2]
    else:
        names += [f"{prefix}_{name}" for name in ("IMG_WIDTH", "IMG_HEIGHT", "STRIDE_0", "STRIDE_1", "STRIDE_2")]
        wanted += [96, 64, 8, 16, 32]
    prints = "".join(f'printf("%.9g\\n", (double)({name}));' for name in names)
    kind = {"yolox": "POSTPROCESS_OD_ST_YOLOD_UI", "ssd": "POSTPROCESS_OD_SSD_UI"}[coding]
    source = f"""#include <stdio.h>
#define {kind} 42
#include "app_config.h"
CLASSES_TABLE;
int main(void) {{ {prints} printf("%d\\n", POSTPROCESS_TYPE); for (int i = 0; i < NB_CLASSES; i++) puts(classes_table[i]); }}
"""
    lines = run_c(tmp_path, compiler("gcc"), source).splitlines()
    np.testing.assert_allclose([float(line) for line in lines[: len(names)]], wanted, rtol=1e-6)
    classes = ["background"] * (coding == "ssd") + list(facts.spec.class_names)
    assert lines[len(names) :] == ["42", *classes]


def test_the_anchors_are_the_priors(firmware: Build) -> None:
    facts = firmware("ssd")
    values = [np.float32(text) for text in re.findall(r"(\d[\d.e+-]*)f\b", ssd_anchors(facts))]
    np.testing.assert_array_equal(np.array(values).reshape(-1, 4), facts.coding.priors)


@pytest.mark.parametrize("name", ["gcc", "clang", *CORES])
def test_every_compiler_takes_every_file_without_a_warning(
    tmp_path: Path, firmware: Build, write_sources: Any, compiler: Any, name: str
) -> None:
    command = [compiler("arm-none-eabi-gcc"), "-mthumb", *CORES[name]] if name in CORES else [compiler(name)]
    for coding in ("yolox", "ssd"):
        sources = write_sources(firmware(coding, "int8"), tmp_path / coding)
        done = subprocess.run(
            [*command, *STRICT, "-c", *map(str, sources)], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
