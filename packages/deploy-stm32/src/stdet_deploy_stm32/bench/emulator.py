"""The network's C code on an emulated Cortex-M: the same answers as on this computer, and how many instructions they take.

`emx-onnx-cgen` turns the ONNX file into C, GCC compiles it for this computer and for the core, QEMU runs it without a
board. Instructions are counted by the core's own timer in QEMU's deterministic mode, one instruction a nanosecond. QEMU has
no model of caches, wait states or dual issue: the counts tell versions of code apart, and never become milliseconds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from stdet.errors import ModelError, StdetError
from stdet_deploy_stm32.firmware import c_sources
from stdet_deploy_stm32.firmware.facts import Tensor, elements, tensors_of
from stdet_deploy_stm32.firmware.generated import C_TYPES
from stdet_deploy_stm32.onnx_graph.view import load_model

TIMEOUT_S = 900.0
OPTIMIZATION = ("-O2", "-ffp-contract=off")
"""Without contraction every core rounds as this computer does."""
ARM_GCC, ARM_SIZE, QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
INSTALL = {
    "gcc": "apt-get install gcc",
    "size": "apt-get install binutils",
    ARM_SIZE: "apt-get install binutils-arm-none-eabi",
    ARM_GCC: "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    QEMU: "apt-get install qemu-system-arm",
    "emx-onnx-cgen": "pip install 'stdet-deploy-stm32[emulator]'",
}


@dataclass(frozen=True)
class Machine:
    """A core and the emulated machine around it.

    Attributes:
        core: as boards name it.
        name: QEMU's name of the machine.
        flags: of GCC.
        ram_origin, ram_bytes: memory that holds code and data.
        clock_hz: of the timer, where one instruction takes a nanosecond.
    """

    core: str
    name: str
    flags: tuple[str, ...]
    ram_origin: int
    ram_bytes: int
    clock_hz: int

    def instructions(self, ticks: int) -> int:
        """Instructions in so many ticks of the timer; exact to one tick (31 or 40 instructions)."""
        return round(ticks * Fraction(10**9, self.clock_hz))


MIB = 1 << 20
MACHINES = {
    machine.core: machine
    for machine in (
        Machine("Cortex-M55", "mps3-an547", ("-mcpu=cortex-m55",), 0x60000000, 1024 * MIB, 32_000_000),
        Machine("Cortex-M7", "mps2-an500", ("-mcpu=cortex-m7", "-mfpu=fpv5-d16"), 0x60000000, 16 * MIB, 25_000_000),
        Machine("Cortex-M4", "mps2-an386", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), 0x21000000, 16 * MIB, 25_000_000),
    )
}


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes:
        machine: None for this computer.
        path: of the executable; it runs in its folder.
        code_bytes: of instructions and constants in the code.
        data_bytes: of variables, weights included; what is allocated while it runs is not.
    """

    machine: Machine | None
    path: Path
    code_bytes: int
    data_bytes: int


@dataclass(frozen=True)
class Ran:
    """Attributes:
    outputs: of each input, in the order and types of the model file.
    boxes: of each input, as rows of `BOX`; empty without post-processing.
    network, postprocess: instructions of each input; empty on this computer.
    """

    outputs: tuple[tuple[np.ndarray, ...], ...]
    boxes: tuple[np.ndarray, ...]
    network: tuple[int, ...]
    postprocess: tuple[int, ...]


BOX = np.dtype([("box", "<f4", 4), ("score", "<f4"), ("label", "<i4")])
"""`stdet_detection_t`."""


