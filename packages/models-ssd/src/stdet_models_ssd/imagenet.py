"""Start from a backbone that learned ImageNet: torchvision's MobileNetV2 and V3, or a published base net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stdet.errors import ModelError

if TYPE_CHECKING:
    from stdet_models_ssd.detector import Ssd

_NORM = ("weight", "bias", "running_mean", "running_var")
_TORCHVISION_V3_EPS = 1e-3


@dataclass(frozen=True)
class BackboneReport:
    """Attributes:
    mapped: keys of the detector that were filled.
    fresh: keys of its backbone that keep their initialisation.
    unused: keys of the source that went nowhere, such as the classifier.
    """

    mapped: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """One line for people."""
        return (
            f"backbone: {len(self.mapped)} of {len(self.mapped) + len(self.fresh)} tensors loaded"
            f"{_named(self.fresh, ' start fresh')}{_named(self.unused, ' of the file have no place')}"
        )


def _named(keys: tuple[str, ...], what: str) -> str:
    return f"; {len(keys)}{what} ({', '.join(keys[:2])}{', …' if len(keys) > 2 else ''})" if keys else ""


def load_backbone(detector: Ssd, source: Mapping[str, Tensor]) -> BackboneReport:
    """Copy a classifier's weights into the backbone, and start the convolutions of extras and heads as Xavier-uniform.

    A convolution is taken together with its BatchNorm, where its shape is ours. MobileNetV2 fits whole. Of MobileNetV3
    stem, expansions, depthwise convolutions, projections and tail fit; squeeze-and-excitation and the shortcuts'
    projections have no counterpart (see `mobilenet_v3`).

    Args:
        source: state dict of `torchvision.models.mobilenet_v2`, `mobilenet_v3_small` or `mobilenet_v3_large`, or of a
            published base net (the keys of `base_net` without that prefix).

    Raises:
        ModelError: the source is no backbone of this kind; nothing is changed.
    """
    target = detector.state_dict()
    theirs = _source_layers(source)
    torchvision_v3 = any(".fc1." in key for key in source)
    ours = _layers(detector, from_torchvision_v3=torchvision_v3)
    if len(ours) != len(theirs):
        raise ModelError(
            f"these weights are no backbone for {detector.spec.model_name}: {len(theirs)} convolutions with BatchNorm, "
            f"where {len(ours)} are expected",
            "use torchvision's MobileNet of the same version, or the published base net of this model",
        )
    pairs: dict[str, str] = {}
    for own, other in zip(ours, theirs, strict=True):
        if target[own[0]].shape == source[other[0]].shape:
            pairs |= dict(zip(own, other, strict=True))
    if not pairs:
        raise ModelError(
            f"these weights are no backbone for {detector.spec.model_name}: no shape fits",
            "use weights of the same model.width_mult",
        )
    # torchvision's MobileNetV3 normalises with another epsilon, which the variances can carry.
    epsilon = _TORCHVISION_V3_EPS - nn.BatchNorm2d(1).eps if torchvision_v3 else 0.0
    with torch.no_grad():
        for key, other_key in pairs.items():
            target[key].copy_(source[other_key] + (epsilon if key.endswith("running_var") else 0.0))
    _start_as_xavier(detector)
    return BackboneReport(
        tuple(pairs),
        tuple(k for k in target if k.startswith("base_net.") and k not in pairs and _counts(k)),
        tuple(k for k in source if k not in set(pairs.values()) and _counts(k)),
    )


def _layers(detector: Ssd, *, from_torchvision_v3: bool) -> list[tuple[str, ...]]:
    """The keys of each convolution of the backbone and the BatchNorm after it, in the order of the forward pass.

    torchvision's MobileNetV3 has no squeeze-and-excitation with BatchNorm, no projected shortcuts, and no expansion in
    its first block.
    """
    absent = (".se.", ".shortcut.", "base_net.3.conv1") if from_torchvision_v3 else ()
    names = [
        f"base_net.{name}"
        for name, module in detector.base_net.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    pairs = zip(names[0::2], names[1::2], strict=True)
    return [_keys(conv, norm) for conv, norm in pairs if not any(part in f"{conv}." for part in absent)]


def _source_layers(source: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """The same of a state dict: a 4-d weight that isn't followed by its own bias, and what comes next."""
    keys = list(source)
    found = []
    for key, following in pairwise(keys):
        owner, next_owner = key.rpartition(".")[0], following.rpartition(".")[0]
        if source[key].dim() == 4 and owner != next_owner and f"{next_owner}.running_var" in source:
            found.append(_keys(owner, next_owner))
    return found


def _keys(conv: str, norm: str) -> tuple[str, ...]:
    return f"{conv}.weight", *(f"{norm}.{part}" for part in _NORM)


def _counts(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _start_as_xavier(detector: Ssd) -> None:
    """What the published recipe does to the convolutions that no classifier has; biases stay."""
    for part in (detector.extras, detector.classification_headers, detector.regression_headers):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
