"""The config dialect: what the guide prints loads, what is wrong is said with its place, nothing runs."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import Field

from stdet.config import Config, ConfigProblems, load, load_text, preprocess_of, to_json_schema, to_yaml
from stdet.config.schema import Rescaling
from stdet.engine.schedule_options import CosineOptions, MultiStepOptions, YoloxWarmCosOptions
from stdet.errors import ConfigError, PluginError, UnavailableError
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import Benchmarking, Mistake, Quantization, QuantizationNeeds, TargetFacts, TargetRequest
from stdet.interfaces.transform import RecipeOptions
from stdet.structures import Preprocess


class Recipe(RecipeOptions):
    mosaic_prob: float = Field(1.0, ge=0, le=1)
    mosaic_scale: tuple[float, float] = (0.5, 1.5)
    enable_mixup: bool = False
    mixup_prob: float = 1.0
    mixup_scale: tuple[float, float] = (0.5, 1.5)
    hsv_prob: float = 1.0
    flip_prob: float = 0.5
    degrees: float = 10.0
    translate: float = 0.1
    shear: float = 2.0
    multiscale_range: int = 0
    random_size: tuple[int, int] | None = None

    def idle(self, given: Mapping[str, Any]) -> Iterator[str]:
        if not self.enable_mixup and "mixup_prob" in given:
            yield "dataset.mixup_prob does nothing while enable_mixup is False"
        if self.random_size and given.get("multiscale_range"):
            yield "dataset.multiscale_range does nothing beside random_size"


class FakeQuantization(Quantization):
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    searches: bool = False


class FakeBenchmarking(Benchmarking):
    runs: int = Field(60, gt=0, description="inferences that are timed")


def judge(request: TargetRequest) -> Iterator[Mistake]:
    section = request.sections.quantization
    assert isinstance(section, FakeQuantization)
    if section.granularity == "per_tensor" and request.trained_for:
        yield Mistake("training.quantization_aware", f"simulates {request.trained_for} per_channel")


TARGET = TargetFacts(
    {"quantization": FakeQuantization, "benchmarking": FakeBenchmarking},
    backends=("host", "emulator"),
    default_backends=("host",),
    needs=lambda section: QuantizationNeeds(evaluation_images=getattr(section, "searches", False)),
    check=judge,
    refused={"tools.stedgeai": "no tool is driven"},
)


class YolodOptions(Options):
    act: Literal["silu", "relu"] = "silu"


class SsdModelOptions(Options):
    width_mult: float = Field(1.0, gt=0)


class SsdTrainingOptions(Options):
    base_net_lr: float | None = None
    extra_layers_lr: float | None = None


YOLOD = ModelFamily(
    "st_yolod",
    "yolod",
    Preprocess(640, 640, "letterbox", color_mode="bgr"),
    "yolox",
    "yoloxwarmcos",
    ema=True,
    size_multiple=32,
    min_size=64,
    box_coding="yolox",
    strides=(8, 16, 32),
    no_aug_epochs=15,
    model_options=YolodOptions,
    unused_preprocessing=("scale", "offset", "mean", "std"),
    optimizer_defaults={"SGD": {"momentum": 0.9, "weight_decay": 5e-4}},
    refused={"model.width_mult": "its channels are fixed"},
    weights="weights_of_the_fakes:weights.json",
)
SSD = ModelFamily(
    "ssd",
    "ssd",
    Preprocess(300, 300, mean=(127.0,) * 3, std=(128.0,) * 3),
    "ssd",
    "cosine",
    ema=False,
    size_multiple=1,
    min_size=96,
    box_coding="ssd",
    strides=(16, 32),
    model_options=SsdModelOptions,
    width_option="width_mult",
    training_options=SsdTrainingOptions,
    weights="weights_of_the_fakes:weights.json",
    quantization_aware=False,
)


class FakeCatalogue:
    """Two families and what they need, without any plugin."""

    table: dict[str, dict[str, type[Options]]] = {  # noqa: RUF012
        "transforms": {"yolox": Recipe, "ssd": RecipeOptions},
        "schedulers": {"yoloxwarmcos": YoloxWarmCosOptions, "cosine": CosineOptions, "multi-step": MultiStepOptions},
    }
    readers = {  # noqa: RUF012
        "coco": ReaderFacts(),
        "voc": ReaderFacts(split_lists=True, aliases=("pascal_voc",)),
        "yolo": ReaderFacts(needs=("images_path",), aliases=("darknet_yolo",)),
        "synthetic": ReaderFacts(needs=()),
    }
    boards = {"stm32": TARGET}  # noqa: RUF012
    models = {"st_yolodv2milli_actrelu_pt": YOLOD, "ssdlite_mobilenetv2_pt": SSD}  # noqa: RUF012

    def names(self, kind: str) -> list[str]:
        return sorted(
            {"models": self.models, "datasets": self.readers, "targets": self.boards}.get(kind) or self.table[kind]
        )

    def reader(self, name: str) -> ReaderFacts:
        if name not in self.readers:
            raise PluginError(f"unknown dataset `{name}`")
        return self.readers[name]

    def target(self, name: str) -> TargetFacts:
        if name not in self.boards:
            raise PluginError(f"unknown target `{name}`")
        return self.boards[name]

    def targets(self) -> dict[str, TargetFacts]:
        return self.boards

    def options(self, kind: str, name: str) -> type[Options]:
        if name not in self.table[kind]:
            raise PluginError(f"unknown {kind} `{name}`")
        return self.table[kind][name]

    def family(self, model_name: str) -> ModelFamily:
        if model_name not in self.models:
            raise PluginError(f"unknown model `{model_name}`; did you mean `st_yolodv2milli_actrelu_pt`?")
        return self.models[model_name]

    def families(self) -> dict[str, ModelFamily]:
        return {"st_yolod": YOLOD, "ssd": SSD}

    def family_of_type(self, model_type: str) -> ModelFamily | None:
        return self.families().get(model_type)


@pytest.fixture(scope="module", autouse=True)
def weight_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the fake families publish."""
    package = tmp_path_factory.mktemp("packages") / "weights_of_the_fakes"
    package.mkdir()
    (package / "__init__.py").touch()
    rows = [
        {
            "model": model,
            "dataset": dataset,
            "resolution": size,
            "file": f"{model}_{dataset}_{size}.pth",
            "location": "x",
        }
        for model, dataset, size in (
            ("st_yolodv2milli_actrelu_pt", "coco", 640),
            ("ssdlite_mobilenetv2_pt", "coco_person", 300),
        )
    ]
    document = {"format": "stdet.weights/1", "locations": {"x": "https://x/"}, "weights": rows}
    (package / "weights.json").write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)
        yield


