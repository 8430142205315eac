"""Memory-pool files of ST Edge AI Core (`.mpool`): which RAM the compiler of an STM32N6 may use for activations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from stdet.errors import ArtifactError
from stdet_deploy_stm32.boards import KIB, Board, Pool

_UNITS = {"BYTES": 1, "KBYTES": KIB, "MBYTES": KIB * KIB}
EXTERNAL = 0x60000000
"""Addresses from here on are outside of the chip."""


def read_mpool(path: Path) -> tuple[Pool, ...]:
    """The pools of internal RAM that activations may use: writable, not empty, on the chip.

    Raises:
        ArtifactError: not readable, or not such a file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["memory"]["mempools"]
        pools = tuple(_pool(entry) for entry in entries if _is_usable(entry))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is no memory-pool file: {type(error).__name__} {error}", "ST Edge AI Core writes them as *.mpool"
        ) from error
    if not pools:
        raise ArtifactError(f"{path} has no pool of internal RAM that may be written")
    return pools


def with_pools(board: Board, path: Path | None) -> Board:
    """The board with the pools of a file in the place of its own.

    Raises:
        ArtifactError: see `read_mpool`.
    """
    if path is None:
        return board
    pools = read_mpool(path)
    return dataclasses.replace(board, pools=pools, ram_kib=sum(pool.kib for pool in pools))


def _is_usable(entry: dict[str, Any]) -> bool:
    writable = "WRITE" in str(entry["prop"].get("rights", "ACC_WRITE"))
    return writable and _size(entry) > 0 and _address(entry) < EXTERNAL


def _size(entry: dict[str, Any]) -> int:
    size = entry["size"]
    return int(size["value"]) * _UNITS[size["magnitude"]]


def _address(entry: dict[str, Any]) -> int:
    return int(str(entry["offset"]["value"]), 0)


def _pool(entry: dict[str, Any]) -> Pool:
    prop = entry["prop"]
    return Pool(
        entry.get("fname") or entry["name"], _size(entry) // KIB, _address(entry), prop["freqRatio"] / prop["byteWidth"]
    )
