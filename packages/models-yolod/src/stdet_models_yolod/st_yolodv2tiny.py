"""st_yolodv2tiny_actrelu_pt: STResNet-tiny, neck and head at width 0.375; BatchNorm with torch's own constants."""

from __future__ import annotations

from stdet.structures import DetectorSpec
from stdet_models_yolod.detector import StYolod
from stdet_models_yolod.stresnet import BlockRanks, StResNet

RANKS = (
    (BlockRanks(), BlockRanks()),
    (BlockRanks(conv2=96), BlockRanks(conv2=80)),
    (BlockRanks(conv2=192), BlockRanks(conv2=96)),
    (BlockRanks(conv1=208, conv2=88), BlockRanks(conv1=192, conv2=112)),
)


def build(spec: DetectorSpec) -> StYolod:
    """A freshly initialised model."""
    return StYolod(spec, StResNet(spec.preprocess.channels, 64, RANKS), (96, 192, 384), hidden=96)