CATALOGUE = FakeCatalogue()
BASE = """\
operation_mode: training
model:
  model_name: st_yolodv2milli_actrelu_pt
dataset:
  train_images_path: a
  train_annotations_path: a.json
  val_images_path: b
  val_annotations_path: b.json
"""
NOW = datetime(2026, 1, 31, 12, 0, 5)


def read(text: str, *overrides: str) -> Config:
    return load_text(text, "my.yaml", overrides, CATALOGUE, now=NOW)


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        read(text, *overrides)
    return [str(p) for p in caught.value.problems]


def test_the_odd_spellings_of_the_guide_mean_what_they_should() -> None:
    config = read(
        BASE
        + """\
  format : coco
  training_path : " " # leave empty
  num_worker : 3
  mosaic_scale: (0.5, 1.25)
general:
  global_seed: None
preprocessing:
  rescaling: { scale: 1/127.5, offset: -1 }
  resizing: { interpolation: nearest, aspect_ratio: fit }
  color_mode: rgb
training:
  trainer_name : 'yolod'
  resume_training_from: '' #
  start_epoch: 0
  optimizer:
    SGD:
      learning_rate: 0.01
      warmup_lr: 0.0
      min_lr_ratio: 0.05
      weight_decay: 5e-4
hydra:
  run:
    dir: ./out/${now:%Y_%m_%d_%H_%M_%S}
"""
    )
    assert config.general.global_seed is None
    assert config.dataset.num_workers == 3
    assert config.options.augmentation.model_dump()["mosaic_scale"] == (0.5, 1.25)
    assert config.training.optimizer is not None
    assert config.training.optimizer.weight_decay == 5e-4
    assert config.options.scheduler.model_dump()["min_lr_ratio"] == 0.05
    assert config.training.resume_training_from is None
    assert config.hydra.run.dir == "./out/2026_01_31_12_00_05"
    preprocess = preprocess_of(config)
    assert config.preprocessing.rescaling == Rescaling(scale=1 / 127.5, offset=-1)
    assert (preprocess.resize_mode, preprocess.interpolation, preprocess.color_mode) == ("fit", "nearest", "rgb")
    assert any("preprocessing differs" in note for note in config.notes)


def test_seed_zero_is_zero_and_no_seed_is_the_default() -> None:
    assert read(BASE + "general: {global_seed: 0}\n").general.global_seed == 0
    assert read(BASE).general.global_seed == 123


def test_a_project_name_that_looks_like_arithmetic_stays_text() -> None:
    for name in ("2024-01-01x", "1-2", "1/2"):
        assert read(BASE + f"general: {{project_name: {name}}}\n").general.project_name == name


