"""Whether a config agrees with the model file that it names: what the file says of itself can't be told otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.config import Config, ConfigProblems, Problem, given_preprocess, preprocess_of
from stdet.engine.checkpoint import saved_spec
from stdet.export.metadata import read_spec
from stdet.structures import COLOR_CHANNELS, DetectorSpec

KEYS = {
    "scale": "preprocessing.rescaling.scale",
    "offset": "preprocessing.rescaling.offset",
    "interpolation": "preprocessing.resizing.interpolation",
    "resize_mode": "preprocessing.resizing.aspect_ratio",
}
"""Fields of `Preprocess` to the config keys that aren't called `preprocessing.<field>`."""
SHOWN = 5


def check_agreement(builder: Builder) -> None:
    """Hold the keys that a config gives against the spec in `model.model_path`.

    A training may start from weights of other classes and sizes, and a file that says nothing of itself contradicts
    nothing. Another input size is honoured for a checkpoint, whose network takes any; an ONNX has the one it was made with.

    Raises:
        ConfigProblems: every contradiction, with its file and line.
    """
    config, path = builder.config, builder.config.model.model_path
    if path is None or config.mode.trains:
        return
    file = ModelFile.at(path)
    spec = read_spec(path) if file.is_onnx else saved_spec(path)
    if spec is None:
        return
    found = [
        Problem(_place(config, key), key, f"{message}; {path.name} says so itself, leave the key out")
        for key, message in _contradictions(builder, spec, any_size=not file.is_onnx)
    ]
    if found:
        raise ConfigProblems("the config", found)


def _place(config: Config, key: str) -> str:
    while key and key not in config.places:
        key = key.rpartition(".")[0]
    return config.places.get(key, "the config")


def _contradictions(builder: Builder, spec: DetectorSpec, any_size: bool) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of each key that says something else than the file."""
    config, section = builder.config, builder.config.model
    if section.model_name is not None and section.model_name.rpartition("/")[2] != spec.model_name:
        yield "model.model_name", f"is {section.model_name}, but the file is a {spec.model_name}"
    if section.num_classes is not None and section.num_classes != spec.num_classes and spec.class_names:
        yield "model.num_classes", f"is {section.num_classes}, but the file has {spec.num_classes} classes"
    names = builder.class_names()
    if names is not None and spec.class_names and names != spec.class_names:
        key = "dataset.class_names" if config.dataset.class_names else "dataset.classes_file_path"
        yield key, f"has {_few(names)}, but the file's classes are {_few(spec.class_names)}"
    if section.input_shape is not None:
        channels, *size = section.input_shape
        known = COLOR_CHANNELS[spec.preprocess.color_mode]
        if channels != known:
            yield "model.input_shape", f"has {channels} channels, but the file's network takes {known}"
        elif tuple(size) != spec.preprocess.size and not any_size:
            height, width = spec.preprocess.size
            yield "model.input_shape", f"is {section.input_shape}, but the file's input is {height} x {width}"
    if config.family is not None and config.family.model_type == spec.model_type:
        mine = preprocess_of(config)
        for field in given_preprocess(config):
            theirs = getattr(spec.preprocess, field)
            if field not in ("height", "width") and getattr(mine, field) != theirs:
                key = KEYS.get(field, f"preprocessing.{field}")
                yield key, f"makes {field} {getattr(mine, field)}, but the file was made with {theirs}"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
