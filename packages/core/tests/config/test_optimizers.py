"""`training.optimizer`: what torch has, with torch's own keyword arguments, and torch loaded only where it must be."""

from __future__ import annotations

import inspect
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
import torch
import yaml

from stdet.config import ConfigProblems, load_text, to_yaml
from stdet.config.checked import Config
from stdet.config.optimizers import NOT_OURS, UNFIT, options_of, torch_optimizers
from stdet.engine.optimizers import make_optimizer
from stdet.engine.schedule_options import CosineOptions
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import TargetFacts
from stdet.interfaces.transform import RecipeOptions
from stdet.structures import Preprocess

FAMILY = ModelFamily("t", "t", Preprocess(64, 64), "none", "cosine", False, 1, 1, "none", (8,))
USABLE = [name for name in torch_optimizers() if name not in UNFIT]


class FakeCatalogue:
    def names(self, kind: str) -> list[str]:
        return []

    def options(self, kind: str, name: str) -> type[Options]:
        return CosineOptions if kind == "schedulers" else RecipeOptions

    def reader(self, name: str) -> ReaderFacts:
        return ReaderFacts()

    def target(self, name: str) -> TargetFacts:
        return TargetFacts()

    def targets(self) -> dict[str, TargetFacts]:
        return {}

    def family(self, model_name: str) -> ModelFamily:
        return FAMILY

    def families(self) -> dict[str, ModelFamily]:
        return {"t": FAMILY}


def read(training: str) -> Config:
    text = "\nmodel: {model_name: t}\n" + training
    return load_text(text, "my.yaml", [], FakeCatalogue(), data_only=True, now=datetime(2026, 1, 1))


def saved(config: Config) -> str:
    """The training section that config.yaml would hold."""
    return yaml.safe_dump({"training": yaml.safe_load(to_yaml(config))["training"]})


def made(config: Config) -> torch.optim.Optimizer:
    chosen = config.training.optimizer
    assert chosen is not None
    group = {"params": [torch.nn.Parameter(torch.ones(2, 2))], "lr": chosen.learning_rate}
    return make_optimizer(chosen.name, [group | {"weight_decay": chosen.weight_decay}], chosen.extras())


def mistake(training: str) -> str:
    with pytest.raises(ConfigProblems) as caught:
        read(training)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize("name", USABLE)
def test_every_optimizer_of_torch_that_fits_is_made_by_its_name(name: str) -> None:
    optimizer = made(read(f"training: {{optimizer: {{{name}: {{learning_rate: 0.25}}}}}}\n"))
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["base_lr"] == 0.25


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("RMSprop: {alpha: 0.9, centered: True, momentum: 1/2}", {"alpha": 0.9, "centered": True, "momentum": 0.5}),
        ("RAdam: {betas: [0.8, 0.9], decoupled_weight_decay: True}", {"betas": (0.8, 0.9)}),
        ("Adafactor: {eps: [null, 1e-2], d: 2}", {"eps": (None, 0.01), "d": 2.0}),
        ("Adamax: {weight_decay: 5e-4}", {"weight_decay": 5e-4, "betas": (0.9, 0.999)}),
        ("Rprop: {etas: [0.4, 1.3]}", {"etas": (0.4, 1.3)}),
        ("SGD: {momentum: 0.5, dampening: 0.25}", {"momentum": 0.5, "dampening": 0.25}),
        ("Adam: {fused: True}", {"fused": True}),
    ],
)
def test_its_own_keyword_arguments_reach_it_and_survive_the_saved_config(block: str, expected: dict[str, Any]) -> None:
    config = read(f"training: {{optimizer: {{{block}}}}}\n")
    for one in (config, read(saved(config))):
        group = made(one).param_groups[0]
        assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            "optimizer:\n    RMSprop:\n      alfa: 0.9",
            "my.yaml:6: training.optimizer.RMSprop.alfa: unknown key (found 0.9)",
        ),
        ("optimizer:\n    RMSprop:\n      alfa: 0.9", "did you mean `alpha`?"),
        ("optimizer: {RMSprop: {alpha: -1}}", "my.yaml:4: training.optimizer.RMSprop: invalid alpha value: -1"),
        (
            "optimizer: {RMSprop: {momentum: fast}}",
            "training.optimizer.RMSprop.momentum: input should be a valid number",
        ),
        ("optimizer: {RMSprop: {learning_rate: 0}}", "training.optimizer.RMSprop.learning_rate"),
        ("optimizer: {NAdam: {maximize: True}}", "the loss is made small"),
        ("optimizer: {SGD: {maximize: True}}", "the loss is made small"),
        ("optimizer: {LBFGS: {}}", "it wants the loss computed again"),
        ("optimizer: {NAdamW: {}}", "unknown optimizer 'NAdamW' (did you mean `NAdam`?)"),
        ("optimizer: {os.system: {}}", "unknown optimizer 'os.system'"),
        ("optimizer: {torch.optim.SGD: {}}", "unknown optimizer 'torch.optim.SGD'"),
        ("optimizer: {Optimizer: {}}", "unknown optimizer 'Optimizer'"),
        ("optimizer: {Rprop: {}}\n  weight_decay: 0.1", "my.yaml:5: training.weight_decay: Rprop has no weight_decay"),
        ("optimizer: {SGD: {momentum: 0.9, nesterov: True, dampening: 0.1}}", "nesterov needs a dampening of 0"),
        ("optimizer: {AdamW: {foreach: True, fused: True}}", "choose one"),
    ],
)
def test_what_torch_would_refuse_is_refused_with_its_place(training: str, said: str) -> None:
    assert said in mistake(f"training:\n  {training}\n")


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_the_options_that_are_written_down_are_those_of_torchs_signature(name: str) -> None:
    theirs = set(inspect.signature(getattr(torch.optim, name)).parameters) - {"params", "lr"} - NOT_OURS.keys()
    assert set(options_of(name).model_fields) - {"learning_rate"} == theirs


@pytest.mark.parametrize(
    ("block", "loads"), [("SGD: {momentum: 0.9}", False), ("AdamW: {}", False), ("NAdam: {}", True)]
)
def test_torch_is_loaded_for_an_unusual_optimizer_alone(block: str, loads: bool) -> None:
    script = (
        "import sys\n"
        "from stdet.config.load import load_text\n"
        "from stdet.engine.schedule_options import CosineOptions\n"
        "from stdet.interfaces.dataset import ReaderFacts\n"
        "from stdet.interfaces.family import Options\n"
        "from stdet.interfaces.target import TargetFacts\n"
        "class Catalogue:\n"
        "    def names(self, kind): return []\n"
        "    def options(self, kind, name): return Options\n"
        "    def families(self): return {}\n"
        "    def reader(self, name): return ReaderFacts()\n"
        "    def target(self, name): return TargetFacts()\n"
        "    def targets(self): return {}\n"
        f"load_text('training: {{optimizer: {{{block}}}}}', 'c', [], Catalogue(), data_only=True)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loads)