def test_all_mistakes_are_reported_at_once_with_line_and_nearest_name() -> None:
    found = problems(
        """\
operation_mode: trainin
model:
  model_name: st_yolodv2milli_actrelu_pt
  width_mult: 0.5
dataset:
  mosaic_prb: 0.5
  on_bad_data: skp
training:
  batch_size: 0
  epochs: many
  optimzer: {}
genral: {}
"""
    )
    text = "\n".join(found)
    for expected in (
        "my.yaml:1: operation_mode: found 'trainin'; did you mean `training`?",
        "my.yaml:4: model.width_mult: has no meaning here: its channels are fixed",
        "my.yaml:6: dataset.mosaic_prb: unknown key (found 0.5); did you mean `mosaic_prob`?",
        "my.yaml:7: dataset.on_bad_data: found 'skp'; did you mean `skip`?; allowed: error, skip",
        "my.yaml:9: training.batch_size",
        "my.yaml:10: training.epochs",
        "my.yaml:11: training.optimzer: unknown key (found {}); did you mean `optimizer`?",
        "my.yaml:12: genral: unknown section; did you mean `general`?",
    ):
        assert expected in text
    assert len(found) == 8


def test_a_mistake_in_one_section_hides_none_between_sections() -> None:
    text = """\
operation_mode: training
model: {model_name: ssdlite_mobilenetv2_pt, input_shape: [3, 90, 300], width_mult: -1, num_classes: 3}
dataset:
  class_names: [a, b]
  train_images_path: [1, 2]
  seed: -1
training: {epochs: 5, no_aug_epochs: 9, batch_size: many}
"""
    with pytest.raises(ConfigProblems) as caught:
        read(text)
    found = [(p.line, p.key) for p in caught.value.problems]
    assert found == sorted(found, key=lambda item: item[0])
    assert {key for _, key in found} == {
        "model.width_mult",
        "model.input_shape",
        "model.num_classes",
        "dataset.seed",
        "dataset.train_images_path",
        "dataset.train_annotations_path",
        "dataset.val_images_path",
        "dataset.val_annotations_path",
        "training.no_aug_epochs",
        "training.batch_size",
    }
    assert "missing" not in next(p for p in caught.value.problems if p.key == "dataset.train_images_path").message


def test_a_key_of_another_component_is_refused_with_its_owner() -> None:
    ssd = BASE.replace("st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv2_pt")
    assert "belongs to the transform `yolox`" in problems(ssd + "  mosaic_prob: 0.5\n")[0]
    assert "belongs to the scheduler `multi-step`" in problems(BASE + "training: {milestones: [1]}\n")[0]


def test_a_key_that_the_guide_prints_but_that_does_nothing_is_noted() -> None:
    ssd = BASE.replace("st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv2_pt")
    assert "training.gamma" in read(ssd + "training: {gamma: 0.1, scheduler: cosine, t_max: 20}\n").notes[0]
    assert "mixup_prob" in read(BASE + "  mixup_prob: 1.0\n  enable_mixup: False\n").notes[0]
    assert "multiscale_range" in read(BASE + "  multiscale_range: 5\n  random_size: [10, 20]\n").notes[0]


def test_reference_keys_without_a_meaning_are_refused_with_the_reason() -> None:
    assert "TensorFlow" in problems(BASE + "general: {gpu_memory_limit: 8}\n")[0]
    assert "train_images_path" in problems(BASE + "  training_path: data\n")[0]
    assert "host" in problems(BASE + "evaluation: {target: stedgeai_n6}\n")[0]


def test_section_level_optimizer_values_are_defaults_of_the_block() -> None:
    config = read(BASE + "training: {momentum: 0.8, weight_decay: 0.1, optimizer: {SGD: {weight_decay: 0.2}}}\n")
    optimizer = config.training.optimizer
    assert optimizer is not None
    assert optimizer.extras()["momentum"] == 0.8
    assert optimizer.weight_decay == 0.2
    assert "weight_decay" in config.notes[0]


def test_an_optimizer_can_be_a_bare_name_and_refuses_options_of_another() -> None:
    optimizer = read(BASE + "training: {optimizer: Adam}\n").training.optimizer
    assert optimizer is not None
    assert optimizer.name == "Adam"
    assert "momentum" in problems(BASE + "training: {optimizer: {Adam: {momentum: 0.9}}}\n")[0]
    assert "unknown optimizer" in problems(BASE + "training: {optimizer: Nonsense}\n")[0]
    assert "exactly one" in problems(BASE + "training: {optimizer: {SGD: {}, Adam: {}}}\n")[0]


def test_overrides_win_and_are_named_as_the_place_of_a_mistake() -> None:
    config = read(BASE, "training.epochs=3", "dataset.class_names=[a,b]", "training.optimizer.SGD.learning_rate=1/10")
    assert config.training.epochs == 3
    assert config.dataset.class_names == ("a", "b")
    assert config.training.optimizer is not None
    assert config.training.optimizer.learning_rate == 0.1
    assert problems(BASE, "training.epochs=x")[0].startswith("command line: training.epochs")
    assert "key=value" in problems(BASE, "epochs")[0]


