"""st_yolodv2milli_actrelu_pt: STResNet-milli, neck and head at width 0.25."""

from __future__ import annotations

from torch import nn

from stdet.structures import DetectorSpec
from stdet_models_yolod.detector import StYolod
from stdet_models_yolod.stresnet import BlockRanks, StResNet

RANKS = (
    (BlockRanks(), BlockRanks()),
    (BlockRanks(conv2=96), BlockRanks(conv2=72)),
    (BlockRanks(conv2=120), BlockRanks(conv1=168, conv2=72)),
    (BlockRanks(conv1=160, conv2=72, shortcut=48), BlockRanks(conv1=168, conv2=96)),
)


def build(spec: DetectorSpec) -> StYolod:
    """A freshly initialised model. Its BatchNorm constants differ from torch's and aren't part of checkpoints."""
    model = StYolod(spec, StResNet(spec.preprocess.channels, 32, RANKS), (64, 128, 256), hidden=64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    return model
