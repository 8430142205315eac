"""What a run needs and isn't installed is told before its first stage: through the API, with our own packages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from stdet import api
from stdet.errors import MissingExtraError
from stdet.interfaces.reporter import SilentReporter
from stdet.stages.libraries import check_libraries

CONFIG = """\
operation_mode: training
model: {{ model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }}
dataset: {{ dataset_name: synthetic, class_names: [disc], num_images: 8, image_size: 64, num_workers: 0 }}
training: {{ epochs: 1, no_aug_epochs: 0, device: cpu }}
hydra: {{ run: {{ dir: {0}/run }} }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(tmp_path))
    return path


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


def test_a_training_that_could_not_be_exported_is_refused_before_its_folder_is_made(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "onnxruntime")
    with pytest.raises(MissingExtraError, match="exporting to ONNX needs onnxruntime"):
        api.run(api.load_config(config), SilentReporter())
    assert not (config.parent / "run").exists()


def test_curves_that_nobody_asked_for_are_left_out_with_a_note(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tensorboard", "matplotlib")
    notes = check_libraries(api.load_config(config), ("train", "export"))
    assert ["tensorboard" in note for note in notes] == [True, False]
    assert ["matplotlib" in note for note in notes] == [False, True]
    assert all("pip install 'stdet-core[" in note for note in notes)


def test_a_run_s_own_config_says_what_the_run_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names every key: a logger that nobody asked for must not become one that the training can't do without."""
    without(monkeypatch, "tensorboard")
    first = api.load_config(config)
    saved = config.with_name("saved.yaml")
    saved.write_text(api.config_yaml(first))
    again = api.load_config(saved)
    assert check_libraries(again, ("train",)) == check_libraries(first, ("train",)) != []
    assert again.notes == first.notes
    assert check_libraries(api.load_config(saved, ["general.logger=null"]), ("train",)) == []


@pytest.mark.parametrize("stages", [("predict",), ("bench",), ("quantize",)])
def test_a_stage_that_needs_none_of_them_says_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, stages: tuple[str, ...]
) -> None:
    without(monkeypatch, "tensorboard", "matplotlib", "onnxruntime")
    assert check_libraries(api.load_config(config), stages) == []


def test_a_schedule_is_not_computed_for_a_picture_that_can_not_be_drawn(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, "matplotlib")
    with pytest.raises(MissingExtraError, match="drawing a schedule needs matplotlib"):
        api.plot_schedule(api.load_config(config), tmp_path / "s.png", 3)


def test_statistics_are_told_without_the_picture(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "matplotlib")
    notes: list[str] = []

    class Reporter(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    result: Any = api.describe_data(api.load_config(config, [f"hydra.run.dir={tmp_path / 'tool'}"]), Reporter())
    assert result.document["picture"] is None
    assert result.document["splits"]["train"]["images"]
    assert any("matplotlib" in note for note in notes)