def test_interpolation_follows_overrides_and_a_dead_end_is_an_error() -> None:
    text = BASE + "  test_images_path: ${dataset.train_images_path}/test\n"
    assert read(text, "dataset.train_images_path=/x").dataset.test_images_path == Path("/x/test")
    assert "interpolation" in problems(BASE + "  test_split: ${no.such}\n")[0]


def test_a_key_given_twice_and_malformed_yaml_name_the_line() -> None:
    assert problems(BASE + "training:\n  epochs: 1\n  epochs: 2\n")[0].startswith(
        "my.yaml:11: training.epochs: given twice"
    )
    assert problems("operation_mode: [training\nmodel: {\n")[0].startswith("my.yaml:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 100, 64]}", "multiples of 32"),
        ("model: {model_name: st_yolodv2milli_actrelu_pt, input_shape: [1, 64, 64]}", "channels"),
        ("model: {model_name: st_yolodv2milli_actrelu_pt, model_type: ssd}", "of type `st_yolod`"),
        ("model: {model_name: nothing_like_it}", "unknown model"),
        ("model: {model_name: st_yolodv2milli_actrelu_pt, num_classes: 2}\ndataset: {class_names: [a]}", "num_classes"),
        ("training: {no_aug_epochs: 9, epochs: 3}", "more than epochs"),
        ("training: {start_epoch: 2}", "resume_training_from"),
        ("training: {quantization_aware: Int8}", "fine-tunes trained weights: set model.model_path"),
        ("training: {quantization_aware: Int7}\nmodel: {model_path: a.pth}", "Int8, Int4"),
        ("training: {quantization_aware: Int8}\nmodel: {pretrained: True, pretrained_dataset: imagenet}", "fine-tunes"),
        ("training: {quantization_aware: Int8}\nmodel: {model_path: a.onnx}", "an ONNX file can't be trained"),
        ("training: {quantization_aware: Int8, fp16: True}\nmodel: {model_path: a.pth}", "combined with fp16"),
        ("training: {quantization_aware: Int8, compile: True}\nmodel: {model_path: a.pth}", "combined with compile"),
        (
            "training: {quantization_aware: Int8}\nmodel: {model_name: ssdlite_mobilenetv2_pt, model_path: a.pth}",
            "int8 of models of type `ssd` can't be simulated",
        ),
        ("training: {trainer_name: ssd}", "trainer_name"),
        ("dataset: {format: voc, dataset_name: coco}", "mean the same"),
        ("postprocessing: {confidence_thresh: 1.5}", "confidence_thresh"),
        ("model: {model_name: ssdlite_mobilenetv2_pt}\npreprocessing: {mean: [1, 2]}", "mean and std"),
    ],
)
def test_contradictions_are_found(text: str, message: str) -> None:
    tree = yaml.safe_load(BASE)
    for section, keys in yaml.safe_load(text).items():
        tree[section] = tree.get(section, {}) | keys
    assert any(message in p for p in problems(yaml.safe_dump(tree)))


def test_what_can_be_trained_is_told_by_what_the_file_holds(tmp_path: Path) -> None:
    checkpoint, network = tmp_path / "best.onnx", tmp_path / "best.pth"
    checkpoint.write_bytes(b"PK\x03\x04")
    network.write_bytes(b"\x08\x0a")
    assert read(BASE, f"model.model_path={checkpoint}").model.model_path == checkpoint
    assert "can't be trained" in problems(BASE, f"model.model_path={network}")[0]


def test_a_target_judges_its_keys_where_something_is_asked_of_it() -> None:
    text = BASE.replace("training\nmodel:\n", "chain_tqe\nmodel:\n  model_path: a.pth\n")
    text += "training: {quantization_aware: Int4}\nquantization: {granularity: per_tensor}\n"
    assert "training.quantization_aware: simulates Int4 per_channel" in problems(text)[0]
    assert read(text.replace("per_tensor", "per_channel")).training.quantization_aware == "Int4"
    assert read(text.replace("chain_tqe", "training"))
    (note,) = read(text.replace("chain_tqe", "evaluation")).notes
    assert "quantization_aware does nothing in evaluation" in note


def test_the_sections_of_a_target_are_checked_as_its_own_classes() -> None:
    config = read(BASE + "quantization: {max_drop: 1/2}\nbenchmarking: {runs: 2*3}\n")
    assert isinstance(config.quantization, FakeQuantization)
    assert (config.quantization.max_drop, config.quantization.granularity) == (0.5, "per_channel")
    assert isinstance(config.benchmarking, FakeBenchmarking)
    assert config.benchmarking == FakeBenchmarking(board="stm32", backends=("host",), runs=6)
    assert config.target_sections.benchmarking is config.benchmarking
    assert "my.yaml:9: benchmarking.run: unknown key" in problems(BASE + "benchmarking: {run: 1}\n")[0]
    assert "did you mean `runs`" in problems(BASE + "benchmarking: {run: 1}\n")[0]
    wrong = problems(BASE + "benchmarking: {backends: [hots]}\n")
    assert "benchmarking.backends: found 'hots'; did you mean `host`?; allowed: host, emulator" in wrong[0]


