"""The pages against the program: commands, configs and code in them, and what must be documented at all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from stdet import api
from stdet.datatools.findings import FAULT_CHECKS
from stdet.plugins import hookspecs
from stdet_cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
SCHEMA = api.config_schema()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    text: str


def blocks(language: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            if found[1] == language:
                yield Block(page.name, text.count("\n", 0, found.start()) + 1, found[2])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `stdet …` line that is written out, with where it stands."""
    for block in blocks("bash"):
        for number, line in enumerate(block.text.replace("\\\n", "   ").splitlines(), block.line + 1):
            line = line.removeprefix("$ ").replace("[key=value ...]", "key=value")
            if line.startswith("stdet ") and not {"|", "…"} & set(line.partition(" #")[0]):
                words = shlex.split(line, comments=True)[1:]
                yield f"{block.page}:{number}", [w for w in words if not w.startswith(("[", "("))]


COMMANDS = list(commands())


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_in_the_docs_is_one_that_the_program_takes(where: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context: Any = click.Context(command, info_name="stdet")
    while hasattr(command, "commands"):
        if not words and command.invoke_without_command:
            break
        assert words, f"{where} names no command"
        if words[0].startswith("-") or words[0] not in command.commands:
            break
        command = command.commands[words[0]]
        words = words[1:]
        context = click.Context(command, parent=context, info_name=words[0] if words else "")
    try:
        command.make_context(context.info_name or "stdet", list(words), parent=context)
    except click.exceptions.Exit:  # --help, --version
        pass
    except Exception as error:
        pytest.fail(f"{where}: {getattr(error, 'message', error)}")


def test_commands_were_found_at_all() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=lambda b: f"{b.page}:{b.line}")
def test_the_keys_of_a_config_in_the_docs_exist(block: Block) -> None:
    found = yaml.safe_load(block.text)
    if not isinstance(found, dict) or not found.keys() & SCHEMA["properties"].keys():
        return
    for section, keys in found.items():
        assert section in SCHEMA["properties"], section
        properties = SCHEMA["properties"][section].get("properties")
        if properties and isinstance(keys, dict):
            assert keys.keys() <= properties.keys(), f"{section}: {keys.keys() - properties.keys()}"


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda b: f"{b.page}:{b.line}")
def test_python_in_the_docs_is_python_and_imports_what_is_there(block: Block) -> None:
    code = compile(block.text, f"{block.page}:{block.line}", "exec", dont_inherit=True)
    for name in re.findall(r"^(?:from|import) (stdet[\w.]*)", block.text, re.M):
        __import__(name)
    assert code is not None


def test_every_hook_is_documented() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert all(name in page for name in vars(hookspecs) if name.startswith("stdet_register_"))


def test_every_check_of_a_data_set_is_documented() -> None:
    page = (ROOT / "docs" / "data-tools.md").read_text(encoding="utf-8")
    ids = {check for check, _ in FAULT_CHECKS.values()}
    for source in (ROOT / "packages" / "core" / "src" / "stdet" / "datatools").glob("*.py"):
        ids |= set(re.findall(r'"(D\d{3})"', source.read_text(encoding="utf-8")))
    assert {check for check in ids if check not in page} <= {"D099"}


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.stem for page in PAGES[1:] if page.stem != "index" and f"\n{page.stem}\n" not in index] == []


def test_every_key_of_a_config_says_what_it_means() -> None:
    silent = []
    for section, about in SCHEMA["properties"].items():
        for key, value in about.get("properties", {}).items():
            if not value.get("description") and "$ref" not in value:
                silent.append(f"{section}.{key}")
    assert silent == []
