"""What a firmware engineer gets of a model: portable C around the network, headers, and what they have to know."""

from __future__ import annotations

from importlib.resources import files


def c_sources() -> dict[str, str]:
    """The C files that are the same for every model, by name."""
    folder = files(__name__) / "c"
    return {
        file.name: file.read_text(encoding="ascii") for file in folder.iterdir() if file.name.endswith((".c", ".h"))
    }
