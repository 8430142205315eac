"""What a shell may complete: config keys with their values, names of models and boards. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """`key=`, or behind a whole key `key=value`."""
    before = _typed(ctx)
    if (
        not incomplete and before and before[-1] in _words()
    ):  # bash makes words of `key`, `=` and `value`, and `=` is gone
        return _values(before[-1], "")
    if list(before[-1:]) == ["="] and len(before) > 1:
        return _values(before[-2], incomplete)
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={found}" for found in _values(key, value)]
    return [f"{key}=" for key in _words() if key.startswith(incomplete)]


def boards(incomplete: str) -> list[str]:
    """Registered targets."""
    return _values("benchmarking.board", incomplete)


def _values(key: str, begun: str) -> list[str]:
    return [value for value in _words().get(key, ()) if value.lower().startswith(begun.lower())]


def _words() -> dict[str, list[str]]:
    from stdet import api
    from stdet.errors import StdetError

    try:
        return api.config_words()
    except StdetError:  # a shell in the middle of a line has no place for it; the command will say it
        return {}


def _typed(ctx: typer.Context) -> Sequence[str]:
    return [word for value in ctx.params.values() if isinstance(value, list | tuple) for word in value]
