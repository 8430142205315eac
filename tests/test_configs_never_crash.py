"""Whatever stands in a config or on the command line, what comes out is a config or a mistake with a message."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stdet.config import Config, load_text
from stdet.errors import StdetError
from stdet.modes import MODES
from stdet.plugins.loader import load_plugins

CATALOGUE = load_plugins()[0]
SECTIONS = (
    "general", "model", "dataset", "preprocessing", "training", "postprocessing", "quantization", "evaluation",
    "prediction", "benchmarking", "tools", "deployment", "mlflow", "hydra", "operation_mode", "nonsense",
)  # fmt: skip
KEYS = (
    "model_name", "model_type", "model_path", "input_shape", "num_classes", "pretrained", "head", "width_mult", "act",
    "dataset_name", "class_names", "train_images_path", "train_split", "augmentation", "seed", "num_workers", "mosaic_scale",
    "random_size", "rescaling", "resizing", "mean", "std", "color_mode", "epochs", "optimizer", "scheduler", "milestones",
    "t_max", "learning_rate", "resume_training_from", "quantization_aware", "clip_grad_norm", "confidence_thresh",
    "quantizer", "operating_mode", "max_drop", "onnx_quant_parameters", "onnx_extra_options", "board", "backends",
    "stedgeai", "uri", "run", "dir", "project_name", "saved_models_dir", "logger", "target", "time_budget", "x",
)  # fmt: skip
NAMES = (
    "ssdlite_mobilenetv2_pt", "st_yolodv2tiny_actrelu_pt", "st_yolod", "coco", "voc", "synthetic", "yolox", "ssd", "SGD",
    "RMSprop", "cosine", "multi-step", "stm32", "host", "Int8", "a.onnx", "auto", "full_auto", "none", "1/127.5", "(1, 2)",
    "('a','b')", "${general}", "${model.model_name}", "../x", "bgr", "letterbox",
)  # fmt: skip
SCALARS = st.one_of(
    st.sampled_from(NAMES),
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=6),
    st.dates().map(str),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from((*KEYS, *NAMES)), inner, max_size=4)
    ),
    max_leaves=8,
)
CONFIGS = st.dictionaries(
    st.sampled_from(SECTIONS),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), st.sampled_from(tuple(MODES))),
    max_size=6,
)
OVERRIDES = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.builds("{}.{}={}".format, st.sampled_from(SECTIONS), st.sampled_from(KEYS), SCALARS),
        st.builds("~{}.{}".format, st.sampled_from(SECTIONS), st.sampled_from(KEYS)),
    ),
    max_size=4,
)


def outcome(text: str, overrides: list[str]) -> Config | None:
    try:
        return load_text(text, "c.yaml", overrides, CATALOGUE)
    except StdetError as error:
        assert error.message
        return None


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(CONFIGS, OVERRIDES)
def test_any_tree_and_any_override_end_in_a_config_or_a_mistake(tree: dict[str, Any], overrides: list[str]) -> None:
    config = outcome(yaml.safe_dump({"operation_mode": "training"} | tree), overrides)
    if config is not None:
        assert config.document()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=60), st.text("{}[]:,&*!|>-?#'\"\n a1$<", max_size=60)))
def test_any_text_ends_in_a_config_or_a_mistake(text: str) -> None:
    outcome(text, [])
    outcome(f"operation_mode: training\nmodel: {{model_name: ssdlite_mobilenetv2_pt}}\n{text}", [])
