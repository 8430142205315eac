"""`stedgeai` as a bench backend: the same tables as the estimate, each latency with its own kind, all failures told."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdet.errors import ConfigError
from stdet.interfaces.deploy import BenchReport
from stdet.reports.bench_page import bench_page
from stdet_deploy_stm32.bench.stedgeai import bench_stedgeai
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.sections import Stedgeai
from stdet_deploy_stm32.st_tools.failures import ToolFailure

Bench = Callable[..., BenchReport]
Install = Callable[..., "StandIn"]  # noqa: F821  # of conftest.py
N6, H7 = "stm32n6570-dk", "stm32h747i-disco"


@pytest.fixture
def bench(saved: Path, tmp_path: Path) -> Bench:
    """The tool's report on the miniature detector."""

    def run(tool: Any, board: str = N6, memory_pool: Path | None = None, **keys: Any) -> BenchReport:
        section = Stedgeai(path_to_stedgeai=tool.program, **keys)
        return bench_stedgeai(saved, boards()[board], section, memory_pool, tmp_path / "logs")

    return run


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2", "3.0", "4.0"])
def test_the_npus_compiler_is_told_with_its_own_estimate(stand_in: Install, bench: Bench, version: str) -> None:
    tool = stand_in(version)
    report = bench(tool, optimization="time")
    assert "tools.stedgeai.optimization is for Cortex-M code: the NPU's compiler goes by its profile" in report.notes
    assert (report.backend, report.tool, report.device) == ("stedgeai", "ST Edge AI Core", "STM32N6570-DK")
    assert report.version.startswith(version)
    assert (report.weights_bytes, report.activations_bytes, report.macc) == (5000, 3000, 90800)
    assert (report.activations_internal_bytes, report.activations_external_bytes) == (2000, 1000)
    assert (report.latency_kind, report.latency_ms) == ("vendor_estimate", 0.0625)  # 62,500 cycles at 1 GHz
    assert report.operators == {"NPU": 1, "NPU + CPU": 1, "CPU": 1}
    assert report.fits
    assert "not a measurement" in report.provenance
    assert "2 of 3 epochs need the CPU (1 x QuantizeLinear, 1 x Softmax), whose time" in "\n".join(report.notes)
    assert [layer["latency_ms"] for layer in report.details["layers"]] == [0.06, 0.002, 0.0005]
    assert {"name": "npuRAM5", "bytes": 458752} in report.details["pools"]
    (call,) = tool.calls("analyze")
    options = " ".join(call["argv"])
    assert "--target stm32n6 " in options
    assert options.endswith("--st-neural-art")  # the tool's own profile
    assert options.isascii()
    assert call["stdin"] == ""


def test_a_cortex_m_has_no_latency_until_a_board_ran_it(stand_in: Install, bench: Bench) -> None:
    tool = stand_in(npu=False)
    report = bench(tool, H7, optimization="ram", profile="fast")
    assert "tools.stedgeai.profile is for the Neural-ART compiler, and STM32H747I-DISCO has no NPU" in report.notes
    assert (report.latency_ms, report.latency_kind, report.latency_reason) == (
        None, "none", "compiling for a Cortex-M tells no time; a board has to run it"
    )  # fmt: skip
    assert report.operators == {"CPU": 2}
    assert "ST's runtime takes 0.5 KiB of RAM and 9.8 KiB of flash" in "\n".join(report.notes)
    assert tool.calls("analyze")[0]["argv"][-4:] == [
        "--workspace",
        tool.calls("analyze")[0]["argv"][-3],
        "--optimization",
        "ram",
    ]


def test_validate_on_a_board_measures(stand_in: Install, bench: Bench) -> None:
    tool = stand_in(npu=False)
    report = bench(tool, H7, validate_on="board", serial="serial:COM4")
    assert (report.latency_ms, report.latency_kind) == (12.345, "measured")
    assert "10 inferences took 12.3 to 12.4 ms on stm32n6xx" in "\n".join(report.notes)
    assert tool.calls("validate")[0]["argv"][-4:] == ["--mode", "target", "--desc", "serial:COM4:115200"]
    assert tool.calls("generate")
    assert not tool.calls("analyze")


