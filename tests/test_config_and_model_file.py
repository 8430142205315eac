"""A config beside a model file that says of itself what it is: honoured, or refused with file and line; never ignored."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from reporters import Notes

from stdet import api
from stdet.engine.checkpoint import FORMAT
from stdet.errors import ConfigError
from stdet.export.metadata import read_spec
from stdet.plugins.loader import load_plugins
from stdet.structures import DetectorSpec

CATALOGUE = load_plugins()[0]
SSD = "ssdlite_mobilenetv3small_pt"


def spec_of(name: str = SSD, classes: tuple[str, ...] = ("a", "b"), size: int = 96) -> DetectorSpec:
    family = CATALOGUE.family(name)
    return family.spec(name, classes, family.preprocess.with_size(size, size))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.manual_seed(0)
    detector = CATALOGUE.build("models", SSD, spec_of())
    torch.save({"format": FORMAT, "spec": detector.spec.to_dict(), "model": detector.state_dict()}, path)
    return path


def run(folder: Path, mode: str, text: str, *overrides: str) -> tuple[api.RunResult, list[str]]:
    config, reporter = folder / "my.yaml", Notes()
    config.write_text(f"operation_mode: {mode}\n{text}")
    result = api.run(api.load_config(config, [*overrides, f"hydra.run.dir={folder / 'run'}"]), reporter)
    return result, reporter.notes


def test_a_checkpoint_is_exported_at_the_size_that_the_config_names(tmp_path: Path, checkpoint: Path) -> None:
    result, notes = run(tmp_path, "export", f"model: {{model_path: {checkpoint}, input_shape: [3, 128, 160]}}\n")
    path = Path(result.document["stages"]["export"]["path"])
    spec = read_spec(path)
    assert spec is not None
    assert spec.preprocess.size == (128, 160)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 3, 128, 160]
    assert any("learned at 96 x 96, and is taken at 128 x 160" in note for note in notes)


@pytest.mark.parametrize(
    ("lines", "key", "said", "line"),
    [
        ("  model_name: ssdlite_mobilenetv2_pt", "model.model_name", "the file is a ssdlite_mobilenetv3small_pt", 4),
        ("  num_classes: 3", "model.num_classes", "is 3, but the file has 2 classes", 4),
        ("dataset: {class_names: [a, c]}", "dataset.class_names", "has a, c, but the file's classes are a, b", 4),
        ("dataset:\n  class_names: [a]", "dataset.class_names", "has a, but the file's classes are a, b", 5),
        (f"  model_name: {SSD}\npreprocessing: {{color_mode: bgr}}", "preprocessing.color_mode", "made with rgb", 5),
        (f"  model_name: {SSD}\npreprocessing: {{mean: 0}}", "preprocessing.mean", "127.0", 5),
        ("  input_shape: [1, 96, 96]", "model.input_shape", "1 channels, but the file's network takes 3", 4),
    ],
)
def test_what_contradicts_the_file_is_refused_with_its_line(
    tmp_path: Path, checkpoint: Path, lines: str, key: str, said: str, line: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, "export", f"model:\n  model_path: {checkpoint}\n{lines}\n")
    assert f"my.yaml:{line}: {key}" in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_agrees_with_the_file_is_no_contradiction(tmp_path: Path, checkpoint: Path) -> None:
    text = f"model: {{model_path: {checkpoint}, model_name: {SSD}, num_classes: 2, input_shape: [3, 96, 96]}}\n"
    text += "dataset: {class_names: [a, b]}\npreprocessing: {mean: 127, std: 128, color_mode: rgb}\n"
    run(tmp_path, "export", text)


def test_an_onnx_keeps_its_size_and_another_one_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    result, _ = run(tmp_path, "export", f"model: {{model_path: {checkpoint}}}\n")
    path = result.document["stages"]["export"]["path"]
    with pytest.raises(ConfigError, match="input is 96 x 96"):
        run(tmp_path, "benchmarking", f"model: {{model_path: {path}, input_shape: [3, 128, 128]}}\n")


def test_published_weights_without_class_names_are_exported_with_numbered_classes(tmp_path: Path) -> None:
    detector = CATALOGUE.build("models", SSD, spec_of(classes=("x",) * 5))
    torch.save(detector.state_dict(), tmp_path / "published.pth")
    weights = tmp_path / "published.pth"
    text = f"model: {{model_name: {SSD}, model_path: {weights}, num_classes: 5, input_shape: [3, 96, 96]}}\n"
    result, notes = run(tmp_path, "export", text)
    spec = read_spec(Path(result.document["stages"]["export"]["path"]))
    assert spec is not None
    assert spec.class_names == tuple(f"class_{i}" for i in range(5))
    assert any("nothing names the 5 classes" in note for note in notes)


SYNTHETIC = (
    "dataset: {dataset_name: synthetic, class_names: [disc, cross], num_images: 8, image_size: 64, num_workers: 0}\n"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "published.pth"
    torch.manual_seed(0)
    torch.save(CATALOGUE.build("models", SSD, spec_of()).state_dict(), path)
    return path


def test_pictures_of_an_evaluation_can_be_left_out(tmp_path: Path, published: Path) -> None:
    text = f"model: {{model_name: {SSD}, model_path: {published}, input_shape: [3, 96, 96]}}\n{SYNTHETIC}"
    drawn, _ = run(tmp_path, "evaluation", text)
    assert Path(drawn.document["stages"]["evaluate_float"]["picture"]).is_file()
    plain, _ = run(tmp_path, "evaluation", text, "postprocessing.plot_metrics=False")
    assert plain.document["stages"]["evaluate_float"]["picture"] is None
    assert not (plain.run_dir / "pictures").exists()


def test_another_preprocessing_than_published_weights_learned_is_said_beside_the_score(
    tmp_path: Path, published: Path
) -> None:
    text = f"model: {{model_name: {SSD}, model_path: {published}, input_shape: [3, 96, 96]}}\n{SYNTHETIC}"
    _, as_learned = run(tmp_path, "evaluation", text)
    assert not any("warning" in note for note in as_learned)
    _, otherwise = run(tmp_path, "evaluation", text, "preprocessing.color_mode=bgr")
    assert "color_mode bgr (weights: rgb)" in otherwise[-1]
    assert otherwise[-1].startswith("warning: the score is that of published weights")


def test_the_references_way_to_name_a_config_works(tmp_path: Path) -> None:
    assert api.named_config(Path("a.yaml"), ["k=1"]) == (Path("a.yaml"), ["k=1"])
    assert api.named_config(None, [], tmp_path, "mine") == (tmp_path / "mine.yaml", [])
    assert api.named_config(Path("k=1"), ["l=2"], tmp_path) == (tmp_path / "user_config.yaml", ["k=1", "l=2"])
    with pytest.raises(ConfigError, match="two configs"):
        api.named_config(Path("a.yaml"), [], tmp_path)
    with pytest.raises(ConfigError, match="no config"):
        api.named_config(None, [])
