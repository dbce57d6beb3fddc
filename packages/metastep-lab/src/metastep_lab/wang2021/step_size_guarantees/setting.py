"""The sizes of the simulations: the base, and what is varied around it."""

from typing import Annotated

from annotated_types import Ge, MinLen, MultipleOf, Predicate

from metastep_lab.configuration import Ascending, Count, Several, configuration, different
from metastep_lab.wang2021.step_size_guarantees.sampling import Case


@configuration
class Config:
    """The configuration. The papers give no constants: all are our choices.

    Attributes:
        dims: d, for few examples.
        horizons: t.
        noises: sigma.
        tasks: m. Train-by-train, and Theorem 6, have at most 16.
        repeats: independent draws of the training tasks; 368 without a failure show 0.99.
        fresh: new tasks.
        many_dim: d of Theorem 6.
        ratios: n / d of Theorem 6.
        sgd_dims: d of Theorem 9; Theorem 10 has the second, or the only one.
        sgd_tasks: m of Theorem 10; Theorem 9 has the smallest.
        sgd_runs: simulated runs that may be truncated.
        problems: quadratics of Theorem 4.
        quadratic_horizon: their t.
        updates: of their step size.
    """

    dims: Annotated[
        tuple[Annotated[int, Ge(8), MultipleOf(4)], ...],
        MinLen(1),
        Predicate(different),
        "different multiples of 4 from 8",
    ] = (16, 32, 64, 128)
    horizons: Annotated[Ascending, MinLen(2)] = (10, 40, 160, 640)
    noises: Annotated[
        tuple[Annotated[float, Ge(1)], ...],
        MinLen(1),
        Predicate(different),
        "different numbers from 1, as in the papers",
    ] = (2.0, 1.0, 3.0)
    tasks: Ascending = (4, 16, 64, 256, 1024)
    repeats: Several = 400
    fresh: Several = 20000
    many_dim: Count = 20
    ratios: Ascending = (5, 10, 20, 40, 80, 160)
    sgd_dims: Annotated[
        tuple[Annotated[int, Ge(8), MultipleOf(4)], ...], MinLen(1), "multiples of 4 from 8"
    ] = (8, 16, 24)
    sgd_tasks: Ascending = (4, 16, 64, 256)
    sgd_runs: Several = 20000
    problems: Count = 100
    quadratic_horizon: Count = 10
    updates: Count = 1000000

    def base(self) -> tuple[int, float, int]:
        """Return d, sigma and t from which the others are varied."""
        return max(self.dims), self.noises[0], self.horizons[min(1, len(self.horizons) - 1)]

    def cells(self) -> list[tuple[int, float, int]]:
        """Return every d, sigma and t, the base first."""
        dim, noise, horizon = self.base()
        around = [(d, noise, horizon) for d in self.dims]
        around += [(dim, sigma, horizon) for sigma in self.noises]
        around += [(dim, noise, t) for t in self.horizons]
        return list(dict.fromkeys([self.base(), *around]))


def case_of(mode: str, dim: int, noise: float, horizon: int) -> Case:
    """Return the sizes with few examples."""
    samples = dim // 4 if mode == "train-by-validation" else dim // 2
    held_out = dim // 4 if mode == "train-by-validation" else 1
    return Case(mode, dim, samples, held_out, noise, horizon)
