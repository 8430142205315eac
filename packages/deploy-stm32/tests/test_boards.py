"""Boards are data: each number has its source, pools can come from a file, and another wheel adds its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stdet.errors import ArtifactError, PluginError
from stdet_deploy_stm32 import target
from stdet_deploy_stm32.bench.latency import latency_models
from stdet_deploy_stm32.boards import KIB, MODELLED, Board, boards, register_boards
from stdet_deploy_stm32.mpool import read_mpool, with_pools

NUMBERS = ("clock_mhz", "ram_kib", "flash_kib", "npu_clock_mhz", "external_ram_kib", "external_flash_kib", "pools")
DISCOVERY = boards()["stm32n6570-dk"]


@pytest.mark.parametrize("board", boards().values(), ids=lambda board: board.name)
def test_every_number_of_a_board_has_a_source_that_can_be_looked_up(board: Board) -> None:
    sourced = {key.strip() for keys in board.sources for key in keys.split(",")}
    stated = {key for key in NUMBERS if getattr(board, key)}
    assert stated <= sourced or "*" in sourced
    assert all(text.startswith("https://") for key, text in board.sources.items() if key != "*")


def test_neighbouring_pools_of_one_speed_are_one_region() -> None:
    assert [region.bytes // KIB for region in DISCOVERY.regions()] == [1792, 1024]
    assert sum(pool.kib for pool in DISCOVERY.pools) == DISCOVERY.ram_kib


def test_the_nucleo_has_the_npu_of_the_discovery_kit_and_no_ram_outside() -> None:
    nucleo = boards()["nucleo-n657x0-q"]
    assert nucleo.regions() == DISCOVERY.regions()
    fits, overflows = nucleo.fit(1, 2000 * KIB, 900 * KIB)
    assert fits is False
    assert (overflows[0].memory, overflows[0].needed_bytes) == ("internal RAM", 2900 * KIB)


def test_a_board_that_says_it_has_a_latency_has_a_formula() -> None:
    assert set(MODELLED) == set(latency_models())
    assert "no latency" in boards()["b-u585i-iot02a"].summary()


def pool(name: str, address: str, kib: int, rights: str = "ACC_WRITE") -> dict[str, Any]:
    return {
        "name": name, "fname": name, "offset": {"value": address, "magnitude": "BYTES"},
        "size": {"value": str(kib), "magnitude": "KBYTES"},
        "prop": {"rights": rights, "byteWidth": 8, "freqRatio": 1.25},
    }  # fmt: skip


def mpool(path: Path, *pools: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"memory": {"mempools": pools}}))
    return path


def test_a_memory_pool_file_replaces_the_pools_of_a_board(tmp_path: Path) -> None:
    path = mpool(
        tmp_path / "my.mpool",
        pool("AXISRAM3", "0x34200000", 448), pool("AXISRAM4", "0x34270000", 448), pool("FLEXMEM", "0x34000000", 0),
        pool("xSPI1", "0x90000000", 16384), pool("xSPI2", "0x71000000", 65536, "ACC_READ"),
    )  # fmt: skip
    board = with_pools(DISCOVERY, path)
    assert [p.name for p in board.pools] == ["AXISRAM3", "AXISRAM4"]
    assert [region.bytes // KIB for region in board.regions()] == [896]
    assert board.ram_kib == 896


@pytest.mark.parametrize("text", ["", "{}", '{"memory": {"mempools": [{"name": "x"}]}}', "[1]", '{"memory": 3}'])
def test_a_file_that_is_no_memory_pool_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.mpool").write_text(text)
    with pytest.raises(ArtifactError, match=r"bad\.mpool"):
        read_mpool(tmp_path / "bad.mpool")


def test_a_memory_pool_file_without_internal_ram_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no pool of internal RAM"):
        read_mpool(mpool(tmp_path / "outside.mpool", pool("xSPI1", "0x90000000", 16384)))


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of somebody else's wheel, with one board."""
    folder = tmp_path / "acme_boards"
    folder.mkdir()
    (folder / "__init__.py").touch()
    board = {"title": "ACME-N6", "cpu": "Cortex-M7", "clock_mhz": 300, "ram_kib": 512, "flash_kib": 1024}
    document = {"format": 2, "boards": {"acme-m7": board | {"sources": {"*": "https://acme.example"}}}}
    (folder / "boards.json").write_text(json.dumps(document))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("acme_boards", None)
    boards.cache_clear()


def test_another_wheel_adds_a_board_by_a_data_file_and_one_line(acme: Path) -> None:
    registered: dict[str, tuple[str, str | None]] = {}
    register_boards(lambda name, path, summary, facts=None: registered.update({name: (path, facts)}), "acme_boards")
    path, facts = registered["acme-m7"]
    module, _, attribute = path.partition(":")
    made = getattr(target, attribute)()
    assert (module, facts) == ("stdet_deploy_stm32.target", "stdet_deploy_stm32.facts:STM32")
    assert (made.name, made.board.title, made.board.ram_kib) == ("acme-m7", "ACME-N6", 512)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": 1, "boards": {}}', '{"format": 2, "boards": {"x": {"cpu": 1}}}']
)
def test_a_data_file_of_another_form_is_refused_by_its_package(acme: Path, text: str) -> None:
    (acme / "boards.json").write_text(text)
    with pytest.raises(PluginError, match="acme_boards"):
        boards("acme_boards")


def test_a_package_without_boards_is_refused_by_name() -> None:
    with pytest.raises(PluginError, match="no_such_package"):
        boards("no_such_package")
