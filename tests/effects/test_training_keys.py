"""What the keys of `training`, and of `general` and `model` with it, do: in the parts of a training and in tiny ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stdet import api
from stdet.build import Builder
from stdet.engine.callbacks import Callback
from stdet.engine.trainer import Trainer
from stdet.errors import ConfigError
from stdet.interfaces.reporter import SilentReporter
from stdet.interfaces.scheduler import ScheduleLength
from stdet.interfaces.tracker import Tracker
from stdet.stages import WORK
from stdet.tracking.together import TRACKERS, TrackedRun, Trackers

Made = Callable[..., Builder]

# --- optimizers and schedules -----------------------------------------------------------------------------------------

OPTIONS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "SGD": [
        ("learning_rate", {"lr": 0.5}),
        ("weight_decay", {"weight_decay": 0.25}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
        ("momentum", {"momentum": 0.3}),
        ("dampening", {"dampening": 0.2}),
        ("nesterov", {"nesterov": True}),
    ],
    "Adam": [
        ("learning_rate", {"lr": 0.5}),
        ("weight_decay", {"weight_decay": 0.25}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
        ("betas", {"betas": (0.5, 0.6)}),
        ("eps", {"eps": 0.125}),
        ("amsgrad", {"amsgrad": True}),
        ("decoupled_weight_decay", {"decoupled_weight_decay": True}),
    ],
}
OPTIONS["AdamW"] = OPTIONS["Adam"][:-1]
"""Keys of each optimizer, and how a parameter group of it holds them."""


@pytest.mark.parametrize(("name", "key", "held"), [(name, *one) for name, all_ in OPTIONS.items() for one in all_])
def test_each_option_of_an_optimizer_is_in_all_its_groups(
    made: Made, name: str, key: str, held: dict[str, Any]
) -> None:
    (value,) = held.values()
    text = list(value) if isinstance(value, tuple) else value
    builder = made(f"training.optimizer={{{name}: {{{key}: {text}}}}}", ssd=True)
    groups = builder.untrained_groups()
    usual = made(f"training.optimizer={name}", ssd=True).untrained_groups()
    assert all(group[next(iter(held))] == value for group in groups)
    assert all(group[next(iter(held))] != value for group in usual)
    assert type(builder.optimizer(builder.skeleton(builder.spec_without_data()))) is getattr(torch.optim, name)


RATES = [
    ("t_max=2", "cosine", 25, 0.0),
    ("milestones=[1]", "multi-step", 10, 0.1),
    ("gamma=0.25", "multi-step", 10, 0.25),
    ("warmup_epochs=2", "yoloxwarmcos", 9, 0.25),
    ("warmup_lr=0.5", "yoloxwarmcos", 4, 0.5 + 0.5 * 0.25),
    ("min_lr_ratio=0.5", "yoloxwarmcos", 39, 0.5),
]


@pytest.mark.parametrize(("key", "scheduler", "step", "expected"), RATES)
def test_each_key_of_a_schedule_sets_its_rates(
    made: Made, key: str, scheduler: str, step: int, expected: float
) -> None:
    """Of four epochs of ten steps, from a rate of 1."""
    given = [f"training.scheduler={scheduler}", "training.epochs=4"]
    given += ["training.milestones=[1]"] if key.startswith("gamma") else []
    length = ScheduleLength(4, 10)
    assert made(*given, f"training.{key}").scheduler(length).learning_rate(step, 1.0) == pytest.approx(expected)
    if not key.startswith("milestones"):  # it has no default
        assert made(*given).scheduler(length).learning_rate(step, 1.0) != pytest.approx(expected)


@pytest.mark.parametrize(("key", "group"), [("base_net_lr", "backbone"), ("extra_layers_lr", "extra layers")])
def test_parts_of_an_ssd_learn_at_their_own_rates(made: Made, key: str, group: str) -> None:
    rates = {g["name"]: g["lr"] for g in made(f"training.{key}=0.125", ssd=True).untrained_groups()}
    assert [name for name, rate in rates.items() if rate == 0.125] == [group]


# --- model ------------------------------------------------------------------------------------------------------------


def test_options_of_a_model_change_its_layers(made: Made) -> None:
    def layers(*overrides: str, ssd: bool = False) -> nn.Module:
        builder = made(*overrides, ssd=ssd)
        return builder.skeleton(builder.spec(("disc", "square")))

    def weights(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert weights(layers("model.width_mult=0.5", ssd=True)) < weights(layers(ssd=True)) / 2
    assert any(isinstance(m, nn.Hardswish) for m in layers("model.act=hardswish").modules())
    assert not any(isinstance(m, nn.Hardswish) for m in layers().modules())
    assert type(layers()) is not type(layers(ssd=True))


@pytest.mark.parametrize(
    "override",
    [
        "model.framework=tensorflow",
        "training.trainer_name=ssd",
        "quantization.quantization_type=QAT",
    ],
)
def test_a_key_with_one_right_value_refuses_others(made: Made, override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        made(override)


# --- a tiny training --------------------------------------------------------------------------------------------------


class Listening(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.shown: list[int] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        if values is not None:
            self.shown.append(done)


class Trained:
    """What a tiny training left and said."""

    def __init__(self, builder: Builder, callbacks: list[Callback]) -> None:
        self.heard = Listening()
        result = api.run(builder.config, self.heard, callbacks=callbacks)
        self.folder = result.run_dir
        self.models = self.folder / builder.config.general.saved_models_dir
        self.files = {path.name for path in self.models.iterdir()}
        self.history = json.loads((self.models / "history.json").read_text())["epochs"]
        self.last = torch.load(self.models / "latest_ckpt.pth", weights_only=True)


@pytest.fixture
def train(made: Made, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Trains without what takes longest in so short a training: the picture of its curves, and the ONNX."""
    monkeypatch.setitem(WORK, "export", lambda run: None)
    monkeypatch.setattr("stdet.stages.train.plot_history", lambda history, path: None)

    def run(*overrides: str, callbacks: list[Callback] | None = None, **options: Any) -> Trained:
        quiet = ["general.logger=None", "postprocessing.confidence_thresh=0.5"]
        return Trained(made(*quiet, *overrides, **options), callbacks or [])

    return run


