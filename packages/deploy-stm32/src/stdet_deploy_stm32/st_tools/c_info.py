"""`*_c_info.json` of ST Edge AI Core, schema 2.0: what a compiled network needs, step by step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdet_deploy_stm32.mpool import EXTERNAL
from stdet_deploy_stm32.st_tools.failures import ToolFailure

SCHEMA = "2.0"
MOST_BYTES = 256 << 20
MOST_LOOKS = 20_000_000
"""Steps times buffers: a network of a thousand steps has two million."""
METRICS = ("acc", "rmse", "mae", "l2r", "mean", "std")
"""Of a comparison, as the tool names them."""
NPU, CPU, MIXED = "NPU", "CPU", "NPU + CPU"
_PROCESSORS = {
    "NODE_HW": NPU, "NODE_EC": NPU, "NODE_SW": CPU, "NODE_SW_INTEGER": CPU, "NODE_SW_HW": MIXED, "NODE_UNDEF": "unknown",
    "NODE_NO_X": None,
}  # fmt: skip
"""Who computes a node of each mapping; nobody computes inputs and constants."""
_PRESENT_DAMAGE = "run the tool again; when it writes the same again, tell us with the file"


@dataclass(frozen=True)
class PoolUse:
    """Attributes:
    name: of a memory pool.
    size_bytes: None where it has no limit.
    used_bytes: by weights and activations.
    external: outside of the chip, as far as the file tells.
    writable: RAM, not flash.
    """

    name: str
    size_bytes: int | None
    used_bytes: int
    external: bool
    writable: bool


@dataclass(frozen=True)
class Step:
    """What is computed at once: an epoch of the NPU's compiler, or a layer of C code.

    Attributes:
        op_type: operators of it, joined by ` + `.
        output_shape: of the first result, as the tool says it.
        processor: `NPU`, `CPU`, `NPU + CPU` or `unknown`.
        macc: 0 where the tool doesn't count.
        weights_bytes: that it reads.
        internal_bytes, external_bytes: RAM that holds something while it runs.
        cycles: the compiler's own estimate; None where there is none.
    """

    name: str
    op_type: str
    output_shape: tuple[int, ...]
    processor: str
    macc: int
    weights_bytes: int
    internal_bytes: int
    external_bytes: int
    cycles: int | None


@dataclass(frozen=True)
class CInfo:
    """Attributes:
    weights_bytes, activations_bytes, io_bytes: as the tool sums them up; I/O that lies in the activations counts 0.
    runtime_ram_bytes, runtime_flash_bytes: of ST's libraries and code; None where the tool doesn't say.
    pools: without virtual ones, which span others.
    tools: name to version.
    measured_ms: of an inference on `device`; None unless a board ran it.
    comparisons: of the network with the model file, after a validation: what was compared, to its metrics (`rmse`, ...).
    """

    weights_bytes: int
    activations_bytes: int
    io_bytes: int
    runtime_ram_bytes: int | None
    runtime_flash_bytes: int | None
    pools: tuple[PoolUse, ...]
    steps: tuple[Step, ...]
    tools: Mapping[str, str]
    measured_ms: float | None
    device: str
    comparisons: Mapping[str, Mapping[str, float]]

    @property
    def macc(self) -> int | None:
        """Of all steps; None where the tool doesn't count (the NPU's compiler)."""
        return sum(step.macc for step in self.steps) or None

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate for all steps; None where it makes none."""
        known = [step.cycles for step in self.steps if step.cycles is not None]
        return sum(known) if known else None

    def ram_bytes(self, external: bool) -> int:
        """Of the pools inside or outside of the chip that may be written: constants that lie there count, too."""
        return sum(pool.used_bytes for pool in self.pools if pool.writable and pool.external == external)


def read_c_info(path: Path) -> CInfo:
    """Raises:
    ToolFailure: `damaged_report` when it is missing or can't be made out, `schema` when it is of another version.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ToolFailure(
                "damaged_report", f"{path.name} has more than {MOST_BYTES >> 20} MiB", _PRESENT_DAMAGE, path
            )
        return parse_c_info(json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number), path)
    except FileNotFoundError as error:
        raise ToolFailure("damaged_report", f"the tool wrote no {path.name}", "see its log") from error
    except (OSError, ValueError) as error:
        raise ToolFailure("damaged_report", f"{path.name} can't be read: {error}", _PRESENT_DAMAGE, path) from error


def no_number(text: str) -> float:
    """For `json.loads`: Infinity and NaN are no numbers.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{text} is no number")


def parse_c_info(document: Any, path: Path | None = None) -> CInfo:
    """Args:
        path: of the file, for errors.

    Raises:
        ToolFailure: see `read_c_info`.
    """
    version = document.get("json_schema_version") if isinstance(document, dict) else None
    if version != SCHEMA:
        raise ToolFailure(
            "schema", f"the report has schema version {version!r}; {SCHEMA!r} is known",
            "use ST Edge AI Core 2.0 to 4.0, or look for a newer stdet-deploy-stm32", path,
        )  # fmt: skip
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ToolFailure(
            "damaged_report", f"the report can't be made out: {type(error).__name__} {error}", _PRESENT_DAMAGE, path
        ) from error


