"""What the config layer sees of the family."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from stdet_models_ssd import plugin
from stdet_models_ssd.family import SSD, SsdModelOptions, SsdTrainingOptions


def test_listing_and_validating_import_no_torch() -> None:
    code = "import sys, stdet_models_ssd.plugin, stdet_models_ssd.family; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_six_models_are_registered() -> None:
    found = {}
    plugin.stdet_register_models(lambda name, target, summary, *, family: found.update({name: target}))
    assert len(found) == len(set(found.values())) == 6


def test_every_refused_key_has_its_reason_and_is_no_option() -> None:
    options = {f"model.{key}" for key in SsdModelOptions.model_fields}
    options |= {f"training.{key}" for key in SsdTrainingOptions.model_fields}
    assert {"model.act", "model.depth", "model.width"} <= SSD.refused.keys()
    assert all(SSD.refused.values())
    assert not options & SSD.refused.keys()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "wide"])
def test_a_width_mult_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        SsdModelOptions.model_validate({"width_mult": value})


@pytest.mark.parametrize(("key", "value"), [("match_threshold", 0), ("match_threshold", 1.1), ("base_net_lr", -0.1)])
def test_training_options_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError):
        SsdTrainingOptions.model_validate({key: value})


def test_the_training_defaults_leave_the_learning_rate_alone() -> None:
    assert SsdTrainingOptions().model_dump() == {
        "base_net_lr": None,
        "extra_layers_lr": None,
        "match_threshold": 0.5,
        "forced_priors": "first",
    }