Train = Callable[..., Trained]


def test_epochs_batches_and_intervals_are_those_of_the_config(train: Train) -> None:
    found = train(
        "training.epochs=4", "training.batch_size=2", "training.accumulate=2", "training.eval_interval=2",
        "training.print_interval=1", "training.save_history_ckpt=True", "general.saved_models_dir=mine",
    )  # fmt: skip
    assert found.models == found.folder / "mine"
    assert ["AP" in row for row in found.history] == [False, True, False, True]
    assert {"epoch_2_ckpt.pth", "epoch_4_ckpt.pth"} == {name for name in found.files if name.startswith("epoch_")}
    assert found.last["steps_per_epoch"] == 2  # of eight images by two times two
    assert found.heard.shown == list(range(1, 9))


def test_without_these_keys_a_training_does_as_it_is_used_to(train: Train, tmp_path: Path) -> None:
    found = train("training.epochs=2", "training.batch_size=2", "training.accumulate=1")
    assert ["AP" in row for row in found.history] == [True, True]
    assert not {name for name in found.files if name.startswith("epoch_")}
    assert found.heard.shown == [4, 8]  # the last step of each epoch
    assert found.folder == tmp_path / "run"
    assert "tensorboard" not in found.files


def test_the_logger_writes_curves(train: Train) -> None:
    pytest.importorskip("tensorboard")
    assert "tensorboard" in train("general.logger=tensorboard").files


