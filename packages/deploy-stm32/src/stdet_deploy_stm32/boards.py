"""Board profiles: what a board offers to a model. Data in `boards.json`, each with its sources; nothing here is code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Pool:
    """A piece of internal RAM that the model compiler may use.

    Attributes:
        name: as in ST's memory-pool files.
        kib: size, KiB.
    """

    name: str
    kib: int


@dataclass(frozen=True)
class Board:
    """What a board offers to a model. None means not known or not limited.

    Attributes:
        name: registered name, lower case; `title` is how ST writes it.
        cpu: core; `clock_mhz` as it runs in ST's benchmarks.
        ram_kib: internal RAM that activations may use, KiB; on boards with an NPU the sum of `pools`.
        flash_kib: internal flash, KiB; 0 where there is none.
        npu: neural accelerator, empty when there is none.
        external_ram_kib, external_flash_kib: on the board, KiB; slower.
        sources: where these facts were read.
    """

    name: str
    title: str
    cpu: str
    clock_mhz: int | None
    ram_kib: int | None
    flash_kib: int | None
    sources: tuple[str, ...]
    npu: str = ""
    npu_clock_mhz: int | None = None
    external_ram_kib: int = 0
    external_flash_kib: int = 0
    pools: tuple[Pool, ...] = ()

    def summary(self) -> str:
        """One line for lists."""
        if self.ram_kib is None:
            return f"{self.cpu}, generic"
        flash = f"{self.flash_kib} KiB flash" if self.flash_kib else "external flash"
        npu = f" + {self.npu} NPU" if self.npu else ""
        return f"{self.cpu} {self.clock_mhz} MHz{npu}, {self.ram_kib} KiB RAM, {flash}"

    def fit(self, weights_bytes: int, activations_bytes: int) -> tuple[str, ...]:
        """Says for both numbers whether they fit into internal memory, fit only with external memory, or don't fit."""
        return (
            *_fit("weights", weights_bytes, "flash", self.flash_kib, self.external_flash_kib),
            *_fit("activations", activations_bytes, "RAM", self.ram_kib, self.external_ram_kib),
        )


def _fit(what: str, size: int, memory: str, internal_kib: int | None, external_kib: int) -> tuple[str, ...]:
    if internal_kib is None:
        return ()
    kib = size / 1024
    if kib <= internal_kib:
        return (f"{what} {kib:.1f} KiB fit into the {internal_kib} KiB of internal {memory}",)
    inside = f"the {internal_kib} KiB of internal {memory}" if internal_kib else f"internal {memory}: there is none"
    if kib <= internal_kib + external_kib:
        return (f"{what} {kib:.1f} KiB need external {memory} ({inside})",)
    return (f"{what} {kib:.1f} KiB DO NOT FIT: {internal_kib + external_kib} KiB of {memory} on the board",)


@cache
def boards() -> dict[str, Board]:
    """All profiles by name, the generic one first."""
    text = resources.files(__package__).joinpath("boards.json").read_text(encoding="utf-8")
    return {
        name: Board(
            name=name,
            **entry | {"sources": tuple(entry["sources"]), "pools": tuple(Pool(**p) for p in entry.get("pools", ()))},
        )
        for name, entry in json.loads(text)["boards"].items()
    }
