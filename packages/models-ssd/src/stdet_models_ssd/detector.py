"""The SSD detector: backbone, extras, heads; loss and decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from stdet.errors import ModelError
from stdet.interfaces.detector import Candidates, Detector, OutputPart, Targets
from stdet.interfaces.family import Options
from stdet.nn.distributed import mean_over_ranks
from stdet.structures import BoxCoding, DetectorSpec
from stdet_models_ssd.blocks import Backbone
from stdet_models_ssd.family import SSD, SsdModelOptions, SsdTrainingOptions
from stdet_models_ssd.imagenet import load_backbone
from stdet_models_ssd.losses import multibox_loss
from stdet_models_ssd.matching import match, overlaps
from stdet_models_ssd.priors import (
    CENTER_VARIANCE,
    PRIORS_PER_CELL,
    SIZE_VARIANCE,
    corners,
    decode,
    encode,
    make_priors,
    priors_in_pixels,
)

Extra = Callable[[int, int, int], nn.Module]
"""(in, hidden, out channels) to a module that halves the sides."""
Head = Callable[[int, int], nn.Module]
"""(in, out channels) to a module that keeps the sides."""


def width_of(spec: DetectorSpec) -> float:
    """`width_mult` of a spec, 1.0 when it has none.

    Raises:
        ModelError: it isn't a positive number, or the spec has an option that SSD models don't know.
    """
    try:
        return SsdModelOptions.model_validate(spec.options).width_mult
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(
            f"{spec.model_name} can't be built with {spec.options}: {problems}",
            "set model.width_mult to a positive number, and no other option",
        ) from error


class Ssd(Detector):
    """Single-shot detector with six levels (arXiv 1512.02325).

    Input: float32 (B, C, H, W), at least 96 px a side, no multiple needed. ONNX contract: `output` (B, P, 1 + classes),
    raw logits with the background first, and `boxes` (B, P, 4), raw offsets against the priors of `make_priors`; rows run
    over levels, y, x, prior. Softmax and box decoding happen outside the graph, in `decode` and on the device.

    Attributes:
        match_threshold, forced_priors: training settings of `SsdTrainingOptions`; see `use_training_options`.
        priors: the priors of the spec's size, for whoever writes them down (checkpoints, firmware). Loss and decoding
            compute theirs from the size that was fed.
    """

    output_names = ("output", "boxes")
    output_parts = (OutputPart("classes", 0), OutputPart("boxes", 1))
    priors: Tensor

    def __init__(
        self,
        spec: DetectorSpec,
        base_net: Backbone,
        extras: Sequence[tuple[Extra, int, int]],
        head: Head,
        last_head: Head,
        store_priors: bool = True,
    ) -> None:
        """Args:
        extras: maker, hidden and out channels of each level after the backbone's two.
        head, last_head: makers of the predictors, for the last level and the others.
        store_priors: whether the state dict holds `priors`, as published files of the model do.

        Raises:
            ModelError: the spec's input is too small for six levels.
        """
        super().__init__()
        height, width = spec.preprocess.size
        if min(height, width) < SSD.min_size:
            raise ModelError(
                f"{spec.model_name} can't take an input of {height} x {width} pixels",
                f"set model.input_shape to at least {SSD.min_size} a side",
            )
        self.spec = spec
        training = SsdTrainingOptions()
        self.match_threshold, self.forced_priors = training.match_threshold, training.forced_priors
        priors = torch.from_numpy(make_priors(height, width, spec.strides).copy())
        self.register_buffer("priors", priors, persistent=store_priors)
        channels = [*base_net.out_channels]
        self.base_net = base_net
        self.extras = nn.ModuleList()
        for make, hidden, out in extras:
            self.extras.append(make(channels[-1], hidden, out))
            channels.append(out)
        makers = [head] * (len(channels) - 1) + [last_head]
        scores, offsets = PRIORS_PER_CELL * (spec.num_classes + 1), PRIORS_PER_CELL * 4
        levels = list(zip(makers, channels, strict=True))
        self.classification_headers = nn.ModuleList(make(count, scores) for make, count in levels)
        self.regression_headers = nn.ModuleList(make(count, offsets) for make, count in levels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, P, 1 + classes), offsets (B, P, 4), and an empty slice of `images`, which tells the loss the size
        that was fed: the maps alone don't."""
        first, x = self.base_net(images)
        levels = [first, x]
        for extra in self.extras:
            x = extra(x)
            levels.append(x)
        logits = _rows(self.classification_headers, levels, self.spec.num_classes + 1)
        return logits, _rows(self.regression_headers, levels, 4), images[:0]

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return raw[0], raw[1]

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        logits, offsets = (output.float() for output in outputs[:2])
        priors = priors_in_pixels(*(input_size or self.spec.preprocess.size), self.spec.strides, offsets.device)
        return Candidates(decode(offsets, priors), logits.softmax(-1)[..., 1:], multi_label=True)

    def box_coding(self) -> BoxCoding:
        """The priors of the spec's size and the two variances."""
        priors = make_priors(*self.spec.preprocess.size, self.spec.strides)
        return BoxCoding(self.spec.box_coding, self.output_names, priors, CENTER_VARIANCE, SIZE_VARIANCE)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        """`total` = classification + regression, each over the positives of all processes; all are float32 scalars.

        `num_pos` is the number of positive priors for each box.

        Args:
            raw: float logits (B, P, 1 + classes), offsets (B, P, 4), and one with the input's size in its last axes.
        """
        logits, offsets = raw[0].float(), raw[1].float()
        size = (raw[2].shape[-2], raw[2].shape[-1])
        priors = priors_in_pixels(*size, self.spec.strides, offsets.device)
        matches = match(priors, targets, size, self.match_threshold, self.forced_priors)
        positive = matches.labels > 0
        encoded = encode(matches.boxes, priors)
        classification, regression = multibox_loss(logits, offsets, matches.labels, encoded)
        found = positive.sum().float()
        divisor = mean_over_ranks(found).clamp(min=1)
        classification, regression = classification / divisor, regression / divisor
        return {
            "total": classification + regression,
            "classification_loss": classification,
            "regression_loss": regression,
            "num_pos": found / targets.valid.sum().clamp(min=1),
        }

    def use_training_options(self, options: SsdTrainingOptions) -> None:
        """Take the family's training options that the loss depends on. They are no part of the spec: two trainings of one
        network may differ in them."""
        self.match_threshold = options.match_threshold
        self.forced_priors = options.forced_priors

    def hard_to_assign(self, boxes: Tensor) -> Tensor:
        """bool (N,): boxes that no prior overlaps by `match_threshold`: they learn through `forced_priors` alone.

        Args:
            boxes: float32 (N, 4), xyxy, pixels of the network's input of `spec.preprocess.size`.
        """
        priors = corners(priors_in_pixels(*self.spec.preprocess.size, self.spec.strides, boxes.device))
        best = [overlaps(part[None], priors)[0].amax(1) for part in boxes.split(256)]
        return torch.cat([boxes.new_zeros(0), *best]) < self.match_threshold

    def parameter_groups(
        self, learning_rate: float, weight_decay: float, options: Options | None = None
    ) -> list[dict[str, Any]]:
        """Backbone, extras and heads, each with its learning rate; decay on everything, BatchNorm and biases included."""
        own = options if isinstance(options, SsdTrainingOptions) else SsdTrainingOptions()
        heads = nn.ModuleList((self.classification_headers, self.regression_headers))
        parts = (
            ("backbone", self.base_net, own.base_net_lr),
            ("extra layers", self.extras, own.extra_layers_lr),
            ("heads", heads, None),
        )
        return [
            {
                "name": name,
                "params": [p for p in part.parameters() if p.requires_grad],
                "lr": learning_rate if rate is None else rate,
                "weight_decay": weight_decay,
            }
            for name, part, rate in parts
        ]

    def load_backbone(self, source: Mapping[str, Tensor]) -> str:
        """torchvision's MobileNetV2 or V3, or a published base net, where shapes fit; see `imagenet.load_backbone`.

        Raises:
            ModelError: the source is no backbone of this kind.
        """
        return load_backbone(self, source).summary()

    def class_dependent_keys(self) -> frozenset[str]:
        keys = set()
        for level, header in enumerate(self.classification_headers):
            last = f".{len(header) - 1}" if isinstance(header, nn.Sequential) else ""
            keys |= {f"classification_headers.{level}{last}.{kind}" for kind in ("weight", "bias")}
        return frozenset(keys)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept files with and without `priors`, and of another input size: ours follow from the spec.

        `args` ends with the list of errors; other priors at the same size mean that the weights learned something else.
        """
        key, errors = f"{prefix}priors", args[-1]
        theirs = state_dict.pop(key, self.priors)
        if theirs.shape == self.priors.shape and not torch.allclose(theirs.to(self.priors), self.priors, atol=1e-4):
            errors.append(f"{key} of the file are other boxes than those of {self.spec.model_name}")
        if "priors" not in self._non_persistent_buffers_set:
            state_dict[key] = self.priors
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[no-untyped-call]


def _rows(headers: nn.ModuleList, levels: Sequence[Tensor], columns: int) -> Tensor:
    """What the headers say of their levels, as rows (B, P, columns).

    Channel = prior * columns + column; channels go last before the reshape, which is free in channels_last memory and
    on devices that keep channels last.
    """
    maps = [header(level).permute(0, 2, 3, 1) for header, level in zip(headers, levels, strict=True)]
    return torch.cat([m.reshape(m.shape[0], -1, columns) for m in maps], 1)
