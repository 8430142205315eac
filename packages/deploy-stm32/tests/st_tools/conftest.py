"""An executable stand-in for ST Edge AI Core: it answers with hand-made files in the documented formats, or with a fault."""

from __future__ import annotations

import copy
import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

VERSIONS = {"2.0": "2.0.0", "2.1": "2.1.0-20194 329b0e98d", "2.2": "2.2.0-20266 2adc00962", "3.0": "3.0.0-20426 0123abcd",
            "4.0": "4.0.1-20581 7ed50de05"}  # fmt: skip
PROGRAM = """\
#!{python} -IS
import json, os, shutil, subprocess, sys, time
here = os.path.dirname(os.path.abspath(__file__))
answers = os.path.join(here, "answers")
with open(os.path.join(answers, "calls.jsonl"), "a") as file:
    file.write(json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "stdin": sys.stdin.read()}}) + "\\n")
with open(os.path.join(answers, "faults.json")) as file:
    faults = json.load(file)
command = sys.argv[1]
fault = faults.get(command, {{}})
if "child" in fault:
    subprocess.Popen([sys.executable, "-c", fault["child"]])
if command == "--version":
    print(open(os.path.join(answers, "version.txt")).read())
sys.stdout.write(fault.get("output", ""))
sys.stdout.flush()
time.sleep(fault.get("sleep", 0))
if fault.get("returncode"):
    sys.exit(fault["returncode"])
if command != "--version":
    out = sys.argv[sys.argv.index("--output") + 1]
    os.makedirs(out, exist_ok=True)
    for name, source in (("c_info.json", "c_info.json"), (command + "_report.txt", command + ".txt")):
        if name not in fault.get("leave_out", ()):
            shutil.copyfile(os.path.join(answers, source), os.path.join(out, "network_" + name))
    open(os.path.join(out, "network.c"), "w").write("/* C */")
"""


@dataclass
class StandIn:
    """Attributes:
    folder: of the installation.
    program: in it.
    """

    folder: Path
    program: Path

    @property
    def answers(self) -> Path:
        return self.program.parent / "answers"

    def fault(self, command: str, **fault: Any) -> None:
        """From now on `command` fails: `output`, `returncode`, `sleep` (s), `child` (Python), `leave_out` (files)."""
        path = self.answers / "faults.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {command: fault}))

    def calls(self, command: str) -> list[dict[str, Any]]:
        """How `command` was called so far."""
        lines = (self.answers / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["argv"][0] == command]


@pytest.fixture
def stand_in(
    tmp_path: Path, texts: Callable[..., str], c_info: Callable[..., dict[str, Any]]
) -> Callable[..., StandIn]:
    """Installs a version."""

    def install(version: str = "2.2", npu: bool = True, **changes: Any) -> StandIn:
        folder = tmp_path / "STEdgeAI" / version
        program = folder / "Utilities" / "linux" / "stedgeai"
        answers = program.parent / "answers"
        answers.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        full = VERSIONS.get(version, version)
        (answers / "version.txt").write_text(f"ST Edge AI Core v{full}\nSTM32CubeAI 10.2.0-RC1\n")
        (answers / "faults.json").write_text("{}")
        (answers / "c_info.json").write_text(json.dumps(c_info(npu, full, **changes)))
        for command in ("analyze", "generate", "validate"):
            (answers / f"{command}.txt").write_text(texts(command, full, npu))
        return StandIn(folder, program)

    return install


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEDGEAI_CORE_DIR", "STM32_AI_EXE", "STM_AI_EXE", "STEDGEAI_CLOUD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "stedgeai").exists())
    monkeypatch.setenv("PATH", path)


def _pool(number: int, name: str, address: int | str, size: int, used: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": name, "address": str(address), "size_bytes": size, "used_size_bytes": used,
            "rights": "ACC_WRITE", "subpools": [], "buffers": [], "offset_start": 0} | more  # fmt: skip


def _buffer(number: int, pool: int, offset: int, size: int, life: tuple[int, int], shape: list[int], param: bool = False,
            ) -> dict[str, Any]:  # fmt: skip
    return {"id": number, "name": f"buffer_{number}", "mpool_id": pool, "offset_start": offset, "size_bytes": size,
            "epochs": {"start": life[0], "end": life[1]}, "shape": shape, "is_param": param, "nbits": 8}  # fmt: skip


