"""Quantization-aware fine-tuning from the config to the int8 file: what training showed is what the file scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reporters import Notes

from stdet import api
from stdet.build import Builder
from stdet.config import preprocess_of
from stdet.data.preprocess import normalize, prepare
from stdet.engine.checkpoint import read_checkpoint
from stdet.nn.int8_training import Int8Simulation
from stdet.plugins.loader import load_plugins
from stdet.structures import DetectorSpec
from stdet_deploy_stm32.onnx_graph.session import new_session

CONFIG = """\
operation_mode: {mode}
general: {{ saved_models_dir: models, logger: None, global_seed: 1 }}
model: {{ model_name: {model}, input_shape: [3, 96, 96] }}
dataset: {{ dataset_name: synthetic, num_images: 16, image_size: 96, num_workers: 0 }}
training: {{ batch_size: 8, epochs: 2, device: cpu, optimizer: {{ AdamW: {{ learning_rate: 0.002 }} }} }}
quantization: {{ allow_overlap: True, onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
hydra: {{ run: {{ dir: {out} }} }}
"""


FINE_TUNING = ("training.quantization_aware=Int8", "training.optimizer.AdamW.learning_rate=0.0002")


def run(folder: Path, mode: str, model: str, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    path = folder / f"{mode}.yaml"
    path.write_text(CONFIG.format(mode=mode, model=model, out=folder / mode))
    reporter = Notes()
    return api.run(api.load_config(path, overrides), reporter).document["stages"], reporter.notes


def validation_images(folder: Path) -> torch.Tensor:
    """As training saw them: float32 (N, 3, 96, 96)."""
    config = api.load_config(folder / "training.yaml")
    data = Builder(config, load_plugins()[0]).dataset("val", None)
    preprocess = preprocess_of(config)
    pixels = [prepare(data.read_image(i), preprocess)[0] for i in range(len(data))]
    return normalize(torch.from_numpy(np.stack(pixels)), preprocess)


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Relative to `other`, the mean of all outputs."""
    return float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)]))


@pytest.mark.parametrize("model", ["st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt"])
def test_a_chain_fine_tunes_with_int8_simulated_and_makes_the_file_that_was_simulated(
    model: str, tmp_path: Path
) -> None:
    trained, _ = run(tmp_path, "training", model)
    start = trained["train"]["best_checkpoint"]
    stages, notes = run(tmp_path, "chain_tqe", model, f"model.model_path={start}", *FINE_TUNING)
    assert any("scores are those of the simulated int8 model" in note for note in notes)
    checkpoint = read_checkpoint(Path(stages["train"]["best_checkpoint"]))
    assert checkpoint["model"].keys() == read_checkpoint(Path(start))["model"].keys()

    detector = load_plugins()[0].build("models", model, DetectorSpec.from_dict(checkpoint["spec"]))
    detector.load_state_dict(checkpoint["model"])
    simulation = Int8Simulation(detector, "Int8")
    simulation.load_state_dict(checkpoint["simulation"])
    simulated = simulation.of(detector).eval()
    quantized = new_session(stages["quantize"]["path"], optimize=False)
    apart = []
    for image in validation_images(tmp_path):
        with torch.no_grad():
            mine = [t.numpy() for t in simulated.export_outputs(simulated(image[None]))]
        apart.append(distance(quantized.run(None, {"input": image[None].numpy()}), mine))
    assert 0 < np.mean(apart) < 0.03  # the file has the ranges of its calibration, the simulation those of training
