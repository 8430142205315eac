"""Pages made from the code: commands, config keys, components, data checks, Python API. They can't drift."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

from stdet import api
from stdet.registry import KINDS

API = (
    "stdet.api", "stdet.errors", "stdet.structures", "stdet.boxes", "stdet.plugins", "stdet.plugins.hookspecs",
    "stdet.interfaces.dataset", "stdet.interfaces.detector", "stdet.interfaces.deploy", "stdet.interfaces.family",
    "stdet.interfaces.heads", "stdet.interfaces.published", "stdet.interfaces.reporter", "stdet.interfaces.scheduler",
    "stdet.interfaces.target", "stdet.interfaces.transform", "stdet.testing",
    "stdet_deploy_stm32.boards",
)  # fmt: skip
"""Import paths that plugins and programs may rely on; `tests/test_public_api.py` holds what they contain."""


def write(folder: Path) -> None:
    """Write every page into `folder`."""
    folder.mkdir(exist_ok=True)
    pages = {"commands": commands(), "config": config(), "components": components(), "api": python_api()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


# --- commands -------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command as `--help` shows it."""
    from stdet_cli.main import app

    parts = ["# Commands\n\nAs `--help` shows them.\n"]
    for words, command in walk(typer.main.get_command(app), ("stdet",)):
        with click.Context(command, info_name=" ".join(words), max_content_width=100, terminal_width=100) as context:
            parts.append(f"## `{' '.join(words)}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, with the words that call it."""
    yield words, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from walk(child, (*words, name))


# --- config ---------------------------------------------------------------------------------------------------------


def config() -> str:
    """Every key with its type, default and meaning."""
    schema = api.config_schema()
    parts = [
        "# Config keys\n\nWith all packages installed. `stdet config show FILE` prints a config with every default filled "
        "in, `stdet config schema` the JSON Schema behind this page. A key that is in no table is refused.\n"
    ]
    for section, about in schema["properties"].items():
        body = resolved(about, schema)
        if "properties" not in body:
            parts.append(f"## `{section}`\n\n{body.get('description') or 'One of'}: {kind(body, schema)}.\n")
            continue
        head = "| key | values | default | meaning |\n|---|---|---|---|"
        parts.append(f"## `{section}`\n\n{body.get('description', '')}\n\n{head}")
        parts += [row(key, value, schema) for key, value in body["properties"].items()]
        parts.append("")
    return "\n".join(parts)


def row(key: str, about: dict[str, Any], schema: dict[str, Any]) -> str:
    default = json.dumps(about["default"], ensure_ascii=False) if "default" in about else ""
    cells = (f"`{key}`", kind(about, schema), f"`{default}`" if default else "", about.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def resolved(about: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in about:
        about = schema["$defs"][about["$ref"].rpartition("/")[2]]
    return about


def kind(about: dict[str, Any], schema: dict[str, Any]) -> str:
    """The values that a key takes, in words."""
    about = resolved(about, schema)
    if "enum" in about:
        return ", ".join(f"`{json.dumps(value)}`" for value in about["enum"])
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(dict.fromkeys(kind(part, schema) for part in about[several]))
    text = str(about.get("type", "any value"))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {about[name]}" for name, sign in bounds.items() if name in about]
    if text == "array" and isinstance(about.get("items"), dict):
        text = f"list of {kind(about['items'], schema)}"
    return f"{text} {', '.join(limits)}".strip()


# --- components -----------------------------------------------------------------------------------------------------


def components() -> str:
    """Every registered component, and what `stdet data check` may find."""
    from stdet.datatools.findings import FAULT_CHECKS

    parts = ["# Components\n\n`stdet list KIND` prints these tables for what is installed.\n"]
    for kind_name in KINDS:
        parts.append(f"## {kind_name.capitalize()}\n\n| name | what it is | package |\n|---|---|---|")
        parts += [f"| `{c.name}` | {c.summary} | {c.distribution} |" for c in api.list_components(kind_name)]
        parts.append("")
    parts.append("## Faults of data sets\n\nWhat readers tell; [data tools](../data-tools.md) has the other checks.\n")
    parts.append("| fault | check | severity |\n|---|---|---|")
    parts += [f"| {fault} | {check} | {severity} |" for fault, (check, severity) in FAULT_CHECKS.items()]
    return "\n".join([*parts, ""])


# --- Python ---------------------------------------------------------------------------------------------------------


def python_api() -> str:
    """What the public modules contain, with their docstrings."""
    parts = [
        "# Python\n\nThese import paths are what plugins and programs may rely on; "
        "the [policy](../plugins.md#what-you-may-rely-on) says for how long.\n"
    ]
    for name in API:
        module = importlib.import_module(name)
        parts.append(f"## `{name}`\n\n{first(module)}\n")
        for attribute, value in public(module):
            parts.append(entry(f"{name}.{attribute}", value))
    return "\n".join(parts)


def public(module: Any) -> list[tuple[str, Any]]:
    """Classes and functions of a module's own, and what its `__all__` names."""
    listed = getattr(module, "__all__", None)
    found = []
    for name, value in vars(module).items():
        if listed is not None and name not in listed:
            continue
        own = getattr(value, "__module__", None) == module.__name__ or listed is not None
        if not name.startswith("_") and own and (inspect.isclass(value) or inspect.isfunction(value)):
            found.append((name, value))
    return found


def entry(path: str, value: Any) -> str:
    """A class or function with its signature and docstring, and the methods that a class has of its own."""
    lines = [f"### `{path}`\n", block(path.rpartition(".")[2] + signature(value), value)]
    if inspect.isclass(value):
        for name, method in methods(value):
            lines.append(block(f"{value.__name__}.{name}{signature(method)}", method))
    return "\n".join(lines)


def methods(value: type) -> list[tuple[str, Any]]:
    """Public functions and properties that a class defines itself."""
    found = []
    for name, item in vars(value).items():
        plain = item.__func__ if isinstance(item, classmethod | staticmethod) else item
        plain = plain.fget if isinstance(plain, property) else plain
        if not name.startswith("_") and inspect.isfunction(plain) and inspect.getdoc(plain):
            found.append((name, plain))
    return found


def signature(value: Any) -> str:
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value)))
    except (TypeError, ValueError):
        return ""


def block(title: str, value: Any) -> str:
    text = inspect.getdoc(value) or ""
    return f"```text\n{title}\n\n{text}\n```\n" if text else f"```text\n{title}\n```\n"


def first(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
