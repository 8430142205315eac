"""A small config on painted images, from its text on: what a key does is seen in what is built and run from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stdet import api
from stdet.build import Builder
from stdet.plugins.loader import load_plugins

CONFIG = """\
operation_mode: training
model: {{ model_name: {model}, input_shape: [3, {size}, {size}] }}
dataset: {{ dataset_name: synthetic, class_names: [disc, square], num_images: 8, image_size: 64, num_workers: 0 }}
training: {{ batch_size: 4, epochs: 1, device: cpu }}
hydra: {{ run: {{ dir: {folder}/run }} }}
"""
Made = Callable[..., Builder]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """The builder of the small config with overrides; `ssd` chooses the other family."""

    def build(*overrides: str, ssd: bool = False, text: str = "", mode: str | None = None) -> Builder:
        model, size = ("ssdlite_mobilenetv3small_pt", 96) if ssd else ("st_yolodv2milli_actrelu_pt", 64)
        path = tmp_path / "config.yaml"
        path.write_text(text or CONFIG.format(model=model, size=size, folder=tmp_path))
        return Builder(api.load_config(path, list(overrides), mode), load_plugins()[0])

    return build
