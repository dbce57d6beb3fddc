"""Training and its objective as one function of the hyperparameters."""

from jaxtyping import Array, Int

from metastep.problems.base import AbstractProblem, Keys, advance, start
from metastep.types import Outer, Scalar


def evaluate(problem: AbstractProblem, outer: Outer, keys: Keys) -> tuple[Scalar, Int[Array, ""]]:
    """Return the objective at the end of the horizon, and `Trajectory.first_nonfinite`.

    Differentiable in both modes; reverse mode stores the residuals of every step.
    """
    end = advance(problem, outer, start(problem, outer, keys), keys, problem.horizon)
    return problem.objective(end.inner, outer, keys.objective), end.first_nonfinite
