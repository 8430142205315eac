"""Contract tests to inherit: three lines in your test file hold a component to what the rest of stdet relies on.

    from stdet.testing import ModelContract

    class TestMyNet(ModelContract):
        name = "my_net"

Needs `stdet-core[testing]`. The component is looked up by its registered name, so the registration is tested too. Each test
states in its docstring what is demanded and why, and a failure says what was expected and what was found.
"""

from stdet.testing.contract import BrokenContract, Contract
from stdet.testing.dataset import DatasetContract
from stdet.testing.model import ModelContract
from stdet.testing.scheduler import SchedulerContract
from stdet.testing.simulated_cuda import simulated_cuda
from stdet.testing.target import TargetContract
from stdet.testing.transform import TransformContract

__all__ = [
    "BrokenContract",
    "Contract",
    "DatasetContract",
    "ModelContract",
    "SchedulerContract",
    "TargetContract",
    "TransformContract",
    "simulated_cuda",
]
