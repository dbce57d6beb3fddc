"""The time of a diagnosis: its budget and its timed calls."""

from dataclasses import dataclass, field, replace
from time import perf_counter

import jax.numpy as jnp

from metastep.diagnosis.compare import Program, timed

BRIEF, REPEATS = 0.2, 3
"""A call below this many seconds is repeated this often: the first call loads the program."""

GRADIENT_OF_RUN = 4.0
"""Time of an exact hypergradient, and of compiling it, in multiples of a training run (assumed)."""


@dataclass
class Clock:
    """The time since the start, and descriptions of the measurements that the budget excluded."""

    budget: float | None
    begin: float = field(default_factory=perf_counter)
    left_out: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self.begin

    def allows(self, seconds: float, what: str) -> bool:
        """Return whether the budget allows that many more seconds; if not, record `what`."""
        if self.budget is None or self.seconds + seconds <= self.budget:
            return True
        self.left_out.append(what)
        return False


def require_budget(run: Program, compiling: float, horizon: int, clock: Clock) -> None:
    """Refuse a budget that one exact hypergradient exceeds, judged by a few steps of training."""
    if clock.budget is None:
        return
    # Two steps of the program that is compiled already; its length is an argument.
    few = min(horizon, 2)
    arguments = (*run.arguments[:-1], jnp.int32(few))
    _, seconds = fastest(replace(run, arguments=arguments))
    predicted = GRADIENT_OF_RUN * (compiling + seconds * horizon / few)
    if clock.seconds + predicted > clock.budget:
        # Half as much again, in one digit: an answer of the same kind must not follow.
        least = float(f"{1.5 * (clock.seconds + predicted):.1g}")
        raise ValueError(
            f"budget is {clock.budget:g} s; one exact hypergradient, which is what everything is "
            f"held against, takes about {predicted:.2g} s with its compilation (an inner step "
            f"takes {seconds / few:.1e} s, and there are {horizon}). Allowed here are budgets "
            f"from about {least:g}, or None; or shorten the horizon."
        )


def fastest(program: Program) -> tuple:
    """Return a program's result and its seconds; short calls are timed without loading it."""
    found, seconds = timed(program.call)
    again = () if seconds > BRIEF else range(REPEATS)
    # The fastest call counts, since other processes only ever add to a time.
    return found, min([seconds, *(timed(program.call)[1] for _ in again)])