def _node(number: int, name: str, mapping: str, inputs: list[int], outputs: list[int], kind: str = "", macc: int = 0,
          nested: list[dict[str, Any]] | None = None) -> dict[str, Any]:  # fmt: skip
    return {"id": number, "name": name, "mapping": mapping, "inputs": inputs, "outputs": outputs, "type": kind, "macc": macc,
            "subgraph_nodes": nested or [], "sw_functions": [], "scratchs": [], "original_nodes": []}  # fmt: skip


def _tools(version: str, npu: bool) -> list[dict[str, Any]]:
    core = {"name": "ST.EdgeAI.Core", "version": version, "arguments": "analyze --model /home/somebody/m.onnx"}
    return [core, *([{"name": "ATONN Compiler", "version": "1.1.3-8", "arguments": ""}] if npu else [])]


def _on_npu(version: str) -> dict[str, Any]:
    """A convolution on the NPU, a softmax on the CPU, and an epoch of the epoch controller that holds both."""
    conv = _node(12, "Conv2D_4", "NODE_HW", [1, 9], [], "Conv")
    bias = _node(13, "Conv2D_4_bias", "NODE_HW", [], [2], "Add")
    softmax = _node(15, "Softmax_7", "NODE_SW_INTEGER", [2], [3], "Softmax")
    last = _node(17, "Quantize_8", "NODE_SW", [3], [4], "QuantizeLinear")
    if version.startswith("2.2"):
        del last["type"]
    return {
        "json_schema_version": "2.0",
        "environment": {"tools": _tools(version, True), "generated_model": {}, "test_name": ""},
        "memory_footprint": {"weights": 5000, "activations": 3000, "io": [0, 0], "kernel_flash": None, "kernel_ram": None,
                             "series": "generic", "toolchain": None, "toolchain_flash": None, "toolchain_ram": None},
        "memory_pools": [
            _pool(1, "npuRAM5", 0x342E0000, 458752, 2000), _pool(2, "hyperRAM", 0x90000000, 33554432, 1000),
            _pool(3, "octoFlash", 0x71000000, 117440512, 5000, rights="ACC_READ"),
            _pool(4, "npuRAM4_npuRAM5", 0x34270000, 917504, 917504, subpools=[1]),
        ],
        "buffers": [
            _buffer(1, 1, 0, 1200, (0, 1), [1, 3, 20, 20]), _buffer(2, 1, 1200, 800, (1, 2), [1, 2, 20, 20]),
            _buffer(3, 2, 0, 1000, (2, 3), [1, 2]), _buffer(4, 1, 0, 2, (3, 4), [1, 2]),
            _buffer(9, 3, 0, 5000, (0, 1), [8, 3, 3, 3], param=True),
        ],
        "graphs": [{"id": 1, "name": "network", "inputs": [1], "outputs": [4], "edges": [], "nodes": [
            _node(10, "epoch_0", "NODE_NO_X", [], [], nested=[_node(11, "w", "NODE_NO_X", [], [], "Param")]),
            _node(14, "epoch_1", "NODE_HW", [1, 9], [2], nested=[conv, bias]),
            _node(16, "epoch_2", "NODE_EC", [2], [3], nested=[softmax, copy.deepcopy(conv)]),
            _node(18, "epoch_3", "NODE_SW", [3], [4], nested=[last]),
        ]}],
        "power_estimates": [{"node_id": 10, "max_cycles": 0}, {"node_id": 14, "max_cycles": 60000},
                            {"node_id": 16, "max_cycles": 2000}, {"node_id": 18, "max_cycles": 500}],
    }  # fmt: skip


