"""Facts about the ST_YOLOD family for the config layer. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from stdet.interfaces.advice import Advice, Proposal, Situation
from stdet.interfaces.family import ModelFamily, Options
from stdet.structures import Preprocess


class YolodModelOptions(Options):
    """Keys that ST_YOLOD models add to the `model` section."""

    act: Literal["silu", "relu", "lrelu", "hardswish"] = Field(
        "silu",
        description="activation of neck and head; the backbone is always ReLU. Published weights were trained with silu",
    )


def _proposals(situation: Situation) -> Iterator[Proposal]:
    rate = min(0.004, 0.00025 * situation.batch_size)
    reason = "0.00025 for each image of a batch: what the blood cells of docs/models.md were learned with"
    yield Proposal("training.optimizer", {"AdamW": {"learning_rate": rate, "weight_decay": 5e-4}}, reason)
    last = max(1, situation.epochs // 5)
    yield Proposal("training.no_aug_epochs", last, "the last fifth sees whole images, as the board will")


ST_YOLOD = ModelFamily(
    model_type="st_yolod",
    trainer_name="yolod",
    preprocess=Preprocess(640, 640, resize_mode="letterbox", pad_value=114, color_mode="bgr"),
    unused_preprocessing=("scale", "offset", "mean", "std"),  # the networks take pixels, 0..255
    augmentation="yolox",
    scheduler="yoloxwarmcos",
    ema=True,
    size_multiple=32,
    min_size=64,
    box_coding="yolox",
    strides=(8, 16, 32),
    no_aug_epochs=15,
    model_options=YolodModelOptions,
    optimizer_defaults={
        "SGD": {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
        "Adam": {"learning_rate": 0.001, "weight_decay": 5e-4},
        "AdamW": {"learning_rate": 0.001, "weight_decay": 0.05},
    },
    refused={
        "model.width_mult": "an ST_YOLOD backbone has fixed channels; choose the milli or the tiny model",
        "model.width": "each ST_YOLOD model has its own width; choose the milli or the tiny model",
        "model.depth": "each ST_YOLOD model has its own depth; choose the milli or the tiny model",
        "model.depthwise": "ST_YOLOD necks and heads are always depthwise",
        "training.base_net_lr": "ST_YOLOD trains all layers with one learning rate",
        "training.extra_layers_lr": "ST_YOLOD trains all layers with one learning rate",
    },
    weights="stdet_models_yolod:weights.json",
    advice=Advice(models=("st_yolodv2milli_actrelu_pt",), steps=1500, proposals=_proposals),
)