def test_evaluation_images_are_needed_where_the_target_says_so() -> None:
    text = "operation_mode: quantization\nmodel: {model_path: a.onnx}\ndataset: {quantization_path: q}\n"
    assert read(text)
    assert "dataset.val_images_path: missing" in problems(text + "quantization: {searches: True}\n")[0]


def test_what_is_not_installed_stops_only_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: str) -> object:
        raise UnavailableError("it is provided by acme, which is not installed", "pip install acme")

    for method in ("reader", "target", "options"):
        monkeypatch.setattr(CATALOGUE, method, absent, raising=False)
    keys = "  mosaic_prob: 1\n  class_names: [a]\nquantization: {granularity: per_tensor, max_drop: 1}\n"
    config = read(BASE.replace(": training", ": export") + keys)
    assert config.dataset.class_names == ("a",)
    assert config.quantization.max_drop == 1
    assert [n.split(": ")[0] for n in config.notes] == ["dataset.mosaic_prob", "quantization.granularity"]
    found = problems(BASE.replace(": training", ": chain_tqe") + keys)
    keys_named = {line.split(": ")[1] for line in found}
    assert keys_named == {"model.model_name", "dataset.dataset_name", "training.scheduler", "benchmarking.board"}
    assert all("pip install acme" in line for line in found)


def test_a_component_cannot_take_a_key_that_means_something_already(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(Options):
        epochs: int = 300

    monkeypatch.setitem(CATALOGUE.table["schedulers"], "greedy", Greedy)
    (line,) = problems(BASE, "training.scheduler=greedy", "training.epochs=7")
    assert "the scheduler `greedy` adds this key, but it is stdet's" in line

    class Twin(RecipeOptions):
        hsv_prob: float = 0.5

    monkeypatch.setitem(CATALOGUE.readers, "twin", ReaderFacts(options=Twin, needs=()))
    (line,) = problems(BASE, "dataset.dataset_name=twin")
    assert "the transform `yolox` adds this key, but it is the dataset `twin`'s" in line


def test_the_recipe_is_the_familys_unless_the_config_chooses_another() -> None:
    assert read(BASE).dataset.augmentation == "yolox"
    other = read(BASE, "dataset.augmentation=ssd")
    assert other.dataset.augmentation == "ssd"
    assert "belongs to the transform `yolox`" in problems(BASE + "  augmentation: ssd\n  mosaic_prob: 1\n")[0]
    assert "dataset.augmentation: unknown transforms `sdd`" in problems(BASE, "dataset.augmentation=sdd")[0]


def test_what_a_format_needs_and_what_it_is_called() -> None:
    yolo = "dataset: {dataset_name: darknet_yolo, train_images_path: a, val_images_path: b}\n"
    model = "operation_mode: training\nmodel: {model_name: st_yolodv2milli_actrelu_pt}\n"
    assert read(model + yolo).dataset.dataset_name == "yolo"
    assert read(model + yolo.replace("dataset_name: darknet_", "format: ")).dataset.dataset_name == "yolo"
    assert "val_images_path: missing" in problems(model + yolo.replace(", val_images_path: b", ""))[0]
    config = read(model + "dataset: {train_split: [VOC2007/t.txt, VOC2012/t.txt], val_split: v.txt}\n")
    lists = config.dataset
    assert lists.dataset_name == "voc"
    assert lists.train_split == (Path("VOC2007/t.txt"), Path("VOC2012/t.txt"))
    assert lists.val_split == Path("v.txt")
    assert config.evaluation_split() == "val"
    assert read(model + "dataset: {train_split: a, val_split: v, test_split: t}\n").evaluation_split() == "test"


def test_split_lists_mean_voc_and_nothing_else() -> None:
    assert read(BASE + "  train_split: a.txt\n").dataset.dataset_name == "voc"
    assert "coco, which has no split lists" in problems(BASE + "  train_split: a.txt\n  dataset_name: coco\n")[0]


def test_the_choice_of_published_weights_is_noted_when_none_are_loaded() -> None:
    text = BASE.replace("actrelu_pt\n", "actrelu_pt\n  pretrained_dataset: coco\n")
    assert "pretrained_dataset" in read(text).notes[0]


def test_each_mode_says_which_paths_it_needs() -> None:
    missing = problems("operation_mode: training\nmodel: {model_name: st_yolodv2milli_actrelu_pt}\n")
    assert [m.split(": ")[1] for m in missing] == [
        "dataset.train_images_path",
        "dataset.train_annotations_path",
        "dataset.val_images_path",
        "dataset.val_annotations_path",
    ]
    assert "prediction_path" in problems("operation_mode: prediction\nmodel: {model_path: a.onnx}\n")[0]


def test_short_runs_keep_strong_augmentation_for_most_of_their_epochs() -> None:
    assert read(BASE + "training: {epochs: 300}\n").training.no_aug_epochs == 15
    assert read(BASE + "training: {epochs: 8}\n").training.no_aug_epochs == 2
    assert read(BASE + "training: {epochs: 8, no_aug_epochs: 8}\n").training.no_aug_epochs == 8


def test_nothing_in_a_config_is_executed(tmp_path: Path) -> None:
    victim = tmp_path / "touched"
    for payload in (
        f"!!python/object/apply:os.system ['touch {victim}']",
        "!!python/name:os.system ''",
        f"\"__import__('os').system('touch {victim}')\"",
        f'"${{oc.env:HOME}}; touch {victim}"',
    ):
        for key in ("project_name", "global_seed"):
            try:
                read(BASE + f"general: {{{key}: {payload}}}\n")
            except ConfigProblems:
                pass
    assert not victim.exists()


def test_yaml_that_unfolds_to_billions_is_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    assert "values" in problems(bomb)[0]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    for candidate in (text, f"operation_mode: training\n{text}", f"general:\n  project_name: {text}"):
        try:
            read(candidate)
        except ConfigError:
            pass


_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "general": st.fixed_dictionaries(
            {"global_seed": st.none() | st.integers(0, 99), "project_name": st.just("x y")}
        ),
        "postprocessing": st.fixed_dictionaries(
            {"NMS_thresh": st.floats(0, 1), "max_detection_boxes": st.integers(1, 300)}
        ),
        "training": st.fixed_dictionaries(
            {
                "epochs": st.integers(1, 50),
                "warmup_epochs": st.floats(0, 5),
                "optimizer": st.sampled_from(["SGD", "Adam", {"AdamW": {"learning_rate": 0.2, "betas": [0.8, 0.9]}}]),
            }
        ),
        "preprocessing": st.fixed_dictionaries({"mean": st.just(3) | st.just([1, 2, 3]), "color_mode": st.just("rgb")}),
    },
)


