"""Memory, work and latency of a model on a board, from its graph alone: no tool, no board, no run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdet.artifacts import sha256_file
from stdet.errors import ModelError
from stdet.interfaces.deploy import BenchReport
from stdet_deploy_stm32 import __version__
from stdet_deploy_stm32.bench import cortex_m, neural_art
from stdet_deploy_stm32.bench.kernels import Kernel, kernels
from stdet_deploy_stm32.bench.latency import LatencyModel, latency_models
from stdet_deploy_stm32.bench.macc import KernelCost, costs
from stdet_deploy_stm32.bench.operators import Verdict, lint, untimed
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.onnx_graph.view import Graph, load_model, read_graph

KIB = 1024
EXTRAPOLATION = 2.0
"""Times the largest count of slow elements among the published rows; beyond it the formula was three to four times off."""
OTHER_BOARD_PERCENT = 12.0
"""Added to the error on boards that share the core with the one that was measured: as far as an STM32F769 was off."""
_UNMEASURED = ("MatMul", "Gemm", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Gelu", "Erf", "Exp",
               "LSTM", "GRU", "RNN")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a network needs on a processor.

    Attributes:
        weights_bytes: flash.
        internal_bytes, external_bytes: RAM inside and outside, each at its fullest.
        memory: bytes inside and outside at each kernel and at the end.
        cycles: of each kernel; None where no formula holds, and then `reason` says why.
        clock_mhz: that the cycles are of.
        regime: which error of the formula holds.
        verdicts: on each kernel, on a chip with an NPU.
    """

    weights_bytes: int
    internal_bytes: int
    external_bytes: int
    memory: list[tuple[int, int]]
    cycles: list[float] | None = None
    reason: str = ""
    clock_mhz: int | None = None
    regime: str = "all"
    verdicts: list[Verdict] | None = None


def estimate(path: Path, board: Board) -> BenchReport:
    """Everything that can be told of a float or QDQ ONNX file on `board`; docs/boards.md says how, and how far off it is.

    A float file is judged as the int8 network that it will become.

    Raises:
        ArtifactError: not a readable ONNX file.
        ModelError: shapes aren't static, several inputs, a cycle, or operators that aren't plain ONNX.
    """
    graph = read_graph(load_model(path))
    if len(graph.inputs) != 1:
        raise ModelError(
            f"{path.name} has {len(graph.inputs)} inputs: {', '.join(graph.inputs[:5])}",
            "export a network that takes one image",
        )
    steps = kernels(graph, merge_padding=not board.npu)
    table = costs(graph, steps)
    plan = plan_for(graph, steps, table, board)
    model = latency_models().get(board.latency_model)
    fits, overflows = board.fit(plan.weights_bytes, plan.internal_bytes, plan.external_bytes)
    cycles = sum(plan.cycles) if plan.cycles is not None and plan.clock_mhz else None
    return BenchReport(
        model=path.name,
        sha256=sha256_file(path),
        backend="estimate",
        tool="stdet-deploy-stm32",
        version=__version__,
        parameters=sum(row.parameters for row in table),
        weights_bytes=plan.weights_bytes,
        activations_bytes=max(inside + outside for inside, outside in plan.memory),
        activations_internal_bytes=plan.internal_bytes,
        activations_external_bytes=plan.external_bytes,
        io_bytes=sum(graph.size(name) for name in {*graph.inputs, *graph.outputs}),
        macc=sum(row.macc for row in table),
        latency_ms=None if cycles is None else cycles / (plan.clock_mhz or 1) / 1e3,
        latency_kind="none" if cycles is None else "model",
        latency_reason=plan.reason,
        uncertainty_percent=None if cycles is None or model is None else _uncertainty(board, model, plan.regime),
        device=board.title,
        fits=fits,
        overflows=overflows,
        operators=_operators(plan.verdicts),
        provenance=_provenance(board, model, plan),
        notes=(
            *board.memory_notes(plan.weights_bytes, plan.internal_bytes, plan.external_bytes),
            *_advice(steps, plan),
        ),
        details=_details(graph, board, steps, table, plan),
    )


def plan_for(graph: Graph, steps: Sequence[Kernel], table: Sequence[KernelCost], board: Board) -> Plan:
    """What the network needs on the processor of `board`."""
    return _on_npu(graph, steps, board) if board.npu else _on_core(graph, steps, table, board)


def _on_npu(graph: Graph, steps: Sequence[Kernel], board: Board) -> Plan:
    placement = neural_art.place(graph, steps, [region.bytes for region in board.regions()])
    verdicts = lint(graph, steps)
    model = latency_models()[board.latency_model]
    reason = _npu_reason(graph, steps, verdicts, placement, model, board)
    cycles = [
        model.total(neural_art.COUNTS, neural_art.counts(graph, kernel, use.slow_elements))
        for kernel, use in zip(steps, placement.uses, strict=False)
    ]
    return Plan(
        weights_bytes=sum(neural_art.stored_weights(graph, kernel) for kernel in steps),
        internal_bytes=placement.inside_bytes,
        external_bytes=placement.outside_bytes,
        memory=[(sum(use.inside), use.outside) for use in placement.uses],
        cycles=None if reason else cycles,
        reason=reason,
        clock_mhz=board.npu_clock_mhz,
        regime="spilled" if placement.outside_bytes else "inside",
        verdicts=verdicts,
    )


