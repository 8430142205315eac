"""The deploy target of every STM32 board: one class, one profile a board."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from stdet.errors import StdetError
from stdet.interfaces import target
from stdet.interfaces.deploy import (
    BenchReport,
    CalibrationData,
    Deployment,
    DeployReport,
    DeployTarget,
    Evaluator,
    PlacedNetwork,
    Progress,
    QuantizationResult,
)
from stdet.interfaces.target import TargetSections
from stdet_deploy_stm32.bench.cloud import bench_cloud, job_of
from stdet_deploy_stm32.bench.emulation import bench_emulator, machine_of, open_folder
from stdet_deploy_stm32.bench.emulator import check_tools
from stdet_deploy_stm32.bench.estimate import estimate
from stdet_deploy_stm32.bench.host import bench_host
from stdet_deploy_stm32.bench.places import PLACES
from stdet_deploy_stm32.bench.stedgeai import bench_stedgeai, check_keys
from stdet_deploy_stm32.boards import Board, boards
from stdet_deploy_stm32.firmware.folder import write_folder
from stdet_deploy_stm32.firmware.readme import Destination
from stdet_deploy_stm32.mpool import with_pools
from stdet_deploy_stm32.onnx_graph.session import running
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.section import GeneralQuantization
from stdet_deploy_stm32.sections import OnBoard, Stedgeai
from stdet_deploy_stm32.st_tools import ai_runner
from stdet_deploy_stm32.st_tools.cloud_token import find_token
from stdet_deploy_stm32.st_tools.stedgeai import find


class Stm32Target(DeployTarget):
    """A board of `boards.json`."""

    def __init__(self, board: Board, sections: TargetSections | None = None) -> None:
        self.sections = sections or TargetSections()
        self.board = with_pools(board, getattr(self.sections.benchmarking, "memory_pool", None))
        self.name = board.name

    def quantize(
        self,
        model: Path,
        output: Path,
        calibration: CalibrationData | None,
        config: target.Quantization,
        progress: Progress | None = None,
        evaluator: Evaluator | None = None,
    ) -> QuantizationResult:
        """See `quantize.modes`; the form is the same for all boards."""
        assert isinstance(config, GeneralQuantization)
        with running(model):
            return run_mode(Job(model, output, calibration, config, progress, evaluator))

    def assess(self, model: Path) -> BenchReport:
        """As the backend `estimate`."""
        return estimate(model, self.board)

    def bench(self, model: Path, backend: str, progress: Progress | None = None) -> BenchReport:
        """Run one backend on `model`: `host` measures on this computer, `estimate` counts, `emulator` runs C code,
        `stedgeai` is ST's tool, `cloud` that of ST's board farm.

        Raises:
            StdetError: unknown backend.
            ArtifactError: the file can't be read or run.
            ModelError: its shapes aren't static.
        """
        known = self._backends()
        if backend not in known:
            raise StdetError(f"target {self.name} has no bench backend `{backend}`", f"available: {', '.join(known)}")
        with running(model):
            return known[backend](model, progress)

    def check_tools(self, backends: Collection[str], places: Collection[str]) -> None:
        """C code takes a translator and compilers; the emulator takes itself, a board whose core it has, and the images that
        the config names; ST's tool has to be there, and for its cloud a token."""
        if "emulator" in backends and self.sections.benchmarking.images is not None:
            open_folder(self.sections.benchmarking.images)
        if "c_host" in places or "emulator" in backends:
            check_tools(machine_of(self.board) if "emulator" in backends else None)
        section, memory_pool, _ = self._tools()
        if "stedgeai" in backends:
            check_keys(section or Stedgeai(), self.board, memory_pool)
        if "stedgeai" in backends or not set(places).isdisjoint(ai_runner.PLACES):
            find(section)
        if ai_runner.N6 in places and not self.board.npu and self.board.ram_kib is not None:
            raise StdetError(f"{ai_runner.N6} is an STM32N6, and {self.board.title} is none", "leave the board out")
        if "cloud" in backends:
            job_of(self.board, section or Stedgeai(), memory_pool)
            find_token()

    def network(self, model: Path, place: str, folder: Path, section: str = "evaluation") -> PlacedNetwork:
        """`reference` is the integer reference, `c_host` the network's C code on this computer; `stedgeai_host` and
        `stedgeai_n6` are ST's C code here and on a board."""
        known = (*PLACES, *ai_runner.PLACES)
        if place not in known:
            raise StdetError(f"target {self.name} runs no model at `{place}`", f"available: host, {', '.join(known)}")
        with running(model):
            if place in PLACES:
                return PLACES[place](model, folder)
            keys = getattr(self.sections, section)
            keys = keys if isinstance(keys, OnBoard) else OnBoard()
            return ai_runner.RunnerNetwork(model, place, self._tools()[0], keys, section, folder)

    def deploy(self, deployment: Deployment, folder: Path) -> DeployReport:
        """See `firmware.folder`; the C code is the same for all boards."""
        section, setup = self.sections.deployment, self.sections.deployment.hardware_setup
        destination = Destination(
            self.board.title,
            self.board.series or getattr(setup, "serie", None) or "",
            getattr(section, "c_project_path", None),
            getattr(section, "build_conf", None) or getattr(setup, "output", None) or "",
        )
        return write_folder(deployment, folder, destination)

    def _backends(self) -> dict[str, Callable[[Path, Progress | None], BenchReport]]:
        return {
            "host": bench_host,
            "estimate": lambda model, progress: estimate(model, self.board),
            "emulator": lambda model, progress: bench_emulator(
                model, self.board, progress, self.sections.benchmarking.images
            ),
            "stedgeai": lambda model, progress: bench_stedgeai(model, self.board, *self._tools(), progress),
            "cloud": lambda model, progress: bench_cloud(model, self.board, *self._tools(), progress),
        }

    def _tools(self) -> tuple[Stedgeai | None, Path | None, Path | None]:
        """`tools.stedgeai`, the memory pool, and where logs go."""
        section = getattr(self.sections.tools, "stedgeai", None)
        return section, getattr(self.sections.benchmarking, "memory_pool", None), self.logs


def __getattr__(name: str) -> Callable[..., Stm32Target]:
    """`stdet_deploy_stm32.target:<board>` is the factory of that board's target, for every board of `boards.json`;
    `stdet_deploy_stm32.target:<package>/<board>` for those of another package's."""
    package, _, board = name.rpartition("/")
    known = boards(package) if package else boards()
    if board in known:
        return partial(Stm32Target, known[board])
    raise AttributeError(f"module {__name__} has no attribute {name}")