class CNetwork:
    """The C code of one model file, in a folder of its own."""

    def __init__(self, model: Path, folder: Path, firmware: Path | None = None) -> None:
        """Translates the model.

        Args:
            model: ONNX file.
            folder: for all that is made; exists.
            firmware: a deploy folder; its post-processing then runs behind the network.

        Raises:
            StdetError: `emx-onnx-cgen` isn't installed.
            ModelError: it can't translate the model, or the model isn't one input with at most two outputs.
        """
        self.folder, self.firmware = folder, firmware
        graph = load_model(model)
        inputs, self.outputs = tensors_of(graph)
        if len(inputs) != 1 or len(self.outputs) > 2:
            raise ModelError(
                f"{model} has {len(inputs)} inputs and {len(self.outputs)} outputs",
                "the emulator runs detectors: one input, one or two outputs",
            )
        self.input = inputs[0]
        self._objects: dict[tuple[str, ...], str] = {}
        self.emx_version = _emx_version()
        _leave_out_empty_regions(graph)
        onnx.save(graph, folder / "network.onnx")
        command = [sys.executable, "-m", "emx_onnx_cgen", "compile", "network.onnx", "network.c", "--model-name", "emx"]
        done = subprocess.run(
            [*command, "--no-restrict-arrays"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ModelError(f"emx-onnx-cgen can't translate {model}: {_last_lines(done)}", "see its list of operators")
        self._write_sources()

    def _write_sources(self) -> None:
        own = files("stdet_deploy_stm32.bench") / "emulated"
        for name in ("start.c", "harness.c"):
            (self.folder / name).write_text((own / name).read_text(encoding="ascii"), encoding="ascii")
        (self.folder / "network.h").write_text(c_sources()["network.h"], encoding="ascii")
        (self.folder / "sizes.h").write_text(_sizes(self.input, self.outputs), encoding="ascii")
        weights = (self.folder / "emx.bin").exists()
        adapter = network_adapter(self.input, self.outputs, weights)
        (self.folder / "network_emx.c").write_text(adapter, encoding="ascii")

    def build(
        self, machine: Machine | None, *, example: bool = False, optimization: Sequence[str] = OPTIMIZATION
    ) -> Program:
        """Compiles for a machine, or for this computer.

        Args:
            example: `main.c` of the deploy folder, in the place of what feeds one input after the other.
            optimization: GCC's options; the answers don't depend on them, the instructions do.

        Raises:
            StdetError: a compiler is missing, or the code doesn't fit the machine's memory.
        """
        program = self.folder / ((machine.name if machine else "host") + ("_example" if example else ""))
        compiler = tool("gcc" if machine is None else ARM_GCC)
        sources = ["network_emx.c"] if example else ["network_emx.c", "harness.c"]
        flags = list(optimization)
        if self.firmware is not None:
            sources += [str(path.resolve()) for path in sorted(self.firmware.glob("stdet_*.c"))]
            sources += [str((self.firmware / "main.c").resolve())] if example else []
            flags += ["-DSTDET_BOXES", f"-I{self.firmware.resolve()}"]
        core = [*machine.flags, "-mthumb", "-mfloat-abi=hard"] if machine else []
        translated = self._translated(compiler, [*optimization, *core])
        if machine is not None:
            script = (files("stdet_deploy_stm32.bench") / "emulated" / "machine.ld").read_text(encoding="ascii")
            script = script.replace("@ORIGIN@", hex(machine.ram_origin)).replace("@LENGTH@", hex(machine.ram_bytes))
            (self.folder / f"{machine.name}.ld").write_text(script, encoding="ascii")
            flags += [*core, "--specs=rdimon.specs", "-nostartfiles", f"-T{machine.name}.ld"]
            sources.append("start.c")
        self._compile([compiler, *flags, translated, *sources, "-o", program.name, "-Wl,--wrap=malloc", "-lm"])
        return Program(machine, program, *_sections(program, machine))

    def _translated(self, compiler: str, flags: Sequence[str]) -> str:
        """The object file of the network itself, which takes the time; compiled once for each core."""
        key = (compiler, *flags)
        if key not in self._objects:
            name = f"network_{len(self._objects)}.o"
            self._compile([*key, "-c", "network.c", "-o", name])
            self._objects[key] = name
        return self._objects[key]

    def _compile(self, command: Sequence[str]) -> None:
        done = _run(command, self.folder)
        if done.returncode:
            raise StdetError(
                f"the C code of the network doesn't build with {Path(command[0]).name}: {_last_lines(done)}",
                "the folder keeps the sources; a network that is too large for the emulated memory fails here, too",
            )

    def run_example(self, program: Program, picture: Path) -> list[str]:
        """The lines that `main.c` of the deploy folder prints of a picture, a binary PPM.

        Raises:
            StdetError: as `run`.
        """
        (self.folder / "test_vector").mkdir(exist_ok=True)
        shutil.copyfile(picture, self.folder / "test_vector" / "picture.ppm")
        return self._start(program).stdout.splitlines()

    def run(self, program: Program, inputs: Sequence[np.ndarray]) -> Ran:
        """Feeds inputs one after the other.

        Args:
            inputs: in the type and shape of the model's input.

        Raises:
            StdetError: QEMU is missing, or the program didn't end by itself with success.
        """
        fed = b"".join(np.ascontiguousarray(array, self.input.dtype).tobytes() for array in inputs)
        (self.folder / "inputs.bin").write_bytes(fed)
        for name in ("outputs.bin", "counts.bin", "boxes.bin"):
            (self.folder / name).unlink(missing_ok=True)
        self._start(program)
        return self._read(program, len(inputs))

    def _start(self, program: Program) -> subprocess.CompletedProcess[str]:
        command = [str(program.path.resolve())]
        if program.machine is not None:
            command = [tool(QEMU), "-M", program.machine.name, "-nographic", "-monitor", "none", "-serial", "none"]
            command += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0"]
            command += ["-kernel", program.path.name]
        done = _run(command, self.folder)
        if done.returncode:
            reason = {3: "the weights can't be read, or memory ran out", 99: "the core met a fault"}
            raise StdetError(
                f"the network ended with {done.returncode} on {program.path.name}: "
                f"{reason.get(done.returncode, _last_lines(done))}",
                "a core with 16 MiB takes small networks only; the Cortex-M55 has 1 GiB here",
            )
        return done

    def _read(self, program: Program, count: int) -> Ran:
        data, at, outputs = (self.folder / "outputs.bin").read_bytes(), 0, []
        for _ in range(count):
            answer = []
            for tensor in self.outputs:
                answer.append(np.frombuffer(data, tensor.dtype, elements(tensor), at).reshape(tensor.shape))
                at += answer[-1].nbytes
            outputs.append(tuple(answer))
        boxes: list[np.ndarray] = []
        if self.firmware is not None:
            data, at = (self.folder / "boxes.bin").read_bytes(), 0
            for _ in range(count):
                number = int(np.frombuffer(data, np.int32, 1, at)[0])
                boxes.append(np.frombuffer(data, BOX, number, at + 4))
                at += 4 + boxes[-1].nbytes
        ticks = np.fromfile(self.folder / "counts.bin", np.uint64).reshape(-1, 2)
        machine = program.machine
        network, post = (tuple(machine.instructions(int(t)) for t in c) if machine else () for c in ticks.T)
        return Ran(tuple(outputs), tuple(boxes), network, post if self.firmware is not None else ())


def _leave_out_empty_regions(model: ModelProto) -> None:
    """A Resize may name a region of interest without elements, which means none; emx-onnx-cgen 1.4 wants no name then."""
    empty = {tensor.name for tensor in model.graph.initializer if 0 in tensor.dims}
    for node in model.graph.node:
        if node.op_type == "Resize" and len(node.input) > 1 and node.input[1] in empty:
            node.input[1] = ""


def network_adapter(input: Tensor, outputs: Sequence[Tensor], weights: bool) -> str:
    """`network_run` of `network.h` around the function that emx-onnx-cgen writes.

    Where memory runs out, that function returns without a word; the program then ends with 3.

    Args:
        weights: whether they lie in a file of their own, which is read at the first run.
    """
    prototype = ", ".join(
        _parameter(t, "const " if t is input else "", f"a{i}") for i, t in enumerate((input, *outputs))
    )
    calls = [f"({_pointer(input, 'const ')})input", *(f"({_pointer(t)})outputs[{i}]" for i, t in enumerate(outputs))]
    load = """\
    static int loaded;
    if (!loaded && !emx_load("emx.bin")) {
        return -1;
    }
    loaded = 1;
"""
    return f"""\
#include "network.h"

#include <stdint.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{{
    void *found = __real_malloc(size);
    if (!found && size) {{
        exit(3);
    }}
    return found;
}}

_Bool emx_load(const char *path);
void emx({prototype});

int network_run(const void *input, void *const outputs[])
{{
{load if weights else ""}    emx({", ".join(calls)});
    return 0;
}}
"""


def _parameter(tensor: Tensor, qualifier: str, name: str) -> str:
    return f"{qualifier}{C_TYPES[tensor.dtype.name]} {name}" + "".join(f"[{side}]" for side in tensor.shape)


def _pointer(tensor: Tensor, qualifier: str = "") -> str:
    sides = "".join(f"[{side}]" for side in tensor.shape[1:])
    return f"{qualifier}{C_TYPES[tensor.dtype.name]} (*){sides}"


def _sizes(input: Tensor, outputs: Sequence[Tensor]) -> str:
    lines = [f"#define INPUT_BYTES {elements(input) * input.dtype.itemsize}", f"#define OUTPUTS {len(outputs)}"]
    lines += [f"#define OUTPUT_{i}_BYTES {elements(t) * t.dtype.itemsize}" for i, t in enumerate(outputs)]
    return "\n".join([*lines, ""])


def check_tools(machine: Machine | None) -> None:
    """Whether all is here that building and running C code takes.

    Args:
        machine: to emulate; None to run on this computer only.

    Raises:
        StdetError: a tool is missing.
    """
    _emx_version()
    for name in ("gcc", "size") if machine is None else ("gcc", "size", ARM_GCC, ARM_SIZE, QEMU):
        tool(name)


def tool(name: str) -> str:
    """Path of a program.

    Raises:
        StdetError: it isn't installed.
    """
    found = shutil.which(name)
    if found is None:
        raise StdetError(f"the network's C code needs {name}, which isn't here", INSTALL[name])
    return found


def _emx_version() -> str:
    try:
        return version("emx-onnx-cgen")
    except PackageNotFoundError as error:
        raise StdetError(
            "the network's C code needs emx-onnx-cgen, which isn't here", INSTALL["emx-onnx-cgen"]
        ) from error


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StdetError(
            f"{Path(command[0]).name} took more than {TIMEOUT_S:.0f} s", "try a smaller network"
        ) from error


def _last_lines(done: subprocess.CompletedProcess[str], count: int = 3) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or f"exit code {done.returncode}"


def _sections(program: Path, machine: Machine | None) -> tuple[int, int]:
    """Bytes of code with its constants, and of variables."""
    size = tool(ARM_SIZE if machine else "size")
    text, data, bss = _run([size, str(program.resolve())], program.parent).stdout.splitlines()[1].split()[:3]
    return int(text), int(data) + int(bss)
