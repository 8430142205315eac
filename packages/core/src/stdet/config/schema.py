"""The sections of a config: every key, its type, its default, its meaning. Component keys are added in `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from stdet.config.optimizers import Optimizer
from stdet.interfaces.family import InsideRun, Options
from stdet.interfaces.target import NEUTRAL
from stdet.structures import ColorMode, Interpolation

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Shape = tuple[Positive, Positive, Positive]
PerChannel = tuple[float, ...]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_text(value: object) -> object:
    """The number of a camera as it stands in a path."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Section(Options):
    """Base of all sections that are core's own; those that a deploy target extends are in `stdet.interfaces.target`."""


class General(Section):
    project_name: str = Field("stdet", description="experiment name for MLflow")
    saved_models_dir: InsideRun = Field(
        "saved_models", description="folder for checkpoints and ONNX, inside the run folder"
    )
    logger: Literal["tensorboard"] | None = Field("tensorboard", description="where curves go; None writes none")
    global_seed: int | None = Field(
        123, ge=0, description="seed of Python's, NumPy's and torch's generators; None leaves them unseeded"
    )
    deterministic: bool = Field(
        False,
        description="train with operations that give the same bits each time, also on CUDA, where they are slower",
    )


class Model(Section):
    framework: Literal["torch"] = Field("torch", description="only torch")
    model_type: str | None = Field(None, description="model family; needed only for an ONNX that isn't ours")
    head: str | None = Field(
        None,
        description="how to read the outputs of an ONNX that isn't ours: yolox, yolox_decoded, yolov8, or what a plugin "
        "brings; instead of model_type",
    )
    model_name: str | None = Field(None, description="registered model; `stdet list models`")
    model_path: Path | None = Field(None, description="checkpoint (.pth, .pt) or ONNX to start from or work on")
    pretrained: bool = Field(False, description="start from published weights, or evaluate them")
    pretrained_dataset: str | None = Field(
        None, description="which published weights: the data set they learned; imagenet starts the backbone only"
    )
    pretrained_input_shape: Shape | None = Field(None, description="which published weights: [C, H, W] they learned at")
    weights_from: str | None = Field(
        None, description="folder or http(s) address to ask for published weights first; default: env STDET_WEIGHTS"
    )
    input_shape: Shape | None = Field(None, description="[channels, height, width] of the network's input")
    num_classes: Positive | None = Field(None, description="object classes, without background; default: the data's")


class Dataset(Section):
    dataset_name: str | None = Field(
        None,
        description="reader of the annotations, `stdet list datasets`; by default one for JSON, or, where split lists are "
        "given, one for those",
    )
    augmentation: str | None = Field(
        None, description="recipe that makes the training samples, `stdet list transforms`; default: the family's"
    )
    class_names: tuple[str, ...] | None = Field(None, min_length=1, description="classes in label order")
    classes_file_path: Path | None = Field(None, description="text file with one class name a line")
    train_images_path: Path | None = Field(None, description="folder of the training images")
    train_annotations_path: Path | None = Field(None, description="their annotation file or folder")
    train_split: Path | tuple[Path, ...] | None = Field(
        None,
        description="text file with the training image names, or several, for readers of split lists",
    )
    val_images_path: Path | None = Field(None, description="folder of the validation images")
    val_annotations_path: Path | None = Field(None, description="their annotations")
    val_split: Path | tuple[Path, ...] | None = Field(None, description="validation image names")
    test_images_path: Path | None = Field(None, description="folder of the test images; default: validation is used")
    test_annotations_path: Path | None = Field(None, description="their annotations")
    test_split: Path | tuple[Path, ...] | None = Field(None, description="test image names")
    prediction_path: Annotated[Path, BeforeValidator(_as_text)] | None = Field(
        None, description="what to predict on: a folder of images, an image, a video, or the number of a camera"
    )
    quantization_path: Path | None = Field(None, description="folder of calibration images; default: training images")
    quantization_split: float | None = Field(None, gt=0, le=1, description="share of them to use; default: all")
    seed: int = Field(123, ge=0, description="of shuffling, augmentation and the calibration draw")
    num_workers: int = Field(4, ge=0, description="processes that read images; 0 reads in the main process")
    cache_images: Literal["none", "ram", "disk"] = Field(
        "none",
        description="keep decoded training images, shrunk to the input size: in memory, or in stdet's cache folder",
    )
    cache_limit_gib: float = Field(
        8.0, gt=0, description="most memory or disk space for it; images beyond that are decoded each time"
    )
    on_bad_data: Literal["error", "skip"] = Field(
        "error", description="missing or unreadable images and unusable boxes: stop, or leave out with one warning"
    )


class Rescaling(Section):
    scale: float | None = Field(None, description="pixel values (0..255) are multiplied by this")
    offset: float | None = Field(None, description="then this is added")


class Resizing(Section):
    interpolation: Interpolation | None = Field(None, description="resampling kernel")
    aspect_ratio: Literal["fit", "letterbox", "padding", "crop"] | None = Field(
        None, description="fit stretches; letterbox (or padding) pads right and bottom; crop cuts the centre"
    )


class Preprocessing(Section):
    """Keys that are absent take the value that the family's published weights expect."""

    rescaling: Rescaling = Rescaling()
    resizing: Resizing = Resizing()
    color_mode: ColorMode | None = Field(None, description="channel order of the network's input")
    mean: Annotated[PerChannel, BeforeValidator(_as_tuple)] | None = Field(
        None, description="subtracted after scale and offset; one number or one a channel"
    )
    std: Annotated[PerChannel, BeforeValidator(_as_tuple)] | None = Field(
        None, description="divided by at the end; one number or one a channel"
    )
    pad_value: int | None = Field(None, ge=0, le=255, description="grey of padding and uncovered background")


