"""What each `operation_mode` runs: the one place that knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """An operation mode.

    Attributes:
        name: what configs say.
        stages: what it runs, in order; names of functions in `stdet.stages`.
    """

    name: str
    stages: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return "train" in self.stages

    @property
    def evaluates(self) -> bool:
        return "evaluate" in self.stages

    @property
    def quantizes(self) -> bool:
        return "quantize" in self.stages

    @property
    def predicts(self) -> bool:
        return "predict" in self.stages

    @property
    def benches(self) -> bool:
        return "bench" in self.stages

    @property
    def deploys(self) -> bool:
        return "deploy" in self.stages

    @property
    def uses_target(self) -> bool:
        """Whether a board is asked anything."""
        return self.quantizes or self.benches or self.deploys


MODES = {
    mode.name: mode
    for mode in (
        Mode("training", ("train", "export")),
        Mode("evaluation", ("evaluate",)),
        Mode("export", ("export",)),
        Mode("quantization", ("quantize",)),
        Mode("prediction", ("predict",)),
        Mode("benchmarking", ("bench",)),
        Mode("chain_tqe", ("train", "export", "evaluate", "quantize", "evaluate")),
        Mode("chain_tqeb", ("train", "export", "evaluate", "quantize", "evaluate", "bench")),
        Mode("chain_eqe", ("evaluate", "quantize", "evaluate")),
        Mode("chain_eqeb", ("evaluate", "quantize", "evaluate", "bench")),
        Mode("chain_qb", ("quantize", "bench")),
        Mode("deployment", ("deploy",)),
        Mode("chain_qd", ("quantize", "deploy")),
    )
}
DATA = Mode("data")
"""Stands for the operation mode where a data tool reads a config: no stage runs, so no key is needed for one."""
ELSEWHERE = frozenset({"compression"})
"""Modes of the reference that are not in this version."""