def _npu_reason(graph: Graph, steps: Sequence[Kernel], verdicts: Sequence[Verdict], placement: neural_art.Placement,
                model: LatencyModel, board: Board) -> str:  # fmt: skip
    """Why the formula doesn't hold; empty when it does."""
    found = untimed(graph, steps, verdicts)
    if found:
        kernel, verdict = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"no formula for {kernel.op_type} `{kernel.name}`{more}: {verdict.reason}"
    limit = (model.most_slow_elements or math.inf) * EXTRAPOLATION
    if placement.slow_elements > limit:
        return (
            f"{placement.slow_elements / 1e6:.1f} million elements are read from external RAM; published figures reach "
            f"{limit / EXTRAPOLATION / 1e6:.1f} million, and networks far beyond are slower than any formula says"
        )
    if placement.outside_bytes and not board.external_ram_kib:
        return "the activations don't fit and there is no external RAM"
    if board.npu_clock_mhz != model.clock_mhz:
        return f"published figures are of an NPU at {model.clock_mhz} MHz, this one runs at {board.npu_clock_mhz}"
    return ""


def _on_core(graph: Graph, steps: Sequence[Kernel], table: Sequence[KernelCost], board: Board) -> Plan:
    peak, series = cortex_m.peak_bytes(graph, steps)
    limit = peak if board.ram_kib is None else board.ram_kib * KIB
    model = latency_models().get(board.latency_model)
    reason = _core_reason(graph, steps, model, board)
    cycles = None
    if model is not None and not reason:
        cycles = [model.total(cortex_m.COUNTS, cortex_m.counts(graph, kernel)) for kernel in steps]
    return Plan(
        weights_bytes=sum(row.weights_bytes for row in table),
        internal_bytes=min(peak, limit),
        external_bytes=max(0, peak - limit),
        memory=[(min(alive, limit), max(0, alive - limit)) for alive in series],
        cycles=cycles,
        reason=reason,
        clock_mhz=board.clock_mhz,
    )


def _core_reason(graph: Graph, steps: Sequence[Kernel], model: LatencyModel | None, board: Board) -> str:
    if model is None:
        return f"no published figures of {board.cpu} to fit a formula to"
    if board.clock_mhz is None:
        return "the clock is not known"
    for kernel in steps:
        if kernel.op_type in _UNMEASURED and kernel.weight_shape(graph) is None:
            return f"{kernel.op_type} `{kernel.name}`: no published figure has it"
        if any(graph.bits.get(name, 8) > 8 for name in kernel.outputs):
            return f"{kernel.op_type} `{kernel.name}` has activations of more than 8 bits: no published figure has any"
    return ""


def _uncertainty(board: Board, model: LatencyModel, regime: str) -> float:
    error = model.errors[regime].worst_percent
    return math.ceil(error if board.measured else error + OTHER_BOARD_PERCENT)


def _operators(verdicts: list[Verdict] | None) -> dict[str, int]:
    return (
        {}
        if verdicts is None
        else {p: n for p in ("NPU", "CPU", "depends") if (n := sum(v.processor == p for v in verdicts))}
    )


def _provenance(board: Board, model: LatencyModel | None, plan: Plan) -> str:
    memory = "memory by our own rules"
    if plan.cycles is None or model is None:
        return f"{memory}; not a measurement"
    error = model.errors[plan.regime]
    return (
        f"{memory}, latency by a formula of ours that stands for {model.stands_for} (fitted {model.fitted}; families left "
        f"out of the fit were off by {error.median_percent:.1f} % in the median, {error.worst_percent:.0f} % at worst); "
        "not a measurement"
    )


def _advice(steps: Sequence[Kernel], plan: Plan) -> tuple[str, ...]:
    """One line for each kind of operator that isn't simply the NPU's."""
    lines: dict[tuple[str, str], list[str]] = {}
    for kernel, verdict in zip(steps, plan.verdicts or (), strict=False):
        if verdict.advice:
            lines.setdefault((kernel.op_type, f"{verdict.reason}; {verdict.advice}"), []).append(kernel.name)
    return tuple(
        f"{len(names)} × {op_type} ({names[0]}{', …' if len(names) > 1 else ''}): {text}"
        for (op_type, text), names in lines.items()
    )


def _details(
    graph: Graph, board: Board, steps: Sequence[Kernel], table: Sequence[KernelCost], plan: Plan
) -> dict[str, Any]:
    largest = max(range(len(plan.memory)), key=lambda i: sum(plan.memory[i]))
    return {
        "board": board.name,
        "largest_at_layer": steps[largest].name if largest < len(steps) else "model outputs",
        "pools": [{"name": region.name, "bytes": region.bytes} for region in board.regions()],
        "layers": [
            {
                "name": kernel.name,
                "op_type": kernel.op_type,
                "output_shape": list(graph.shapes[kernel.outputs[0]]),
                "parameters": row.parameters,
                "weights_bytes": neural_art.stored_weights(graph, kernel) if board.npu else row.weights_bytes,
                "macc": row.macc,
                "internal_bytes": plan.memory[index][0],
                "external_bytes": plan.memory[index][1],
                "latency_ms": None if plan.cycles is None else plan.cycles[index] / (plan.clock_mhz or 1) / 1e3,
                **_where(plan.verdicts[index] if plan.verdicts else None, board),
            }
            for index, (kernel, row) in enumerate(zip(steps, table, strict=True))
        ],
    }


def _where(verdict: Verdict | None, board: Board) -> dict[str, str]:
    if verdict is None:
        return {"processor": "CPU"}
    noted = {"reason": verdict.reason, "advice": verdict.advice, "source": verdict.source}
    return {"processor": verdict.processor} | ({k: v for k, v in noted.items() if v} if verdict.reason else {})
