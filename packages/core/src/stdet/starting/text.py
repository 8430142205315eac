"""Proposals as a config file: a comment over each key that has a reason."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import yaml

from stdet.interfaces.advice import Proposal

WIDTH = 118


def config_text(title: Sequence[str], entries: Iterable[Proposal], closing: Iterable[str] = ()) -> str:
    """YAML of `entries`, whose keys of a section stand together.

    Args:
        title: comment lines at the top.
        closing: comment lines at the end.
    """
    lines = [*_comment(title, "")]
    section = ""
    for entry in entries:
        name, _, key = entry.key.rpartition(".")
        if name != section:
            lines += ["", f"{name}:"]
            section = name
        indent = "  " if name else ""
        lines += [*_comment([entry.reason] if entry.reason else [], indent), f"{indent}{key}: {_value(entry.value)}"]
    return "\n".join([*lines, *([""] if closing else []), *_comment(closing, "")]) + "\n"


def _comment(texts: Iterable[str], indent: str) -> list[str]:
    lines = [line for text in texts for line in textwrap.wrap(" ".join(text.split()), WIDTH - len(indent) - 2)]
    return [f"{indent}# {line}" for line in lines]


def _value(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