@settings(max_examples=50, deadline=None)
@given(_VALUES)
def test_a_resolved_config_loads_to_the_same_config(values: dict[str, object]) -> None:
    config = read(yaml.safe_dump(yaml.safe_load(BASE) | values))
    again = read(to_yaml(config))
    assert again.document() == config.document()
    assert (again.training, again.options, again.general) == (config.training, config.options, config.general)


def test_the_schema_describes_every_key_and_whose_it_is() -> None:
    found = to_json_schema(CATALOGUE)["properties"]
    assert found["training"]["properties"]["epochs"]["description"]
    assert found["dataset"]["properties"]["mosaic_prob"]["x-from"] == ["transforms/yolox"]
    assert found["quantization"]["properties"]["granularity"]["x-from"] == ["targets/stm32"]
    assert "x-from" not in found["quantization"]["properties"]["max_drop"]


def test_the_schema_accepts_a_config_and_points_at_its_mistakes() -> None:
    document = read(BASE).document()
    for schema_ in (to_json_schema(CATALOGUE), to_json_schema(CATALOGUE, read(BASE))):
        judge = Draft202012Validator(schema_)
        judge.check_schema(schema_)
        assert not list(judge.iter_errors(document))
        wrong = document | {"training": document["training"] | {"epochs": "many", "epoch": 3}}
        assert sorted([*e.path, e.validator][-1] for e in judge.iter_errors(wrong)) == ["additionalProperties", "type"]


def test_the_schema_of_a_file_holds_only_the_keys_that_fit_it() -> None:
    multi_step = read(BASE, "training.scheduler=multi-step", "training.milestones=[3]")
    assert "milestones" in to_json_schema(CATALOGUE, multi_step)["properties"]["training"]["properties"]
    assert "milestones" not in to_json_schema(CATALOGUE, read(BASE))["properties"]["training"]["properties"]


def test_a_component_that_cannot_be_loaded_is_named_in_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    options = CATALOGUE.options

    def broken(kind: str, name: str) -> type[Options]:
        if name == "yolox":
            raise PluginError("yolox is broken")
        return options(kind, name)

    monkeypatch.setattr(CATALOGUE, "options", broken)
    assert to_json_schema(CATALOGUE)["x-not-loaded"] == {"transforms/yolox": "yolox is broken"}


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config"):
        load(tmp_path / "none.yaml", (), CATALOGUE)


def guide() -> Path:
    root = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[5] / "shared"))
    return root / "reference" / "training_guide.md"