def test_validate_on_this_computer_measures_nothing(stand_in: Install, bench: Bench) -> None:
    metrics = {"ts_name": "c", "desc": "C code #1", "acc": 100, "rmse": 0.004, "mae": None, "l2r": 0.001}
    tool = stand_in(npu=False, validation={"val_metrics": [metrics], "val_error": 0.001, "val_error_desc": "L2r"})
    report = bench(tool, H7, validate_on="host")
    assert (report.latency_ms, report.latency_kind) == (None, "none")
    assert "C code #1: acc 100, rmse 0.004, l2r 0.001" in report.notes
    assert report.details["comparisons"]["C code #1"]["rmse"] == 0.004
    assert tool.calls("validate")[0]["argv"][-2:] == ["--mode", "host"]
    with pytest.raises(ConfigError, match="nothing emulates the NPU"):
        bench(tool, N6, validate_on="host")


LOADER = """\
import json, sys
config = sys.argv[sys.argv.index("--n6-loader-config") + 1]
with open(config) as file:
    given = json.load(file)
with open("loaded.json", "w") as file:
    json.dump(given, file)
print(given.get("say", ""))
sys.exit(given.get("exit", 0))
"""


def loader(tool: Any, config: str | None) -> Path:
    folder: Path = tool.folder / "scripts" / "N6_scripts"
    folder.mkdir(parents=True)
    (folder / "n6_loader.py").write_text(LOADER)
    if config is not None:
        (folder / "config_n6l.json").write_text(config)
    return folder


def test_an_n6_is_loaded_by_sts_script_before_it_runs(stand_in: Install, bench: Bench) -> None:
    tool = stand_in("3.0")
    folder = loader(
        tool, '// for the loader\n{"network.c": "C:/old//network.c", /* which */ "project_build_conf": "N6-DK",\n}'
    )
    report = bench(tool, validate_on="board", profile="default")
    assert (report.latency_ms, report.latency_kind) == (12.345, "measured")
    assert {(layer["latency_ms"], layer["cycles"] > 0) for layer in report.details["layers"]} == {(None, True)}
    assert "measured" in bench_page([report])  # and no time of a layer beside it, which would be the compiler's
    loaded = json.loads((folder / "loaded.json").read_text())
    assert loaded["project_build_conf"] == "N6-DK"
    assert loaded["network.c"].endswith("/out/network.c")
    generated, validated = tool.calls("generate")[0]["argv"], tool.calls("validate")[0]["argv"]
    assert validated == ["validate", *generated[1:], "--mode", "target", "--desc", "serial:921600"]  # the same options
    assert generated[-2:] == ["--st-neural-art", "default"]


def test_a_board_that_cannot_be_loaded_is_told(stand_in: Install, bench: Bench) -> None:
    tool = stand_in()
    with pytest.raises(ToolFailure, match=r"there is no .*n6_loader\.py"):
        bench(tool, validate_on="board")
    folder = loader(tool, '{"say": "Error: No STM32 target found", "exit": 1}')
    with pytest.raises(
        ToolFailure, match=r"n6_loader\.py can't reach the board: Error: No STM32 target found"
    ) as failure:
        bench(tool, validate_on="board")
    assert failure.value.kind == "board"
    assert failure.value.log is not None
    assert "No STM32 target" in failure.value.log.read_text()
    (folder / "config_n6l.json").write_text("{")
    with pytest.raises(ToolFailure, match=r"config_n6l\.json can't be read"):
        bench(tool, validate_on="board")


def test_validate_that_fails_and_ends_with_success_has_failed(stand_in: Install, bench: Bench) -> None:
    tool = stand_in(npu=False)
    tool.fault("validate", output=" E801(HwIOError): Invalid firmware - COM6:115200\nValidation ended\n")
    with pytest.raises(ToolFailure, match="Invalid firmware") as failure:
        bench(tool, H7, validate_on="board")
    assert failure.value.kind == "board"


