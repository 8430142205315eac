"""What a compiled network's reports say, as a bench report, whoever compiled it: the local tool or the cloud."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stdet.artifacts import sha256_file
from stdet.interfaces.deploy import BenchReport, Overflow
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.c_info import CInfo
from stdet_deploy_stm32.st_tools.report_text import TextReport

CORE, COMPILER = "ST.EdgeAI.Core", "ATONN Compiler"


@dataclass(frozen=True)
class Compiled:
    """A network that ST Edge AI Core has compiled for a board.

    Attributes:
        model: the file.
        profile: of the NPU's compiler, as it was asked for; None without an NPU.
        measured: a board ran it, so that its latency is a measurement.
    """

    model: Path
    board: Board
    info: CInfo
    text: TextReport
    profile: str | None = None
    measured: bool = False

    def report(self, backend: str, notes: tuple[str, ...] = ()) -> BenchReport:
        """The numbers under the names that the other backends use, too."""
        info, board = self.info, self.board
        outside = min(info.ram_bytes(external=True), info.activations_bytes)
        inside = info.activations_bytes - outside
        fits, overflows = board.fit(info.weights_bytes, inside, outside)
        full = tuple(
            Overflow(pool.name, pool.used_bytes, pool.size_bytes)
            for pool in info.pools
            if pool.size_bytes is not None and pool.used_bytes > pool.size_bytes
        )
        known = BenchReport(
            model=self.model.name,
            sha256=sha256_file(self.model),
            backend=backend,
            tool="ST Edge AI Core",
            version=info.tools.get(CORE, ""),
            weights_bytes=info.weights_bytes,
            activations_bytes=info.activations_bytes,
            activations_internal_bytes=inside,
            activations_external_bytes=outside,
            io_bytes=info.io_bytes,
            macc=info.macc or self.text.macc,
            device=board.title,
            fits=False if full else fits,
            overflows=(*overflows, *full),
            operators=dict(Counter(step.processor for step in info.steps)),
            provenance=self._provenance(),
            notes=(*self._notes(inside, outside), *notes),
            details=self._details(),
        )
        return self._with_latency(known)

    def _with_latency(self, report: BenchReport) -> BenchReport:
        """A measurement where a board ran it, else what the compiler reckons, else the reason why there is none."""
        info, duration = self.info, self.text.duration
        if self.measured:
            mean = None if duration is None else duration.mean_ms
            latency = mean if info.measured_ms is None else info.measured_ms
            if latency is None:
                return replace(report, latency_reason="the board ran it, but the report says no duration")
            return replace(report, latency_ms=latency, latency_kind="measured")
        if not self.board.npu:
            return replace(report, latency_reason="compiling for a Cortex-M tells no time; a board has to run it")
        if info.cycles is None or not self.board.npu_clock_mhz:
            return replace(report, latency_reason="the compiler's report has no cycles")
        latency = info.cycles / self.board.npu_clock_mhz / 1e3
        return replace(report, latency_ms=latency, latency_kind="vendor_estimate")

    def _provenance(self) -> str:
        tools = self.info.tools
        compiler = f" and its NPU compiler {tools[COMPILER]}" if COMPILER in tools else ""
        profile = f", profile {self.profile.partition('@')[0]}" if self.profile else ""
        how = "latency as the board measured it" if self.measured else (
            "latency as the compiler adds up its cycles: not a measurement" if self.info.cycles is not None else "no latency"
        )  # fmt: skip
        return f"compiled by ST Edge AI Core {tools.get(CORE, '')}{compiler}{profile}; {how}"

    def _notes(self, inside: int, outside: int) -> tuple[str, ...]:
        notes = list(self.board.memory_notes(self.info.weights_bytes, inside, outside))
        if self.board.npu:
            cpu = sum(step.processor != "NPU" for step in self.info.steps)
            names = ", ".join(f"{count} x {name}" for name, count in sorted(self.text.software.items()))
            which = f" ({names})" if names else ""
            beside = ", whose time the compiler's cycles hardly count" if cpu and not self.measured else ""
            notes.append(f"{cpu} of {len(self.info.steps)} epochs need the CPU{which}{beside}")
        if self.info.runtime_ram_bytes is not None and self.info.runtime_flash_bytes is not None:
            notes.append(
                f"ST's runtime takes {self.info.runtime_ram_bytes / 1024:.1f} KiB of RAM and "
                f"{self.info.runtime_flash_bytes / 1024:.1f} KiB of flash beside these numbers"
            )
        for what, metrics in self.info.comparisons.items():
            notes.append(f"{what}: {', '.join(f'{name} {value:g}' for name, value in metrics.items())}")
        if self.measured and self.text.duration is not None:
            duration = self.text.duration
            notes.append(
                f"{duration.samples} inferences took {duration.least_ms:g} to {duration.most_ms:g} ms on {duration.device}"
            )
        return tuple(notes)

    def _details(self) -> dict[str, Any]:
        clock = None if self.measured else self.board.npu_clock_mhz  # a measurement and an estimate aren't mixed
        return {
            "board": self.board.name,
            "profile": self.profile,
            "tools": dict(self.info.tools),
            "pools": [
                {"name": pool.name, "bytes": pool.size_bytes}
                for pool in self.info.pools
                if pool.size_bytes and pool.writable and not pool.external
            ],
            "pool_use": [
                {"name": p.name, "used_bytes": p.used_bytes, "size_bytes": p.size_bytes, "external": p.external}
                for p in self.info.pools
            ],
            "epochs": dict(self.text.epochs),
            "software": dict(self.text.software),
            "comparisons": {what: dict(metrics) for what, metrics in self.info.comparisons.items()},
            "layers": [
                {
                    "name": step.name,
                    "op_type": step.op_type,
                    "output_shape": list(step.output_shape),
                    "weights_bytes": step.weights_bytes,
                    "macc": step.macc,
                    "internal_bytes": step.internal_bytes,
                    "external_bytes": step.external_bytes,
                    "latency_ms": None if step.cycles is None or not clock else step.cycles / clock / 1e3,
                    "processor": step.processor,
                    "cycles": step.cycles,
                }
                for step in self.info.steps
            ],
        }


def unused(section: Stedgeai, board: Board) -> tuple[str, ...]:
    """What people should know of keys that this board has no use for."""
    notes = []
    if board.npu and section.optimization:
        notes.append("tools.stedgeai.optimization is for Cortex-M code: the NPU's compiler goes by its profile")
    if not board.npu and section.profile:
        notes.append(f"tools.stedgeai.profile is for the Neural-ART compiler, and {board.title} has no NPU")
    return tuple(notes)
