"""The text reports of ST Edge AI Core 2.0 to 4.0: what stands nowhere in `*_c_info.json`, and a check on what does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stdet_deploy_stm32.st_tools.failures import ToolFailure

MOST_CHARACTERS = 16 << 20
"""Of a report; a real one has some hundred thousand."""
_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_FOOTER = re.compile(r"^model(?:/c-model)?: *macc=(?P<macc>[\d,]+)", re.M)
_MACC = re.compile(r"^macc +: +(?P<macc>[\d,]+)", re.M)
_POOL = re.compile(
    r"^[ \t]*(?P<name>\w+)[ \t]+\[0x[0-9A-Fa-f]+ - 0x[0-9A-Fa-f]+\]:[ \t]+(?P<used>[\d.]+)[ \t]+(?P<used_unit>[kMG]?B) /"
    r"[ \t]+(?P<size>[\d.]+)[ \t]+(?P<size_unit>[kMG]?B)", re.M)  # fmt: skip
_EPOCHS = re.compile(
    r"^Total number of epochs:? +(?P<all>\d+)(?: of which (?P<software>\d+) implemented in software)?", re.M
)
_EPOCH_2 = re.compile(
    r"^epoch (?P<number>\d+)[ \t]+-?(?P<kind>HW|SW|EC|HYBRID)-?[ \t]*(?:\([ \t]*(?P<operator>[^)]*?)[ \t]*\))?[ \t]*$",
    re.M,
)
_EPOCH_3 = re.compile(
    r"^\|[ \t]*epoch_(?P<number>\d+)[ \t]*\|[ \t]*(?P<kind>[A-Z+/ ]+?)[ \t]*\|[ \t]*(?P<operator>.*?)[ \t]*\|[ \t]*$",
    re.M,
)
_DURATION = re.compile(
    r"^[ \t]*duration[ \t]+:[ \t]+(?P<mean>[\d.]+) ms by sample \((?P<least>[\d.]+)/(?P<most>[\d.]+)/(?P<spread>[\d.]+)\)",
    re.M,
)
_SAMPLES = re.compile(r"^[ \t]*nb sample\(s\)[ \t]+:[ \t]+(?P<count>\d+)", re.M)
_DEVICE = re.compile(r"^[ \t]*device\.desc[ \t]+:[ \t]+(?P<device>.*?)[ \t]*$", re.M)


@dataclass(frozen=True)
class Duration:
    """Attributes:
    mean_ms, least_ms, most_ms: of an inference.
    samples: how many there were; 0 when not said.
    device: what ran it, as it describes itself.
    """

    mean_ms: float
    least_ms: float
    most_ms: float
    samples: int
    device: str


@dataclass(frozen=True)
class TextReport:
    """Attributes:
    macc: of an inference; None when not said.
    epochs: how many are `HW`, `EC`, `SW` or `HYBRID`; empty without an NPU.
    software: operator to the number of epochs that the CPU computes it in.
    pools: name to bytes used and bytes there are.
    duration: None unless the network ran.
    """

    macc: int | None
    epochs: Mapping[str, int]
    software: Mapping[str, int]
    pools: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    duration: Duration | None = None


def read_report(path: Path) -> TextReport:
    """Raises:
    ToolFailure: `damaged_report` when it isn't there, or breaks off.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return parse_report(file.read(MOST_CHARACTERS), path)
    except OSError as error:
        raise ToolFailure(
            "damaged_report", f"the tool wrote no {path.name}: {error.strerror or error}", "see its log"
        ) from error


def parse_report(text: str, path: Path | None = None) -> TextReport:
    """Args:
        path: of the file, for errors.

    Raises:
        ToolFailure: `damaged_report` when the list of epochs isn't as long as it says.
    """
    macc = _FOOTER.search(text) or _MACC.search(text)
    listed = [*_EPOCH_2.finditer(text), *_EPOCH_3.finditer(text)]
    announced = _EPOCHS.search(text)
    if announced and len(listed) != int(announced["all"]):
        raise ToolFailure(
            "damaged_report", f"the text report lists {len(listed)} of {announced['all']} epochs",
            "run the tool again with enough room on the disk", path,
        )  # fmt: skip
    software = Counter[str]()
    for epoch in listed:
        if "SW" in epoch["kind"] or epoch["kind"] == "HYBRID":
            software.update(filter(None, re.split(r"[,\s]+", epoch["operator"] or "")))
    return TextReport(
        macc=None if macc is None else int(macc["macc"].replace(",", "")),
        epochs=Counter(epoch["kind"] for epoch in listed),
        software=software,
        pools={
            found["name"]: (_bytes(found["used"], found["used_unit"]), _bytes(found["size"], found["size_unit"]))
            for found in _POOL.finditer(text)
            if "used" in text[found.end() : found.end() + 20]
        },
        duration=_duration(text),
    )


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


def _duration(text: str) -> Duration | None:
    found = _DURATION.search(text)
    if found is None:
        return None
    samples, device = _SAMPLES.search(text), _DEVICE.search(text)
    return Duration(
        float(found["mean"]),
        float(found["least"]),
        float(found["most"]),
        int(samples["count"]) if samples else 0,
        device["device"] if device else "",
    )