@pytest.mark.parametrize(("written", "override"), [("num_worker", "num_workers"), ("num_workers", "num_worker")])
def test_an_override_wins_whichever_name_the_file_uses(written: str, override: str) -> None:
    assert read(BASE + f"  {written}: 4\n", f"dataset.{override}=0").dataset.num_workers == 0


def test_weights_that_nobody_published_are_a_mistake_of_the_config_and_what_there_is_is_said() -> None:
    base = BASE.replace("model:", "model:\n  pretrained: True")
    (line,) = problems(base, "model.pretrained_dataset=voc")
    assert "no weights of st_yolodv2milli_actrelu_pt are published for voc (there are: coco at 640 px" in line
    (line,) = problems(base, "model.pretrained_dataset=coco", "model.pretrained_input_shape=[3,96,320]")
    assert "coco at 320 px" in line
    assert read(base, "model.pretrained_dataset=coco").model.pretrained
    assert "model.model_path counts" in read(base, "model.model_path=own.pth").notes[0]


def test_every_yaml_block_of_the_guide_loads_unchanged() -> None:
    if not guide().exists():
        pytest.skip("the guide isn't here")
    blocks = re.findall(r"```yaml\s*\n(.*?)```", guide().read_text(encoding="utf-8"), re.DOTALL)
    checked = [block for block in blocks if (wrap := _wrapper(block)) and read(wrap(block))]
    assert len(checked) == 11


def _wrapper(block: str) -> Callable[[str], str] | None:
    """How to complete a fragment of the guide to a whole config; None for directory trees and Python."""
    if any(mark in block for mark in ("├", "import json", ".zip")):
        return None
    model = "ssdlite_mobilenetv2_pt" if "trainer_name : ssd" in block else "st_yolodv2milli_actrelu_pt"
    base = BASE.replace("st_yolodv2milli_actrelu_pt", model)
    paths = "  val_images_path: b\n  val_annotations_path: b.json\n"
    if block.startswith("model:") or block.startswith("#"):
        return lambda text: "operation_mode: training\n" + text + base[base.index("dataset:") :]
    if block.startswith("dataset"):
        head = base[: base.index("dataset:")]
        return lambda text: head + text + ("" if "val_images_path" in text else paths)
    if block.lstrip().startswith("multiscale_range"):
        return lambda text: base + text
    return lambda text: base + text


GUIDE_NORMALISATION = "preprocessing: {rescaling: {scale: 1/127.5, offset: -1}, mean: [127, 127, 127], std: 128}\n"
SSD_BASE = BASE.replace("st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv2_pt")


def test_preprocessing_that_a_family_does_without_is_accepted_not_applied_and_said() -> None:
    config = read(BASE + GUIDE_NORMALISATION)
    assert preprocess_of(config) == YOLOD.preprocess
    assert [n for n in config.notes if "do nothing" in n and "scale, offset, mean, std" in n]
    turned = read(BASE + "preprocessing: {color_mode: rgb, mean: 127}\n")
    assert preprocess_of(turned).color_mode == "rgb"
    assert any("color_mode rgb (weights: bgr)" in n for n in turned.notes)
    assert "mean" not in turned.document()["preprocessing"]


def test_whoever_gives_a_part_of_the_normalisation_describes_all_of_it() -> None:
    scaled = preprocess_of(read(SSD_BASE + "preprocessing: {rescaling: {scale: 1/127.5, offset: -1}}\n"))
    assert (scaled.scale, scaled.offset, scaled.mean, scaled.std) == (1 / 127.5, -1.0, (0.0,) * 3, (1.0,) * 3)
    shifted = preprocess_of(read(SSD_BASE + "preprocessing: {mean: [1, 2, 3]}\n"))
    assert (shifted.scale, shifted.offset, shifted.mean, shifted.std) == (1.0, 0.0, (1.0, 2.0, 3.0), (1.0,) * 3)
    assert preprocess_of(read(SSD_BASE)) == SSD.preprocess


def test_a_mean_of_raw_pixels_is_not_taken_from_scaled_ones() -> None:
    """The reference's files have all four; one after the other they make -1.0 to -0.984 of every picture."""
    config = read(SSD_BASE + GUIDE_NORMALISATION)
    assert preprocess_of(config) == SSD.preprocess
    assert [n for n in config.notes if "scale and offset do nothing, since they make -1 to 1 of pixels" in n]
    imagenet = "preprocessing: {rescaling: {scale: 1/255}, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}\n"
    both = preprocess_of(read(SSD_BASE + imagenet))
    assert (both.scale, both.mean[0], both.std[0]) == (1 / 255, 0.485, 0.229)


