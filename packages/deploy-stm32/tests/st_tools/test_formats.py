"""Reports of versions 2.0 to 4.0 are read alike, and what isn't one is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdet_deploy_stm32.st_tools.c_info import parse_c_info, read_c_info
from stdet_deploy_stm32.st_tools.failures import ToolFailure
from stdet_deploy_stm32.st_tools.report_text import parse_report, read_report

Build = Callable[..., dict[str, Any]]


def test_an_epoch_is_told_with_its_processor_its_memory_and_the_compilers_cycles(c_info: Build) -> None:
    info = parse_c_info(c_info())
    assert [(s.name, s.op_type, s.processor, s.cycles) for s in info.steps] == [
        ("epoch_1", "Conv + Add", "NPU", 60000),
        ("epoch_2", "Softmax + Conv", "NPU + CPU", 2000),  # an epoch controller's blob doesn't make software hardware
        ("epoch_3", "QuantizeLinear", "CPU", 500),
    ]
    assert [(s.weights_bytes, s.internal_bytes, s.external_bytes) for s in info.steps] == [
        (5000, 2000, 0),
        (0, 800, 1000),
        (0, 2, 1000),
    ]
    assert (info.weights_bytes, info.activations_bytes, info.io_bytes, info.runtime_ram_bytes) == (5000, 3000, 0, None)
    assert (info.cycles, info.macc, info.measured_ms) == (62500, None, None)
    assert [(p.name, p.external, p.writable) for p in info.pools] == [
        ("npuRAM5", False, True), ("hyperRAM", True, True), ("octoFlash", True, False)
    ]  # fmt: skip  # a pool that spans others is no memory of its own
    assert (info.ram_bytes(external=False), info.ram_bytes(external=True)) == (2000, 1000)


def test_a_layer_of_c_code_that_overwrites_its_input_needs_no_room_of_its_own(c_info: Build) -> None:
    info = parse_c_info(c_info(npu=False))
    assert [(s.op_type, s.processor, s.macc, s.internal_bytes) for s in info.steps] == [
        ("Conv2D", "CPU", 90000, 2000),
        ("Nonlinearity", "CPU", 800, 800),
    ]
    assert (info.macc, info.cycles, info.runtime_ram_bytes, info.runtime_flash_bytes) == (90800, None, 512, 10000)
    assert info.pools[0].size_bytes is None


def test_a_board_that_ran_it_says_how_long_it_took(c_info: Build) -> None:
    document = c_info(npu=False)
    document["graphs"][0]["exec_time"] = {"duration_ms": 3.5, "cycles": 1400000, "device": "STM32H747"}
    info = parse_c_info(document)
    assert (info.measured_ms, info.device) == (3.5, "STM32H747")
    for wrong in (-1, float("inf"), float("nan"), "soon"):
        document["graphs"][0]["exec_time"]["duration_ms"] = wrong
        with pytest.raises(ToolFailure, match="can't be made out"):
            parse_c_info(document)


def test_an_epoch_of_a_version_that_names_no_types_is_an_epoch(c_info: Build) -> None:
    assert parse_c_info(c_info(version="2.2.0-20266")).steps[-1].op_type == "epoch"


@pytest.mark.parametrize("schema", [None, "1.0", "3.0", 2.0])
def test_an_unknown_schema_is_refused(c_info: Build, schema: Any) -> None:
    with pytest.raises(ToolFailure, match="schema version") as failure:
        parse_c_info(c_info(json_schema_version=schema))
    assert failure.value.kind == "schema"


def test_a_mapping_that_nobody_knows_is_not_guessed(c_info: Build) -> None:
    document = c_info()
    document["graphs"][0]["nodes"][1]["mapping"] = "NODE_QUANTUM"
    with pytest.raises(ToolFailure, match="NODE_QUANTUM"):
        parse_c_info(document)


@pytest.mark.parametrize(
    "cut", ["memory_footprint", "graphs", "buffers", "memory_pools", "environment", "weights", "mapping", "epochs"]
)
def test_a_report_that_lacks_something_is_damaged(c_info: Build, cut: str) -> None:
    document = c_info()
    places = {"weights": document["memory_footprint"], "mapping": document["graphs"][0]["nodes"][1],
              "epochs": document["buffers"][0]}  # fmt: skip
    del places.get(cut, document)[cut]
    with pytest.raises(ToolFailure, match="can't be made out") as failure:
        parse_c_info(document)
    assert failure.value.kind == "damaged_report"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"json_schema_version": "2.0", "graphs": 3}'])
def test_half_a_file_is_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "network_c_info.json"
    path.write_text(text)
    with pytest.raises(ToolFailure):
        read_c_info(path)


def test_no_report_is_told(tmp_path: Path) -> None:
    for read in (read_c_info, read_report):
        with pytest.raises(ToolFailure, match="wrote no network_x") as failure:
            read(tmp_path / "network_x")
        assert failure.value.kind == "damaged_report"


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0-20194", "2.2.0-20266", "3.0.0-20426", "4.0.1-20581"])
def test_text_reports_of_all_versions_tell_the_same(texts: Callable[..., str], version: str) -> None:
    report = parse_report(texts("validate", version, True))
    assert report.macc == 90800
    assert sum(report.epochs.values()) == 3
    assert report.epochs["HW"] == 1
    assert report.software == {"Softmax": 1, "QuantizeLinear": 1}
    assert report.pools == {"cpuRAM1": (0, 0), "npuRAM5": (2000, 458752), "octoFlash": (5000, 117440512)}
    assert report.duration is not None
    assert (report.duration.mean_ms, report.duration.least_ms, report.duration.most_ms) == (12.345, 12.3, 12.4)
    assert (report.duration.samples, report.duration.device) == (10, "stm32n6xx - STM32N657 @800/400MHz")


def test_validates_own_footer_has_the_macc_too() -> None:
    assert (
        parse_report("model/c-model: macc=5,409/5,409  weights=21,004/21,004  activations=--/512 io=--/0\n").macc
        == 5409
    )
    assert parse_report("macc               :   1,051,586,352     \n").macc == 1051586352
    assert parse_report("").macc is None


@pytest.mark.parametrize("version", ["2.2.0", "4.0.0"])
def test_a_list_of_epochs_that_breaks_off_is_damaged(texts: Callable[..., str], version: str) -> None:
    text = texts("analyze", version, True)
    with pytest.raises(ToolFailure, match="lists 2 of 3 epochs"):
        parse_report(text[: text.index("epoch_3" if version[0] == "4" else "epoch 3")])


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_a_number_without_bounds_is_damage(tmp_path: Path, c_info: Build, number: str) -> None:
    path = tmp_path / "network_c_info.json"
    path.write_text(json.dumps(c_info()).replace("60000", number))
    with pytest.raises(ToolFailure) as failure:
        read_c_info(path)
    assert failure.value.kind == "damaged_report"


def test_an_absurd_report_takes_no_absurd_time(c_info: Build, texts: Callable[..., str]) -> None:
    document = c_info()
    document["graphs"][0]["nodes"] *= 5000
    document["buffers"] += [document["buffers"][0] | {"id": 100 + i} for i in range(5000)]
    deep = document["graphs"][0]["nodes"][1]
    begun = time.monotonic()
    with pytest.raises(ToolFailure, match="no network of this world"):
        parse_c_info(document)
    for _ in range(3000):
        deep = deep | {"subgraph_nodes": [deep]}
    with pytest.raises(ToolFailure, match="RecursionError"):
        parse_c_info(c_info(graphs=[{"nodes": [deep]}]))
    report = parse_report(texts("analyze", "3.0.0", True) + "\n \t" * 200000)
    assert sum(report.epochs.values()) == 3
    assert time.monotonic() - begun < 20


def test_the_json_survives_being_written(c_info: Build) -> None:
    assert parse_c_info(json.loads(json.dumps(c_info()))) == parse_c_info(c_info())
