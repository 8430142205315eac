"""A JSON Schema of the config dialect, for editors and for people who write configs by program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from stdet.config import schema as sections
from stdet.config.checked import Config
from stdet.config.rules import Catalogue
from stdet.errors import StdetError
from stdet.interfaces.family import Options
from stdet.isolation import told
from stdet.modes import MODES


def to_json_schema(catalogue: Catalogue, config: Config | None = None) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a whole config file.

    Numbers may also be written as text where the dialect allows it (`1/127.5`, `(0.5, 1.5)`); the schema describes the
    plain form. A component that can't be loaded is named under `x-not-loaded` with the reason.

    Args:
        config: narrows the keys to those of the components that it chooses; with None, every installed one's are there,
            and each added key says in `x-from` whose it is.
    """
    broken: dict[str, str] = {}
    parts = _chosen(config) if config else _installed(catalogue, broken)
    models = [*sections.SECTIONS.values(), *(options for _, _, options in parts)]
    refs, together = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template="#/$defs/{model}"
    )
    definitions = together["$defs"]

    def defined(model: type[Any]) -> dict[str, Any]:
        found: dict[str, Any] = definitions[refs[model, "validation"]["$ref"].rpartition("/")[2]]
        return found

    properties: dict[str, Any] = {"operation_mode": {"enum": list(MODES)}}
    for name, model in sections.SECTIONS.items():
        own = dict(defined(model)["properties"])
        for section, owner, options in parts:
            if section == name:
                for key, value in defined(options).get("properties", {}).items():
                    if key in model.model_fields:  # a target's class for a section has the neutral keys, too
                        if options.model_fields[key].annotation != model.model_fields[key].annotation:
                            own[key] = value  # a block that it extends
                        continue
                    said = own.setdefault(key, {**value, "x-from": []})
                    said["x-from"].append(owner)
        properties[name] = {"type": "object", "additionalProperties": False, "properties": own}
    merged = {refs[model, "validation"]["$ref"].rpartition("/")[2] for model in models}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stdet config",
        "type": "object",
        "additionalProperties": False,
        "required": ["operation_mode"],
        "properties": properties,
        "$defs": {name: value for name, value in definitions.items() if name not in merged},
    }
    return document | ({"x-not-loaded": broken} if broken else {})


def words(schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every dotted key of `to_json_schema` that holds a value, with the values that it may have where they are few."""
    found: dict[str, list[str]] = {}

    def visit(node: Mapping[str, Any], prefix: str) -> list[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        values = [str(value) for value in node.get("enum", [node["const"]] if "const" in node else [])]
        values += ["True", "False"] if node.get("type") == "boolean" else []
        for choice in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
            values += visit(choice, prefix)
        for key, below in node.get("properties", {}).items():
            name = f"{prefix}.{key}" if prefix else key
            allowed = visit(below, name)
            if not any(other.startswith(f"{name}.") for other in found) and below.get("type") != "object":
                found[name] = allowed
        return values

    visit(schema, "")
    return found


_Part = tuple[str, str, type[Options]]
"""Section, owner, and the keys that the owner adds to the section."""


def _chosen(config: Config) -> list[_Part]:
    family, options = config.family, config.options
    parts: list[_Part] = [("dataset", f"datasets/{config.dataset.dataset_name}", type(options.reader))]
    if config.training.scheduler:
        parts.append(("training", f"schedulers/{config.training.scheduler}", type(options.scheduler)))
    if config.dataset.augmentation:
        recipe = f"transforms/{config.dataset.augmentation}"
        parts.append(("dataset", recipe, type(options.augmentation)))
    if config.target:
        board = f"targets/{config.benchmarking.board}"
        parts += [(name, board, section) for name, section in config.target.sections.items()]
    if family:
        parts += [
            ("model", f"model_type/{family.model_type}", family.model_options),
            ("training", f"model_type/{family.model_type}", family.training_options),
        ]
    return parts


def _installed(catalogue: Catalogue, broken: dict[str, str]) -> list[_Part]:
    parts: list[_Part] = []
    for kind, section in (("datasets", "dataset"), ("transforms", "dataset"), ("schedulers", "training")):
        for name in catalogue.names(kind):
            try:
                options = catalogue.reader(name).options if kind == "datasets" else catalogue.options(kind, name)
                parts.append((section, f"{kind}/{name}", options))
            except StdetError as error:
                broken[f"{kind}/{name}"] = error.message
    for kind, family in catalogue.families().items():
        parts += [
            ("model", f"model_type/{kind}", family.model_options),
            ("training", f"model_type/{kind}", family.training_options),
        ]
    for owner, facts in catalogue.targets().items():
        parts += [(name, f"targets/{owner}", section) for name, section in facts.sections.items()]
    return [part for part in parts if _describable(part, broken)]


def _describable(part: _Part, broken: dict[str, str]) -> bool:
    """Whether pydantic can say a component's keys as JSON Schema; one that it can't must not take the others with it."""
    _, owner, options = part
    try:
        options.model_json_schema()
    except Exception as error:  # pydantic's errors for this have no common base, and a field's type may bring its own
        broken[owner] = f"its options can't be described: {told(error)}"
    return owner not in broken
