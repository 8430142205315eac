"""What every schedule must do."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from stdet.interfaces.family import Options
from stdet.interfaces.scheduler import ScheduleLength, Scheduler
from stdet.testing.contract import Contract, catalogue, demand, shown

BASE = 0.1


class SchedulerContract(Contract):
    """What every schedule must do. Set `name`, and `options` if it has required keys."""

    kind: ClassVar[str] = "schedulers"
    options: ClassVar[dict[str, Any]] = {}

    def own_keys(self) -> dict[str, type[Options]]:
        return {"training": catalogue().options("schedulers", self.name)}

    def rates(self, base: float, backwards: bool = False) -> list[float]:
        """The rate of every step of a short training, in order, asked for from the first step or from the last."""
        made = catalogue().options("schedulers", self.name)(**self.options)
        length = ScheduleLength(epochs=6, steps_per_epoch=5, no_aug_epochs=2)
        schedule = catalogue().build("schedulers", self.name, length, made)
        demand(isinstance(schedule, Scheduler), "a Scheduler", type(schedule).__name__)
        steps = range(length.total_steps)
        asked = [schedule.learning_rate(step, base) for step in (reversed(steps) if backwards else steps)]
        return asked[::-1] if backwards else asked

    def test_rates_are_finite_and_not_negative(self) -> None:
        """Every step has a finite rate of at least 0, and some step one above 0: weights that were moved by anything else are
        lost, and without any nothing is learned."""
        rates = self.rates(BASE)
        bad = [f"{rate} at step {step}" for step, rate in enumerate(rates) if not (math.isfinite(rate) and rate >= 0)]
        demand(not bad, "finite rates of at least 0", shown(bad))
        demand(max(rates) > 0, "a rate above 0 at some step", "0 at all of them")

    def test_rates_follow_the_base_rate(self) -> None:
        """No rate is above the base rate, and another base rate gives other rates: it is what the user sets, for each group
        of parameters, and what a published recipe names."""
        rates, doubled = self.rates(BASE), self.rates(2 * BASE)
        above = [f"{rate} at step {step}" for step, rate in enumerate(rates) if rate > BASE * (1 + 1e-9)]
        demand(not above, f"rates up to the base rate of {BASE}", shown(above))
        demand(rates != doubled, f"other rates for a base of {2 * BASE} than for {BASE}", "the same ones")

    def test_the_step_alone_decides(self) -> None:
        """A step has the same rate whatever was asked before: a resumed training asks for the steps that are left."""
        rates, backwards = self.rates(BASE), self.rates(BASE, backwards=True)
        other = [step for step, (one, two) in enumerate(zip(rates, backwards, strict=True)) if one != two]
        demand(
            not other, "the same rates when asked from the last step to the first", f"others at steps {shown(other)}"
        )