def test_a_profile_file_and_a_memory_pool_become_absolute(stand_in: Install, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(
        '{"Profiles": {"fast": {"memory_pool": "pools/a.mpool", "options": "--O3 //"}}} // ours'
    )
    tool = stand_in()
    # the tool's copy is gone with its folder: look at it while it runs
    tool.program.write_text(tool.program.read_text().replace(
        "command = sys.argv[1]\n",
        "command = sys.argv[1]\nif '@' in sys.argv[-1]: shutil.copy(sys.argv[-1].split('@')[1], answers)\n", 1))  # fmt: skip
    bench(tool, profile=f"fast@{tmp_path / 'mine.json'}")
    made = json.loads((tool.answers / "neural_art.json").read_text())["Profiles"]["fast"]
    assert made == {"memory_pool": str(tmp_path / "pools" / "a.mpool"), "options": "--O3 //"}
    bench(tool, profile=f"fast@{tmp_path / 'mine.json'}", memory_pool=tmp_path / "b.mpool")
    assert json.loads((tool.answers / "neural_art.json").read_text())["Profiles"]["fast"]["memory_pool"].endswith(
        "b.mpool"
    )
    bench(tool, memory_pool=tmp_path / "b.mpool")
    assert "stdet" in json.loads((tool.answers / "neural_art.json").read_text())["Profiles"]
    with pytest.raises(ConfigError, match="has no profile slow\nhint: it has: fast"):
        bench(tool, profile=f"slow@{tmp_path / 'mine.json'}")
    with pytest.raises(ConfigError, match="has a memory pool of its own"):
        bench(tool, profile="default", memory_pool=tmp_path / "b.mpool")
    core = stand_in("3.0", npu=False)
    bench(core, H7, memory_pool=tmp_path / "b.mpool")
    assert core.calls("analyze")[0]["argv"][-2:] == ["--memory-pool", str(tmp_path / "b.mpool")]


def test_logs_and_reports_stay_whether_it_works_or_not(stand_in: Install, bench: Bench, tmp_path: Path) -> None:
    tool = stand_in()
    bench(tool)
    kept = tmp_path / "logs" / "stedgeai" / "float"
    assert sorted(p.name for p in kept.iterdir()) == [
        "analyze.log", "network_analyze_report.txt", "network_c_info.json", "version.log"
    ]  # fmt: skip
    tool.fault("analyze", output="E103(X): no more\n", returncode=1)
    with pytest.raises(ToolFailure, match=f"its log is {kept}_1/analyze.log"):
        bench(tool)
    assert (
        "no more" in (kept.with_name("float_1") / "analyze.log").read_text()
    )  # another file of the same name may be benched


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"sleep": 60}, "timeout"),
        ({"leave_out": ["c_info.json"]}, "damaged_report"),
        ({"leave_out": ["analyze_report.txt"]}, "damaged_report"),
        ({"output": "Unsupported layer types: Einsum\n", "returncode": 1}, "operator"),
        ({"output": "not enough memory in hyperRAM\n", "returncode": 1}, "memory"),
        ({"returncode": 139}, "failed"),
    ],
)
def test_every_fault_has_its_kind(stand_in: Install, bench: Bench, fault: dict[str, Any], kind: str) -> None:
    tool = stand_in()
    tool.fault("analyze", **fault)
    with pytest.raises(ToolFailure) as failure:
        bench(tool, timeout_s=2)
    assert failure.value.kind == kind
    assert failure.value.hint


def test_a_schema_of_the_future_is_no_result(stand_in: Install, bench: Bench) -> None:
    with pytest.raises(ToolFailure, match=r"schema version '9\.9'"):
        bench(stand_in(json_schema_version="9.9"))


def test_a_pool_that_is_too_full_does_not_fit(stand_in: Install, bench: Bench, c_info: Any) -> None:
    pools = c_info()["memory_pools"]
    pools[0]["used_size_bytes"] = 500000
    report = bench(stand_in(memory_pools=pools))
    assert report.fits is False
    assert [(o.memory, o.needed_bytes, o.available_bytes) for o in report.overflows] == [("npuRAM5", 500000, 458752)]


def test_nothing_of_the_scratch_folder_stays(
    stand_in: Install, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    tool = stand_in()
    bench(tool)
    tool.fault("analyze", returncode=1)
    with pytest.raises(ToolFailure):
        bench(tool)
    assert not list((tmp_path / "temporary").iterdir())
    assert stat.S_ISDIR((tmp_path / "logs").stat().st_mode)