class Training(Section):
    trainer_name: str | None = Field(None, description="how the model's family is trained; must fit the model")
    batch_size: Positive = Field(32, description="images a step, in each process")
    epochs: Positive = Field(300, description="passes over the training images")
    eval_interval: Positive = Field(1, description="evaluate after every so many epochs; also `validation_epochs`")
    print_interval: Positive = Field(50, description="report the losses every so many steps")
    scheduler: str | None = Field(None, description="learning-rate schedule; `stdet list schedulers`")
    optimizer: Optimizer | None = Field(
        None, description="a class of torch.optim by its name, with its own keyword arguments: {SGD: {momentum: 0.9}}"
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="most that the norm of the gradients, over all weights, may be"
    )
    early_stopping: Positive | None = Field(
        None, description="end when so many evaluations in a row brought no better AP"
    )
    time_budget: str | None = Field(
        None, pattern=r"^\d+(\.\d+)?[smh]$", description="begin no epoch that would end later: 90s, 30m or 1.5h"
    )
    no_aug_epochs: int | None = Field(
        None, ge=0, description="last epochs without strong augmentation; default: the family's, at most a quarter"
    )
    ema: bool | None = Field(None, description="average the weights over time, and evaluate and export the average")
    save_history_ckpt: bool = Field(False, description="keep a checkpoint of every evaluated epoch")
    resume_training_from: Path | Literal["auto"] | None = Field(
        None, description="checkpoint to go on from; `auto` takes the newest unfinished run beside this one"
    )
    start_epoch: int | None = Field(None, ge=0, description="on resuming, begin with this epoch; 0: the checkpoint's")
    fp16: bool = Field(False, description="mixed precision: float16 on CUDA, bfloat16 on processors that have it")
    accumulate: Positive = Field(1, description="batches whose gradients make one step")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    sync_batch_norm: bool = Field(
        False, description="several processes on CUDA: BatchNorm sees the images of all of them in each step"
    )
    channels_last: bool = Field(True, description="memory layout; faster on CPU, same numbers but for rounding")
    compile: bool = Field(False, description="torch.compile the network")
    quantization_aware: Literal["Int8", "Int4"] | None = Field(
        None, description="fine-tune trained weights with the int8 form simulated: the type of its weights"
    )


class Postprocessing(Section):
    confidence_thresh: Share | None = Field(
        None, description="least score of a detection; default: 0.001 to score, 0.25 in predictions and on a device"
    )
    NMS_thresh: Share = Field(0.65, description="IoU above which the weaker of two boxes of a class is dropped")
    IoU_eval_thresh: float = Field(0.5, gt=0, le=1, description="IoU of the additional average precision")
    plot_metrics: bool = Field(True, description="draw pictures and precision-recall curves of an evaluation")
    max_detection_boxes: Positive | None = Field(None, description="most detections an image; default: no limit")


class Mlflow(Section):
    uri: str | None = Field(
        None,
        description="address of a tracking server or data base, or a folder, which gets one; needs the `mlflow` extra",
    )


class HydraRun(Section):
    dir: str = Field(
        "./experiments_outputs/${now:%Y_%m_%d_%H_%M_%S}", description="run folder; a number is added if it exists"
    )


class Hydra(Section):
    run: HydraRun = HydraRun()


SECTIONS: dict[str, type[Options]] = {
    "general": General,
    "model": Model,
    "dataset": Dataset,
    "preprocessing": Preprocessing,
    "training": Training,
    "postprocessing": Postprocessing,
    **NEUTRAL,
    "mlflow": Mlflow,
    "hydra": Hydra,
}

ALIASES = {
    "dataset.num_worker": "num_workers",
    "dataset.classes_name_file": "classes_file_path",
    "dataset.format": "dataset_name",
    "training.validation_epochs": "eval_interval",
}
"""Other spellings of keys that the guide and the reference use."""
_TENSORFLOW = "it belongs to the TensorFlow flow, and this one is PyTorch only"
REFUSED = {
    "general.gpu_memory_limit": _TENSORFLOW,
    "general.num_threads_tflite": _TENSORFLOW,
    "general.deterministic_ops": _TENSORFLOW,
    "general.logs_dir": "logs go into the run folder",
    "general.display_figures": "pictures are written to the run folder, never shown in a window",
    "dataset.training_path": "use dataset.train_images_path and dataset.train_annotations_path",
    "dataset.validation_path": "use dataset.val_images_path and dataset.val_annotations_path",
    "dataset.test_path": "use dataset.test_images_path and dataset.test_annotations_path",
    "dataset.validation_split": "a split is made once and kept: `stdet data split`",
    "dataset.data_dir": _TENSORFLOW,
    "dataset.train_xml_dir": "use dataset.train_annotations_path",
    "dataset.val_xml_dir": "use dataset.val_annotations_path",
    "dataset.max_detections": "no box of the ground truth is ever cut off",
    "dataset.exclude_unlabeled": "images without objects count, in training and in evaluation",
    "dataset.download_data": "nothing is downloaded; give the paths",
    "preprocessing.normalization": "use mean and std",
    "postprocessing.yolo_anchors": "these models have no such anchors",
    "training.dropout": _TENSORFLOW,
    "training.frozen_layers": _TENSORFLOW,
    "training.callbacks": _TENSORFLOW,
    "training.dryrun": _TENSORFLOW,
    "training.max_epoch": "use training.epochs",
    "data_augmentation": "the dataset section has the keys of PyTorch trainings",
    "custom_data_augmentation": "a transform of a plugin does that; `stdet list transforms`",
    "compression": "there is no pruning here",
    "training.lr": "use training.optimizer, for example `SGD: {learning_rate: 0.01}`",
}
"""Keys and sections of the reference that have no meaning here, with the reason."""