def test_the_resolved_config_shows_what_is_applied_to_a_pixel() -> None:
    shown = read(SSD_BASE + "preprocessing: {rescaling: {offset: -1}}\n").document()["preprocessing"]
    assert shown["rescaling"] == {"scale": 1.0, "offset": -1.0}
    assert (shown["mean"], shown["std"]) == ([0.0] * 3, [1.0] * 3)
    assert shown["resizing"] == {"interpolation": "bilinear", "aspect_ratio": "fit"}


@pytest.mark.parametrize("folder", ["/tmp/x", "../x", "a/../../x"])
@pytest.mark.parametrize("key", ["general.saved_models_dir", "quantization.export_dir"])
def test_folders_of_a_run_stay_in_it(key: str, folder: str) -> None:
    assert f"{key}: a folder inside the run folder" in problems(BASE, f"{key}={folder}")[0]
    assert read(BASE, f"{key}=a/b")


def test_a_schedule_says_before_the_training_which_epochs_change_nothing() -> None:
    late = SSD_BASE + "training: {epochs: 300, scheduler: cosine, t_max: 100}\n"
    assert any("the rate is 0 in the last 200 epochs" in n for n in read(late).notes)
    assert not read(late.replace("t_max: 100", "t_max: 300")).notes
    steps = SSD_BASE + "training: {epochs: 10, scheduler: multi-step, milestones: [5, 10]}\n"
    assert any("milestones 10: not reached in 10 epochs" in n for n in read(steps).notes)


def test_options_that_change_shapes_do_not_go_with_published_weights() -> None:
    text = SSD_BASE.replace("model:\n", "model:\n  pretrained: True\n  pretrained_dataset: coco_person\n")
    assert read(text)
    assert "model.width_mult: is 0.5, but published weights have 1.0" in problems(text, "model.width_mult=0.5")[0]


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("('a','b')", ("a", "b")),
        ("( 'traffic light', \"stop sign\", )", ("traffic light", "stop sign")),
        ("('one')", ("one",)),
        ("[a, b]", ("a", "b")),
    ],
)
def test_a_list_of_names_may_be_written_as_the_reference_writes_tuples(written: str, names: tuple[str, ...]) -> None:
    assert read(BASE + f"  class_names: {written}\n").dataset.class_names == names


def test_a_key_can_be_added_set_to_nothing_and_taken_away_on_the_command_line() -> None:
    text = BASE + "  class_names: [a]\ntraining: {epochs: 7, batch_size: 3}\n"
    assert read(text, "+training.epochs=9").training.epochs == 9
    assert read(text, "++training.epochs=9").training.epochs == 9
    assert read(text, "training.epochs=null").training.epochs == 300
    assert read(text, "~training.epochs").training.epochs == 300
    assert read(text, "~training").training.batch_size == 32
    assert read(text, "~dataset.class_names=whatever").dataset.class_names is None
    assert "~training.epoch: there is no such key to take away" in problems(text, "~training.epoch")[0]
    assert "~traning: there is no such key" in problems(text, "~traning")[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs=" + "9" * 5000, "training.epochs: '999"),
        ("training.fp16=!!bool abc", "training.fp16: 'abc' is no bool"),
        ("general.project_name=\udc80", "holds a character that no file can"),
        ("general.project_name=a\0b", "holds a character that no file can"),
        ("general.project_name=!!python/name:os.system x", "could not determine a constructor"),
        ("general.project_name=${oc.env:HOME}", "asks for a function"),
    ],
)
def test_a_value_that_is_none_is_the_users_mistake(override: str, said: str) -> None:
    assert any(said in line for line in problems(BASE, override))


def test_a_name_that_looks_like_a_date_is_a_name() -> None:
    assert read(BASE, "general.project_name=2024-13-01").general.project_name == "2024-13-01"
    assert read(BASE + "general: {project_name: 2024-01-31}\n").general.project_name == "2024-01-31"


def test_a_section_that_is_no_mapping_is_told_and_the_rest_is_still_judged() -> None:
    found = problems("operation_mode: training\nmodel: {model_name: st_yolodv2milli_actrelu_pt}\ndataset: coco\n")
    assert any("my.yaml:3: dataset: a section is a mapping of keys, found 'coco'" in line for line in found)


def test_thousands_of_unknown_keys_are_told_in_a_moment() -> None:
    text = BASE + "training:\n" + "".join(f"  k{i}: 1\n" for i in range(19_000))
    start = time.process_time()
    found = problems(text)
    assert time.process_time() - start < 10
    assert len(found) == 51
    assert any("19000 keys that nobody knows" in line for line in found)


def test_tools_write_where_the_command_line_says_and_never_among_the_runs_of_the_file() -> None:
    text = BASE + "hydra: {run: {dir: runs/first}}\n"
    assert read(text).tool_dir == Path("tool_outputs/first")
    assert read(text, "hydra.run.dir=here").tool_dir == Path("here")
    assert read(BASE).tool_dir.parent == Path("tool_outputs")
