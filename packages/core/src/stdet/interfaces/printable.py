"""Text that moves no cursor: names of files and classes come from anybody, and a terminal obeys what is in them."""

from __future__ import annotations

import re
import unicodedata

HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's controls, invisible marks such as those that turn text around, halves of pairs, line ends of other kinds."""


def printable(text: str, keep: str = "\n") -> str:
    """`text` with everything that a terminal would obey, or couldn't encode, written as an escape.

    Args:
        keep: control characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in HARMFUL and c not in keep else c for c in text)


def printable_json(text: str) -> str:
    """A JSON document with the few such characters as JSON's own escapes that its writer leaves alone."""
    return re.sub("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
