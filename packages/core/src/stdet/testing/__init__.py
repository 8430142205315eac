"""Contract tests to inherit: three lines in your test file hold a component to what the rest of stdet relies on.

    from stdet.testing import ModelContract

    class TestMyNet(ModelContract):
        name = "my_net"

Needs pytest. The component is looked up by its registered name, so the registration is tested too.
"""

from stdet.testing.contracts import (
    DatasetContract,
    ModelContract,
    SchedulerContract,
    TargetContract,
    TransformContract,
)

__all__ = ["DatasetContract", "ModelContract", "SchedulerContract", "TargetContract", "TransformContract"]
