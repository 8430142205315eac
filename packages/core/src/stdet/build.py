"""From config sections to objects. Nothing below this file sees a config; nothing here runs a stage."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from stdet.artifacts import flat
from stdet.config import Config, merge_preprocess, preprocess_of
from stdet.data.loader import TrainLoader
from stdet.data.source import DataSource
from stdet.engine.callbacks import Callback, ClipGradNorm, EarlyStopping, TimeBudget
from stdet.engine.optimizers import make_optimizer
from stdet.engine.trainer import TrainSettings
from stdet.errors import ConfigError, DataError, ModelError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import DeployTarget
from stdet.interfaces.detector import Decoder, Detector
from stdet.interfaces.published import PublishedWeights, choose_weights
from stdet.interfaces.scheduler import ScheduleLength, Scheduler
from stdet.nn.distributed import rank, world_size
from stdet.structures import (
    COLOR_CHANNELS,
    SCORED_FROM,
    SHOWN_FROM,
    ColorMode,
    DetectorSpec,
    Preprocess,
    Thresholds,
)

log = logging.getLogger(__name__)

SECONDS = {"s": 1, "m": 60, "h": 3600}
"""In a unit of `training.time_budget`."""


@dataclass(frozen=True)
class Builder(DataSource):
    """Builds the objects that a validated config describes, from the components of a catalogue."""

    # --- model -------------------------------------------------------------------------------------------------------

    def spec(self, class_names: tuple[str, ...]) -> DetectorSpec:
        """What the config says of the model, for these classes.

        Raises:
            ModelError: `model.num_classes` contradicts the classes, or no model is named.
        """
        section, family = self.config.model, self.config.family
        if family is None or section.model_name is None:
            raise ModelError("the config names no model", "set model.model_name; `stdet list models` shows the names")
        if section.num_classes is not None and section.num_classes != len(class_names):
            raise ModelError(
                f"model.num_classes is {section.num_classes}, but there are {len(class_names)} classes: "
                f"{', '.join(class_names[:10])}{' …' if len(class_names) > 10 else ''}",
                "leave model.num_classes out, or name the classes to use in dataset.class_names",
            )
        options = self.config.options.model.model_dump()
        return family.spec(section.model_name, class_names, preprocess_of(self.config), options)

    def spec_without_data(self) -> DetectorSpec:
        """As `spec`; classes that the config doesn't name are numbered, for what doesn't depend on them."""
        count = self.config.model.num_classes or 1
        return self.spec(self.class_names() or tuple(f"class_{i}" for i in range(count)))

    def detector(self, spec: DetectorSpec) -> Detector:
        """A freshly initialised model for `spec`.

        Raises:
            ModelError: the component that is registered builds no `Detector`.
        """
        detector = self.catalogue.build("models", spec.model_name, spec)
        if not isinstance(detector, Detector):
            raise ModelError(f"model `{spec.model_name}` built a {type(detector).__name__}, not a Detector")
        return detector

    def published_weights(self) -> PublishedWeights:
        """The published file that the `model` section asks for.

        Raises:
            ModelError: there is none, or several fit.
        """
        section, family = self.config.model, self.config.family
        if family is None or section.model_name is None:
            raise ModelError(
                "model.pretrained needs a model", "set model.model_name; `stdet list models` shows the names"
            )
        shape = section.pretrained_input_shape
        width = preprocess_of(self.config).width
        return choose_weights(
            family, section.model_name, section.pretrained_dataset, shape[2] if shape else None, width
        )

    def foreign_spec(self, class_names: tuple[str, ...], stem: str, channels: int | None) -> DetectorSpec:
        """The spec of somebody else's ONNX: what the config says, over the conventions of the family or head it names.

        Args:
            stem: what to call the model when the config doesn't.
            channels: of the file's image, None where the file doesn't say; they tell the colours when nothing else does.
        """
        family, section = self.config.family, self.config.model
        if family is not None:
            name = section.model_name or self.catalogue.model_of(family)
            return family.spec(name, class_names, preprocess_of(self.config), options={})
        head = self.catalogue.heads()[section.head] if section.head else None
        colours: ColorMode = "grayscale" if channels == 1 else "rgba" if channels == 4 else "rgb"
        count = COLOR_CHANNELS[colours]
        neutral = Preprocess(640, 640, color_mode=colours, mean=(0.0,) * count, std=(1.0,) * count)
        preprocess = merge_preprocess(head.preprocess if head else neutral, section, self.config.preprocessing)
        return DetectorSpec(stem, "", class_names, preprocess, head.name if head else "", (8, 16, 32) if head else ())

    def skeleton(self, spec: DetectorSpec) -> Detector:
        """A registered model without weights."""
        with torch.device("meta"):
            return self.detector(spec)

    def decoder(self, spec: DetectorSpec) -> Decoder:
        """What reads the outputs of any model with this spec, without weights.

        Raises:
            ModelError: the spec is of somebody else's network, and doesn't say how its outputs are read.
        """
        if spec.model_type:
            return self.skeleton(spec)
        head = spec.box_coding or self.config.model.head
        if head is None:
            known = "; ".join(f"{form.name} {form.summary}" for form in self.catalogue.heads().values())
            raise ModelError(
                f"nothing says how the outputs of {spec.model_name} are read",
                f"set model.head ({known}), or model.model_type for outputs like those of a family",
            )
        found: Decoder = self.catalogue.decoder(head, spec)
        return found

    def thresholds(self) -> Thresholds:
        """Which candidates are scored, as the `postprocessing` section says."""
        return self._thresholds(SCORED_FROM)

    def shown_thresholds(self) -> Thresholds:
        """Which candidates are shown to people, or found on a device: surer ones, unless the section gives a score."""
        return self._thresholds(SHOWN_FROM)

    def _thresholds(self, usual: float) -> Thresholds:
        section = self.config.postprocessing
        confidence = usual if section.confidence_thresh is None else section.confidence_thresh
        return Thresholds(confidence, section.NMS_thresh, section.max_detection_boxes)

    # --- training ----------------------------------------------------------------------------------------------------

    def device(self) -> str:
        """The torch device that `training.device` asks for.

        Raises:
            ConfigError: CUDA is asked for and not there.
        """
        wanted = self.config.training.device
        available = torch.cuda.is_available()
        if wanted == "cuda" and not available:
            raise ConfigError("training.device is cuda, but this machine has no usable CUDA device", "use device: auto")
        return "cuda" if available and wanted != "cpu" else "cpu"

    def train_loader(self, dataset: DetectionDataset, spec: DetectorSpec) -> TrainLoader:
        """Batches of training samples made by `dataset.augmentation`: this process's share of them."""
        training, augmentation = self.config.training, self.config.options.augmentation
        return TrainLoader(
            dataset,
            self.catalogue.build("transforms", str(self.config.dataset.augmentation), augmentation),
            spec.preprocess,
            batch_size=training.batch_size,
            seed=self.config.dataset.seed,
            epochs=training.epochs,
            no_aug_epochs=training.no_aug_epochs or 0,
            num_workers=self.config.dataset.num_workers,
            sizes=augmentation.sizes(spec.preprocess.size),
            rank=rank(),
            world_size=world_size(),
            cache_images=self.config.dataset.cache_images,
            cache_limit_bytes=int(self.config.dataset.cache_limit_gib * (1 << 30)),
            recent_partners=augmentation.recent_partners(),
        )

    def optimizer(self, detector: Detector) -> torch.optim.Optimizer:
        """The optimizer over the detector's parameter groups, with the options of its config block."""
        optimizer = self.config.training.optimizer
        assert optimizer is not None  # filled in when the config was checked, as are the other values below
        groups = detector.parameter_groups(
            optimizer.learning_rate, optimizer.weight_decay, self.config.options.training
        )
        return make_optimizer(optimizer.name, groups, optimizer.extras())

    def untrained_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the model, without weights: names and learning rates are what they are for."""
        return self.optimizer(self.skeleton(self.spec_without_data())).param_groups

    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch, from the number of training images.

        Raises:
            DataError: they can't be found or read.
        """
        try:
            images = self.dataset("train", self.class_names())
        except DataError as error:
            hint = f"{error.hint}; or give the number of steps an epoch".removeprefix("; or ")
            raise DataError(error.message, hint) from error
        return -(-len(self.train_loader(images, self.spec(images.class_names))) // self.config.training.accumulate)

    def schedule_length(self, steps_per_epoch: int) -> ScheduleLength:
        """How long the training is, with an epoch of `steps_per_epoch` optimizer steps."""
        training = self.config.training
        return ScheduleLength(training.epochs, steps_per_epoch, training.no_aug_epochs or 0)

    def scheduler(self, length: ScheduleLength) -> Scheduler:
        """The schedule for a training of this length."""
        training = self.config.training
        assert training.scheduler is not None
        return self.catalogue.build("schedulers", training.scheduler, length, self.config.options.scheduler)

    def callbacks(self) -> list[Callback]:
        """What the config adds to the training loop."""
        training = self.config.training
        made: list[Callback] = []
        if training.clip_grad_norm is not None:
            made.append(ClipGradNorm(training.clip_grad_norm))
        if training.early_stopping is not None:
            made.append(EarlyStopping(training.early_stopping))
        if training.time_budget is not None:
            made.append(TimeBudget(float(training.time_budget[:-1]) * SECONDS[training.time_budget[-1]]))
        return made

    def train_settings(self) -> TrainSettings:
        """The loop's own settings."""
        training = self.config.training
        return TrainSettings(
            epochs=training.epochs,
            eval_interval=training.eval_interval,
            print_interval=training.print_interval,
            accumulate=training.accumulate,
            no_aug_epochs=training.no_aug_epochs or 0,
            ema=bool(training.ema),
            channels_last=training.channels_last,
            compile=training.compile,
            save_history=training.save_history_ckpt,
            quantization_aware=training.quantization_aware,
            device=self.device(),
        )

    # --- deployment --------------------------------------------------------------------------------------------------

    def target(self) -> DeployTarget:
        """The board of `benchmarking.board`, or the generic one."""
        return self.catalogue.build("targets", str(self.config.benchmarking.board), self.config.target_sections)


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting of a config as dotted key to value, for trackers."""
    return {key: value for key, value in flat(config.document()).items() if value is not None}
