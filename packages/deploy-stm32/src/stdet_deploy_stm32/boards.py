"""Board profiles: what a board offers to a model. Data in `boards.json`, each with its sources; nothing here is code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from stdet.errors import PluginError
from stdet.plugins.hookspecs import RegisterTarget

if TYPE_CHECKING:
    from stdet.interfaces.deploy import Overflow

KIB = 1024
MODELLED = ("neural-art", "cortex-m7")
"""Names of the latency formulas that there are."""


@dataclass(frozen=True)
class Pool:
    """A piece of internal RAM that the model compiler may use.

    Attributes:
        name: as in ST's memory-pool files.
        kib: size, KiB.
        address: where it starts; None when not known.
        cycles_per_byte: what the compiler reckons an access with; None when not known.
    """

    name: str
    kib: int
    address: int | None = None
    cycles_per_byte: float | None = None


@dataclass(frozen=True)
class Region:
    """A contiguous piece of internal RAM: neighbouring pools that are equally fast; `bytes` is its size."""

    name: str
    bytes: int


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
        measured: the coefficients of the latency formula come from figures of this very board.
        sources: where each number can be looked up, by the keys that it holds for, joined by commas; `*` stands for all.
        series: the microcontroller's, such as `STM32N6`; empty when not known.
    """

    name: str
    title: str
    cpu: str
    clock_mhz: int | None
    ram_kib: int | None
    flash_kib: int | None
    sources: Mapping[str, str]
    npu: str = ""
    npu_clock_mhz: int | None = None
    external_ram_kib: int = 0
    external_flash_kib: int = 0
    measured: bool = False
    pools: tuple[Pool, ...] = ()
    series: str = ""

    @property
    def latency_model(self) -> str:
        """Which formula gives its latency, as `bench.latency` names it; there may be none of that name."""
        return "neural-art" if self.npu else self.cpu.lower()

    def summary(self) -> str:
        """One line for lists."""
        if self.ram_kib is None:
            return f"{self.cpu}, generic"
        flash = f"{self.flash_kib} KiB flash" if self.flash_kib else "external flash"
        npu = f" + {self.npu} NPU" if self.npu else ""
        return f"{self.cpu} {self.clock_mhz} MHz{npu}, {self.ram_kib} KiB RAM, {flash}; {self.known()}"

    def known(self) -> str:
        """What `estimate` can tell of it, beside memory."""
        if self.measured:
            return "latency fitted on this board"
        return "latency from a board with its core" if self.latency_model in MODELLED else "no latency"

    def regions(self) -> tuple[Region, ...]:
        """The pools, with those joined that follow each other and are equally fast; largest first."""
        joined: list[list[Pool]] = []
        for pool in sorted(self.pools, key=lambda p: (p.address is None, p.address or 0)):
            before = joined[-1][-1] if joined else None
            if before and _follows(before, pool):
                joined[-1].append(pool)
            else:
                joined.append([pool])
        regions = [Region(" + ".join(p.name for p in pools), sum(p.kib for p in pools) * KIB) for pools in joined]
        return tuple(sorted(regions, key=lambda region: -region.bytes))

    def fit(
        self, weights_bytes: int, internal_bytes: int, external_bytes: int
    ) -> tuple[bool | None, tuple[Overflow, ...]]:
        """Whether weights and activations find room, and which memory is too small.

        Args:
            internal_bytes, external_bytes: of activations, in RAM inside and outside; outside is what finds no room inside.
        """
        from stdet.interfaces.deploy import Overflow  # imports numpy, which a list of boards does without

        if self.ram_kib is None or self.flash_kib is None:
            return None, ()
        overflows = []
        flash = (self.flash_kib + self.external_flash_kib) * KIB
        if weights_bytes > flash:
            overflows.append(Overflow("flash", weights_bytes, flash))
        if external_bytes > self.external_ram_kib * KIB:
            if self.external_ram_kib:
                overflows.append(Overflow("external RAM", external_bytes, self.external_ram_kib * KIB))
            else:
                overflows.append(Overflow("internal RAM", internal_bytes + external_bytes, self.ram_kib * KIB))
        return not overflows, tuple(overflows)

    def memory_notes(self, weights_bytes: int, internal_bytes: int, external_bytes: int) -> tuple[str, ...]:
        """Says for weights and activations whether they fit into internal memory, need external memory, or don't fit."""
        if self.ram_kib is None or self.flash_kib is None:
            return ()
        _, overflows = self.fit(weights_bytes, internal_bytes, external_bytes)
        missing = tuple(
            f"DOES NOT FIT: {o.memory} needed {o.needed_bytes / KIB:.1f} KiB, there are {o.available_bytes / KIB:.0f} KiB: "
            f"{(o.needed_bytes - o.available_bytes) / KIB:.1f} KiB too little"
            for o in overflows
        )
        notes = []
        if not any(o.memory == "flash" for o in overflows):
            where = "external" if weights_bytes > self.flash_kib * KIB else "internal"
            notes.append(f"weights {weights_bytes / KIB:.1f} KiB fit into {where} flash")
        if external_bytes and not any("RAM" in o.memory for o in overflows):
            notes.append(f"activations: {external_bytes / KIB:.1f} KiB of them need external RAM, which is slow")
        elif not external_bytes:
            notes.append(f"activations {internal_bytes / KIB:.1f} KiB fit into the {self.ram_kib} KiB of internal RAM")
        return (*missing, *notes)


def _follows(before: Pool, pool: Pool) -> bool:
    if before.address is None or pool.address is None:
        return False
    return before.address + before.kib * KIB == pool.address and before.cycles_per_byte == pool.cycles_per_byte


OURS = "stdet_deploy_stm32"
FORMAT = 2


@cache
def boards(package: str = OURS) -> dict[str, Board]:
    """All profiles in `boards.json` of a package, by name, as they stand there.

    Raises:
        PluginError: the package has no such file, or it isn't of the form of ours.
    """
    try:
        document = json.loads(resources.files(package).joinpath("boards.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} instead of {FORMAT}")
        return {
            name: Board(name=name, **entry | {"pools": tuple(Pool(**pool) for pool in entry.get("pools", ()))})
            for name, entry in document["boards"].items()
        }
    except (OSError, ModuleNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PluginError(f"the boards of `{package}` can't be read: {error}", "see docs/boards.md") from error


def register_boards(register: RegisterTarget, package: str = OURS) -> None:
    """Register every board of `boards.json` of a top-level package: all that a wheel with further boards has to call."""
    for board in boards(package).values():
        owner = "" if package == OURS else f"{package}/"
        register(
            board.name,
            f"{OURS}.target:{owner}{board.name}",
            board.summary(),
            facts=f"{OURS}.facts:STM32",
        )