def test_the_global_seed_decides_about_the_weights(train: Train) -> None:
    one, same, other = (train(f"general.global_seed={seed}").last["model"] for seed in (1, 1, 2))
    name = next(key for key, value in one.items() if value.dim() == 4)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_an_average_of_the_weights_is_kept_where_asked_for(train: Train) -> None:
    kept, live = (train(f"training.ema={ema}").last for ema in (True, False))
    name = next(key for key, value in kept["model"].items() if value.dim() == 4)
    assert not torch.equal(kept["model"][name], kept["live_model"][name])
    assert live["live_model"] is None
    assert torch.allclose(kept["live_model"][name], live["model"][name])


class Onlooker(Callback):
    """Notes how the loop stands when it updates the weights."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.layout: set[bool] = set()

    def before_update(self, trainer: Trainer) -> None:
        gradients = [p.grad for p in trainer.detector.parameters() if p.grad is not None]
        self.norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))
        dense = [p for p in trainer.detector.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        self.layout = {p.is_contiguous(memory_format=torch.channels_last) for p in dense}


def test_gradients_are_clipped_and_the_layout_is_the_one_asked_for(train: Train) -> None:
    usual, changed = Onlooker(), Onlooker()
    train(callbacks=[usual])
    train("training.clip_grad_norm=0.01", "training.channels_last=False", callbacks=[changed])
    assert min(usual.norms) > 0.02
    assert changed.norms == pytest.approx([0.01] * len(changed.norms), rel=1e-3)
    assert (usual.layout, changed.layout) == ({True}, {False})


def test_a_training_without_time_left_ends_with_its_first_epoch(train: Train) -> None:
    found = train("training.epochs=3", "training.time_budget=0.001s")
    assert len(found.history) == 1
    assert any("time_budget" in note for note in found.heard.notes)


def test_a_resumed_training_begins_with_the_epoch_that_it_is_told(train: Train) -> None:
    first = train("training.epochs=3")
    checkpoint = first.models / "latest_ckpt.pth"
    again = train(f"training.resume_training_from={checkpoint}", "training.epochs=3", "training.start_epoch=2")
    assert [row["epoch"] for row in again.history] == [1, 2, 3]
    assert again.history[:2] == first.history[:2]
    assert again.history[2] != first.history[2]  # trained again


def test_fp16_computes_in_bfloat16_where_the_processor_can(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdet.nn.precision.cpu_has_bfloat16", lambda: True)
    mixed, plain = train("training.fp16=True"), train()
    assert mixed.last["precision"] == "bfloat16 autocast"
    assert plain.last["precision"] == "float32"
    name = next(key for key, value in plain.last["model"].items() if value.dim() == 4)
    assert not torch.equal(mixed.last["model"][name], plain.last["model"][name])


def test_compile_is_asked_of_torch(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    train()
    assert not compiled
    train("training.compile=True")
    assert len(compiled) == 1


def test_batch_norm_is_synchronized_where_asked_for(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """What that does with two processes, `test_distributed.py` of core shows."""
    asked: list[str] = []
    monkeypatch.setattr("stdet.stages.train.synchronize_batch_norm", lambda model, device: asked.append(device))
    train()
    assert not asked
    train("training.sync_batch_norm=True", "training.device=auto")
    assert asked == ["cpu"]


def test_the_device_is_the_one_asked_for_and_there(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, ["cuda", "cuda", "cpu"]), (False, ["cpu", None, "cpu"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for device, found in zip(("auto", "cuda", "cpu"), expected, strict=True):
            builder = made(f"training.device={device}")
            if found is None:
                with pytest.raises(ConfigError, match="no usable CUDA"):
                    builder.device()
            else:
                assert builder.device() == found


def test_the_project_and_the_store_of_the_config_are_mlflows(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str | None, str]] = []

    def fake(run: TrackedRun) -> Tracker:
        opened.append((run.mlflow_uri, run.project))
        return Trackers()

    monkeypatch.setitem(TRACKERS, "mlflow", fake)
    train("general.project_name=cells", "mlflow.uri=/store")
    assert opened == [("/store", "cells")]
    train("general.project_name=cells")
    assert len(opened) == 1