def _parse(document: dict[str, Any]) -> CInfo:
    footprint, graph = document["memory_footprint"], document["graphs"][0]
    measured = graph.get("exec_time") or {}
    pools = {pool["id"]: pool for pool in document["memory_pools"]}
    uses = {number: _pool(pool) for number, pool in pools.items()}
    environment = document["environment"]
    return CInfo(
        weights_bytes=int(footprint["weights"]),
        activations_bytes=int(footprint["activations"]),
        io_bytes=sum(map(int, footprint.get("io") or ())),
        runtime_ram_bytes=_sum(footprint, "kernel_ram", "toolchain_ram", "extra_ram"),
        runtime_flash_bytes=_sum(footprint, "kernel_flash", "toolchain_flash", "extra_flash"),
        pools=tuple(uses[number] for number, pool in pools.items() if not pool.get("subpools")),
        steps=tuple(_steps(document, graph, uses)),
        tools={tool["name"]: str(tool["version"]) for tool in environment["tools"]},
        measured_ms=None if measured.get("duration_ms") is None else _milliseconds(measured["duration_ms"]),
        device=str(measured.get("device") or environment.get("device") or ""),
        comparisons={
            str(entry.get("desc") or entry.get("ts_name")): {
                key: float(entry[key]) for key in METRICS if isinstance(entry.get(key), int | float)
            }
            for entry in (document.get("validation") or {}).get("val_metrics") or ()
        },
    )


def _milliseconds(value: Any) -> float:
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"an inference took {value} ms")
    return float(value)


def _sum(footprint: dict[str, Any], *keys: str) -> int | None:
    known = [int(footprint[key]) for key in keys if footprint.get(key) is not None]
    return sum(known) if known else None


def _pool(pool: dict[str, Any]) -> PoolUse:
    address, size = str(pool["address"]), int(pool["size_bytes"])
    placed_outside = address.isdigit() and int(address) >= EXTERNAL
    return PoolUse(
        name=str(pool["name"]),
        size_bytes=None if size < 0 else size,
        used_bytes=int(pool["used_size_bytes"]),
        external=placed_outside or "EXTERNAL" in str(pool["name"]).upper(),
        writable="WRITE" in str(pool["rights"]),
    )


def _steps(document: dict[str, Any], graph: dict[str, Any], pools: Mapping[int, PoolUse]) -> Iterator[Step]:
    buffers = {buffer["id"]: buffer for buffer in document["buffers"]}
    cycles = {entry["node_id"]: int(entry["max_cycles"]) for entry in document.get("power_estimates") or ()}
    active = [b for b in buffers.values() if not b["is_param"] and b["mpool_id"] in pools]
    if len(graph["nodes"]) * len(active) > MOST_LOOKS:
        raise ValueError(f"{len(graph['nodes'])} steps with {len(active)} buffers are no network of this world")
    for index, node in enumerate(graph["nodes"]):
        processor = _processor(node)
        if processor is None:
            continue
        made = [buffers[number] for number in node["outputs"] if number in buffers]
        moment = max((int(buffer["epochs"]["start"]) for buffer in made), default=index)
        alive = [b for b in active if int(b["epochs"]["start"]) <= moment <= int(b["epochs"]["end"])]
        read = {number for number in node["inputs"] if number in buffers and buffers[number]["is_param"]}
        yield Step(
            name=str(node["name"]),
            op_type=_operators(node),
            output_shape=tuple(map(int, made[0]["shape"])) if made else (),
            processor=processor,
            macc=int(node["macc"] or 0),
            weights_bytes=sum(int(buffers[number]["size_bytes"]) for number in read),
            internal_bytes=_occupied(b for b in alive if not pools[b["mpool_id"]].external),
            external_bytes=_occupied(b for b in alive if pools[b["mpool_id"]].external),
            cycles=cycles.get(node["id"]),
        )


def _processor(node: dict[str, Any]) -> str | None:
    """Of a node with all that it is made of: an epoch of the epoch controller may hold software."""
    own = _PROCESSORS.get(node["mapping"], node["mapping"])
    if own == node["mapping"]:
        raise ValueError(f"{node['name']} is mapped to {own!r}, which isn't known")
    inside = {_processor(nested) for nested in node.get("subgraph_nodes") or ()} - {None}
    return MIXED if own == NPU and inside - {NPU} else own


def _operators(node: dict[str, Any]) -> str:
    nested = node.get("subgraph_nodes") or ()
    types = [str(n.get("type") or "") for n in nested if n["mapping"] != "NODE_NO_X"] or [str(node.get("type") or "")]
    return " + ".join(dict.fromkeys(filter(None, types))) or "epoch"


def _occupied(buffers: Iterable[dict[str, Any]]) -> int:
    """Bytes of all pools that something lies in; results that are written over their inputs count once."""
    ranges = sorted(
        (b["mpool_id"], int(b["offset_start"]), int(b["offset_start"]) + int(b["size_bytes"])) for b in buffers
    )
    total, pool, reached = 0, None, 0
    for number, start, stop in ranges:
        if number != pool:
            pool, reached = number, 0
        total += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