def _on_core(version: str) -> dict[str, Any]:
    """Two layers of C code, the second written over the first."""
    return {
        "json_schema_version": "2.0",
        "environment": {"tools": _tools(version, False)},
        "memory_footprint": {"weights": 7000, "activations": 2400, "io": [0], "kernel_flash": 9000, "kernel_ram": 500,
                             "toolchain_flash": 1000, "toolchain_ram": 12, "series": "stm32h7", "toolchain": "GCC"},
        "memory_pools": [_pool(0, "AI_RAM", "NULL", -1, 2400), _pool(1, "weights", "NULL", -1, 7000, rights="ACC_READ")],
        "buffers": [
            _buffer(1, 0, 0, 1200, (0, 4), [20, 20, 3]), _buffer(2, 0, 1200, 800, (4, 7), [20, 20, 2]),
            _buffer(3, 0, 1200, 800, (7, 9), [20, 20, 2]), _buffer(9, 1, 0, 7000, (0, 1), [8, 3, 3, 3], param=True),
        ],
        "graphs": [{"id": 0, "name": "m", "inputs": [1], "outputs": [3], "edges": [], "nodes": [
            _node(8, "conv2d", "NODE_SW", [1, 9], [2], "Conv2D", 90000),
            _node(9, "nl", "NODE_SW", [2], [3], "Nonlinearity", 800),
        ]}],
    }  # fmt: skip


@pytest.fixture
def c_info() -> Callable[..., dict[str, Any]]:
    """`network_c_info.json` for an NPU or a Cortex-M; `changes` replace what is at the top."""

    def build(npu: bool = True, version: str = VERSIONS["3.0"], **changes: Any) -> dict[str, Any]:
        return (_on_npu(version) if npu else _on_core(version)) | changes

    return build


MEMORY = """\
Memory usage information  (input/output buffers are included in activations)
------------------------------------------------------------------------------------
\tcpuRAM1    [0x34064000 - 0x34064000]:          0  B /          0  B  (  0.00 % used) -- weights:          0  B
\tnpuRAM5    [0x342E0000 - 0x34350000]:     1.953 kB /    448.000 kB  (  0.44 % used) -- weights:          0  B
\toctoFlash  [0x71000000 - 0x78000000]:     4.883 kB /    112.000 MB  (  0.00 % used) -- weights:      4.883 kB
---
Total:                                          6.836 kB                                  -- weights:      4.883 kB

Used memory ranges
\tnpuRAM5    [0x342E0000 - 0x34350000]: 0x342E0000-0x342E07D0
"""
EPOCHS_2 = """\
Epochs details
------------------------------------------------------------------------------------
Total number of epochs: 3 of which 2 implemented in software
---
epoch ID   HW/SW/EC Operation (SW only)
epoch 1       HW
epoch 2      -SW-   (     Softmax      )
epoch 3      -SW-   (   QuantizeLinear   )
"""
EPOCHS_3 = """\
Epochs details
------------------------------------------------------------------------------------
Total number of epochs                               3
>> pure software (SW) epochs                          1
>> hybrid epochs (using both software and hardware)   1
>> pure hardware (HW or EC) epochs                    1  (implemented in 0 epoch controller blobs/meta epochs)
---
+----------+--------+----------------+
| epoch ID |  Type  |    Details     |
+----------+--------+----------------+
| epoch_1  |   HW   |                |
| epoch_2  | HYBRID | Softmax        |
| epoch_3  |   SW   | QuantizeLinear |
+----------+--------+----------------+
"""
RAN = """\
  device.desc         :   stm32n6xx - STM32N657 @800/400MHz
  ST.AI Profiling results v2.0 - "network"
  ------------------------------------------------------------
  nb sample(s)   :   10
  duration       :   12.345 ms by sample (12.300/12.400/0.020)
  macc           :   90800
"""


@pytest.fixture
def texts() -> Callable[..., str]:
    """`network_COMMAND_report.txt` of a version."""

    def build(command: str, version: str, npu: bool) -> str:
        head = f"ST Edge AI Core v{version}\nCreated date          : 2026-05-14 22:14:18\nParameters    : {command}\n\n"
        layers = "model: macc=90,800 weights=20,000 activations=-- io=--\n\n"
        epochs = (EPOCHS_2 if version.startswith("2") else EPOCHS_3) if npu else ""
        return head + layers + (MEMORY + "\n" + epochs if npu else "") + (RAN if command == "validate" else "")

    return build
