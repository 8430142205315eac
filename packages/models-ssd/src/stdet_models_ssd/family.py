"""Facts about the SSD family for the config layer. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from stdet.interfaces.advice import Advice, Proposal, Situation
from stdet.interfaces.family import ModelFamily, Options
from stdet.structures import Preprocess

ForcedPriors = Literal["first", "all"]


class SsdModelOptions(Options):
    """Keys that SSD models add to the `model` section."""

    width_mult: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="factor on all channel counts, rounded to multiples of 8; published weights have 1.0",
    )


class SsdTrainingOptions(Options):
    """Keys that SSD models add to the `training` section."""

    base_net_lr: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="learning rate of the backbone; default: learning_rate"
    )
    extra_layers_lr: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="learning rate of the extra layers; default: learning_rate"
    )
    match_threshold: float = Field(
        0.5, gt=0, le=1, description="IoU from which a prior learns a box; IoU_eval_thresh only scores"
    )
    forced_priors: ForcedPriors = Field(
        "first",
        description="what a box learns through that no prior overlaps by match_threshold: the first of the priors that it "
        "overlaps most, or all of them, so that objects much smaller than the priors are learned, too",
    )


_ONE_SHAPE = "an SSD model has one depth and one activation; choose another model, or model.width_mult"

SMALL_SHARE = 0.05
"""From this share of small objects on, the recipe is the one for small objects of docs/models.md."""


def _proposals(situation: Situation) -> Iterator[Proposal]:
    rate = min(0.002, 0.000125 * situation.batch_size)
    reason = "0.000125 for each image of a batch: what the blood cells of docs/models.md were learned with"
    yield Proposal("training.optimizer", {"AdamW": {"learning_rate": rate, "weight_decay": 5e-4}}, reason)
    yield Proposal("training.ema", True, "the average of the weights scores steadier on few validation images")
    if situation.small > SMALL_SHARE:
        reason = (
            f"of one class, {situation.small:.0%} are smaller than the priors; by default they would never be found"
        )
        yield Proposal("training.forced_priors", "all", reason)


SSD = ModelFamily(
    model_type="ssd",
    trainer_name="ssd",
    preprocess=Preprocess(
        300,
        300,
        resize_mode="fit",
        interpolation="bilinear",
        pad_value=127,
        color_mode="rgb",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
    augmentation="ssd",
    scheduler="cosine",
    ema=False,
    size_multiple=1,
    min_size=96,
    box_coding="ssd",
    strides=(16, 32, 64, 128, 256, 512),
    model_options=SsdModelOptions,
    width_option="width_mult",
    training_options=SsdTrainingOptions,
    optimizer_defaults={
        "SGD": {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "Adam": {"learning_rate": 0.001, "weight_decay": 5e-4},
        "AdamW": {"learning_rate": 0.001, "weight_decay": 5e-4},
    },
    refused={
        "model.act": _ONE_SHAPE,
        "model.depth": _ONE_SHAPE,
        "model.width": "the channel factor of an SSD model is model.width_mult",
        "model.depthwise": "the ssdlite models have depthwise heads, the ssd models have not",
    },
    weights="stdet_models_ssd:weights.json",
    advice=Advice(
        models=("ssdlite_mobilenetv3large_pt", "ssdlite_mobilenetv3small_pt"), steps=3000, proposals=_proposals
    ),
)
