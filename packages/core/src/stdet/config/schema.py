"""The sections of a config: every key, its type, its default, its meaning. Component keys are added in `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stdet.config.optimizers import Optimizer
from stdet.structures import ColorMode, Interpolation

OperationMode = Literal[
    "training",
    "evaluation",
    "quantization",
    "prediction",
    "benchmarking",
    "export",
    "chain_tqe",
    "chain_tqeb",
    "chain_eqe",
    "chain_eqeb",
    "chain_qb",
]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Shape = tuple[Positive, Positive, Positive]
PerChannel = tuple[float, ...]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class General(Section):
    project_name: str = Field("stdet", description="experiment name for MLflow")
    saved_models_dir: str = Field("saved_models", description="folder for checkpoints and ONNX, inside the run folder")
    logger: Literal["tensorboard"] | None = Field("tensorboard", description="where curves go; None writes none")
    global_seed: int | None = Field(
        123, ge=0, description="seed of Python's, NumPy's and torch's generators; None leaves them unseeded"
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
    dataset_name: str = Field(
        "coco", description="reader of the annotations, `stdet list datasets`; with split lists the default is voc"
    )
    class_names: tuple[str, ...] | None = Field(None, min_length=1, description="classes in label order")
    classes_file_path: Path | None = Field(None, description="text file with one class name a line")
    train_images_path: Path | None = Field(None, description="folder of the training images")
    train_annotations_path: Path | None = Field(None, description="their COCO JSON file, VOC XML or YOLO label folder")
    train_split: Path | tuple[Path, ...] | None = Field(
        None,
        description="VOC: text file with the training image names, or several; in VOC's layout no other path is needed",
    )
    val_images_path: Path | None = Field(None, description="folder of the validation images")
    val_annotations_path: Path | None = Field(None, description="their annotations")
    val_split: Path | tuple[Path, ...] | None = Field(None, description="VOC: validation image names")
    test_images_path: Path | None = Field(None, description="folder of the test images; default: validation is used")
    test_annotations_path: Path | None = Field(None, description="their annotations")
    test_split: Path | tuple[Path, ...] | None = Field(None, description="VOC: test image names")
    prediction_path: Path | None = Field(None, description="folder of images to predict on")
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

    def evaluation_split(self) -> Literal["test", "val"]:
        """`test` when the config has a test set, else `val`."""
        named = self.test_images_path or self.test_annotations_path or self.test_split
        return "test" if named or self.dataset_name == "synthetic" else "val"

    def needed_keys(self, split: str) -> tuple[str, ...]:
        """The keys without which a split can't be found."""
        if self.dataset_name == "synthetic" or (self.dataset_name == "voc" and getattr(self, f"{split}_split")):
            return ()  # a list in VOC's own layout knows its folders; the reader looks
        labels = () if self.dataset_name == "yolo" else (f"{split}_annotations_path",)
        return (f"{split}_images_path", *labels)


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
    trainer_name: str | None = Field(None, description="`yolod` or `ssd`; must fit the model")
    batch_size: Positive = Field(32, description="images a step, in each process")
    epochs: Positive = Field(300, description="passes over the training images")
    eval_interval: Positive = Field(1, description="evaluate after every so many epochs; also `validation_epochs`")
    print_interval: Positive = Field(50, description="report the losses every so many steps")
    scheduler: str | None = Field(None, description="learning-rate schedule; `stdet list schedulers`")
    optimizer: Optimizer | None = Field(
        None, description="a class of torch.optim by its name, with its own keyword arguments: {SGD: {momentum: 0.9}}"
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
    max_detection_boxes: Positive | None = Field(None, description="most detections an image; default: no limit")


class OnnxQuantParameters(Section):
    weightType: str = Field("Int8", description="Int8, UInt8, Int16, UInt16, Int4, UInt4")
    activType: str = Field("Int8", description="Int8, UInt8, Int16, UInt16")
    calibrate_method: str = Field(
        "Sensitivity", description="of activation ranges: Sensitivity, MSE, Percentile, Entropy or MinMax"
    )
    percentile: float | None = Field(
        None, gt=50, le=100, description="Percentile: percent of the values inside the range; default 99.9"
    )
    sensitivity_images: Positive | None = Field(
        None, description="Sensitivity: images whose gradients are taken, spread over all; default 16"
    )
    op_types_to_quantize: tuple[str, ...] | None = Field(None, description="only these operators")
    nodes_to_quantize: tuple[str, ...] | None = Field(None, description="only these nodes")
    nodes_to_exclude: tuple[str, ...] | None = Field(None, description="leave these nodes in float")


class OnnxExtraOptions(Section):
    WeightSymmetric: bool = Field(True, description="weights around zero")
    ActivationSymmetric: bool = Field(False, description="activations around zero")
    ActivationAwareRanges: bool = Field(
        False, description="cut the inputs of SiLU at -8 and of HardSwish at -3, below which they are flat"
    )
    CrossLayerEqualization: bool | None = Field(
        None, description="scale the channels of the worst layers alike (arXiv 1906.04721); default: with Sensitivity"
    )
    Int16Share: Share = Field(
        0.0, description="share of activation bytes that may become int16, worst tensors first; needs target_opset 21"
    )
    Int4Share: Share = Field(
        0.0, description="share of the weight bytes that become int4, least sensitive first; needs target_opset 21"
    )
    CalibMovingAverage: bool = Field(False, description="average the ranges of the images (MinMax)")
    QuantizeBias: bool = Field(True, description="int32 bias")
    BiasCorrection: bool = Field(
        False,
        description="let biases take back what rounded weights shift in the mean of each channel (arXiv 1906.04721)",
    )
    SequentialMSE: bool = Field(
        False, description="choose scale and rounding of the weights by what each layer's result loses, layer by layer"
    )
    AdaRoundIterations: Positive | None = Field(
        None, description="aimet: steps of the descent that rounds each layer; default 500"
    )
    SmoothQuant: bool = Field(False, description="move range from activations to weights (arXiv 2211.10438)")
    SmoothQuantAlpha: Share = Field(0.5, description="how much of it")
    SmoothQuantFolding: bool = Field(True, description="fold the factors into the layer before")
    weights_tensor_override: tuple[Any, ...] | None = Field(
        None, description="[[name, {quant_type, scale, zero_point, axis}]]"
    )
    activations_tensor_override: tuple[Any, ...] | None = Field(None, description="the same for activations")


class IterativeQuantParameters(Section):
    inspection_images: Positive = Field(4, description="calibration images that tensors are ranked with")
    inspection_map: int = Field(
        0, ge=0, description="inspection: for so many of the worst tensors, also the score when only it is quantized"
    )
    max_trials: Positive = Field(24, description="full_auto: most models to score")
    max_int16_share: Share = Field(0.1, description="full_auto: most of the activation bytes that may become int16")


class Quantization(Section):
    quantizer: Annotated[Literal["onnx_quantizer", "nncf", "aimet"], BeforeValidator(_lower)] = Field(
        "onnx_quantizer",
        description="onnxruntime's static quantizer; nncf: biases corrected by NNCF, aimet: weights rounded by AIMET's "
        "AdaRound (extras)",
    )
    quantization_type: Annotated[Literal["PTQ"], BeforeValidator(_upper)] = Field(
        "PTQ", description="post-training quantization"
    )
    quantization_input_type: Literal["float", "int8", "uint8"] = Field("float", description="type of the graph's input")
    quantization_output_type: Literal["float", "int8", "uint8"] = Field("float", description="type of its outputs")
    granularity: Literal["per_channel", "per_tensor"] = Field("per_channel", description="of the weights' scales")
    target_opset: int = Field(17, ge=13, le=21, description="opset of the int8 file; 21 for 4- and 16-bit types")
    export_dir: str = Field("quantized_models", description="folder of the int8 file, inside the run folder")
    operating_mode: Literal["default", "inspection", "full_auto", "normalise"] = Field(
        "default",
        description="quantize as described; also rank the tensors by their damage; search a recipe within max_drop; or "
        "check another tool's QDQ file and bring it into the form",
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        description="points (hundredths) of max_drop_metric that int8 may lose against float; needs val or test",
    )
    max_drop_metric: Literal["AP50", "AP"] = Field("AP50", description="what the budget is for, mean over all classes")
    random_calibration: Positive | None = Field(
        None, description="calibrate on so many noise images: for size and speed only, unfit for accuracy"
    )
    allow_overlap: bool = Field(False, description="calibrate on images that the evaluation uses, too")
    iterative_quant_parameters: IterativeQuantParameters = IterativeQuantParameters()
    onnx_quant_parameters: OnnxQuantParameters = OnnxQuantParameters()
    onnx_extra_options: OnnxExtraOptions = OnnxExtraOptions()


class Evaluation(Section):
    target: Literal["host"] = Field("host", description="where the model runs")


class Prediction(Section):
    target: Literal["host"] = Field("host", description="where the model runs")


class Benchmarking(Section):
    board: Annotated[str, BeforeValidator(_lower)] = Field("stm32", description="`stdet list targets`; any letter case")
    backends: tuple[str, ...] = Field(("host", "estimate"), min_length=1, description="how to measure or estimate")


class Tools(Section):
    """No external tool is driven yet; the section may be there, but its keys are refused."""


class Deployment(Section):
    """Not in this version; the section may be there, but its keys are refused."""


class Mlflow(Section):
    uri: str | None = Field(None, description="tracking server or folder; needs the `mlflow` extra")


class HydraRun(Section):
    dir: str = Field(
        "./experiments_outputs/${now:%Y_%m_%d_%H_%M_%S}", description="run folder; a number is added if it exists"
    )


class Hydra(Section):
    run: HydraRun = HydraRun()


SECTIONS: dict[str, type[Section]] = {
    "general": General,
    "model": Model,
    "dataset": Dataset,
    "preprocessing": Preprocessing,
    "training": Training,
    "postprocessing": Postprocessing,
    "quantization": Quantization,
    "evaluation": Evaluation,
    "prediction": Prediction,
    "benchmarking": Benchmarking,
    "tools": Tools,
    "deployment": Deployment,
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
FORMATS = {"pascal_voc": "voc", "darknet_yolo": "yolo"}
"""Other names of formats, from the TensorFlow flow."""

_TENSORFLOW = "it belongs to the TensorFlow flow, and this one is PyTorch only"
_NO_TOOL = "this version drives no ST tool; `stdet bench` measures on the host and estimates"
REFUSED = {
    "general.gpu_memory_limit": _TENSORFLOW,
    "general.num_threads_tflite": _TENSORFLOW,
    "general.deterministic_ops": _TENSORFLOW,
    "general.logs_dir": "logs go into the run folder",
    "general.display_figures": "pictures are written to the run folder, never shown in a window",
    "dataset.training_path": "use dataset.train_images_path and dataset.train_annotations_path",
    "dataset.validation_path": "use dataset.val_images_path and dataset.val_annotations_path",
    "dataset.test_path": "use dataset.test_images_path and dataset.test_annotations_path",
    "dataset.validation_split": "there is no splitting here; give val_images_path and val_annotations_path",
    "dataset.data_dir": _TENSORFLOW,
    "dataset.train_xml_dir": "use dataset.train_annotations_path",
    "dataset.val_xml_dir": "use dataset.val_annotations_path",
    "dataset.max_detections": "no box of the ground truth is ever cut off",
    "dataset.exclude_unlabeled": "images without objects count, in training and in evaluation",
    "dataset.download_data": "nothing is downloaded; give the paths",
    "preprocessing.normalization": "use mean and std",
    "postprocessing.yolo_anchors": "these models have no such anchors",
    "postprocessing.plot_metrics": "every evaluation writes its pictures and its report into the run folder",
    "training.dropout": _TENSORFLOW,
    "training.frozen_layers": _TENSORFLOW,
    "training.callbacks": _TENSORFLOW,
    "training.dryrun": _TENSORFLOW,
    "training.max_epoch": "use training.epochs",
    "training.lr": "use training.optimizer, for example `SGD: {learning_rate: 0.01}`",
    "quantization.optimize": _TENSORFLOW,
    "quantization.iterative_quant_parameters.inspection_split": "use inspection_images, a number",
    "quantization.iterative_quant_parameters.accuracy_tolerance": "use quantization.max_drop, in points",
    "tools.stedgeai": _NO_TOOL,
    "tools.path_to_cubeIDE": _NO_TOOL,
    **dict.fromkeys(
        (f"{s}.{k}" for s in ("evaluation", "prediction") for k in ("profile", "input_type", "output_type")), _NO_TOOL
    ),
    **dict.fromkeys(
        (f"{s}.{k}" for s in ("evaluation", "prediction") for k in ("input_chpos", "output_chpos")), _NO_TOOL
    ),
    **dict.fromkeys(
        (f"deployment.{key}" for key in ("c_project_path", "IDE", "verbosity", "hardware_setup", "build_conf")),
        "building firmware is not in this version",
    ),
}
"""Keys of the reference that have no meaning here, with the reason."""
