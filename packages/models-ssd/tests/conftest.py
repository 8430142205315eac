"""Models to test with, and the shared reference data where it is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdet.structures import DetectorSpec
from stdet_models_ssd import mobilenet_v1, mobilenet_v2, mobilenet_v3
from stdet_models_ssd.detector import Ssd
from stdet_models_ssd.family import SSD

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[4] / "shared"))
BUILDERS = {
    "ssd_mobilenetv1_pt": mobilenet_v1.build_ssd,
    "ssdlite_mobilenetv1_pt": mobilenet_v1.build_ssdlite,
    "ssd_mobilenetv2_pt": mobilenet_v2.build_ssd,
    "ssdlite_mobilenetv2_pt": mobilenet_v2.build_ssdlite,
    "ssdlite_mobilenetv3small_pt": mobilenet_v3.build_small,
    "ssdlite_mobilenetv3large_pt": mobilenet_v3.build_large,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `name` runs for each of the six models."""
    if "name" in metafunc.fixturenames:
        marked = [m for m in metafunc.definition.iter_markers("parametrize") if "name" in str(m.args[0])]
        if not marked:
            metafunc.parametrize("name", BUILDERS)


@pytest.fixture
def make() -> Callable[..., Ssd]:
    """Builds a model by name, always with the same weights."""

    def build(
        name: str = "ssdlite_mobilenetv3small_pt",
        num_classes: int = 1,
        height: int = 300,
        width: int = 300,
        **options: Any,
    ) -> Ssd:
        torch.manual_seed(0)
        classes = tuple(f"c{i}" for i in range(num_classes))
        preprocess = SSD.preprocess.with_size(height, width)
        return BUILDERS[name](DetectorSpec(name, "ssd", classes, preprocess, "ssd", SSD.strides, options))

    return build


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Path of a file of the shared reference data; skips the test where there is none."""

    def find(path: str) -> Path:
        if not (SHARED / path).exists():
            pytest.skip(f"{path} isn't here")
        return SHARED / path

    return find
