"""What a diagnosis is made of: windows, options, warnings, one recommendation, the response."""

from dataclasses import dataclass

from metastep.estimators.base import AbstractEstimator


@dataclass(frozen=True)
class WindowRow:
    """One window of truncated back-propagation.

    Attributes:
        window: K.
        cosine: of the angle to the exact gradient; NaN if one of them is zero.
        relative_error: |truncated - exact| / |exact|.
        bound: the bound (10) of Shaban et al. (2019), relative to |exact|; infinite where the inner
            steps do not contract.
        adjoint: what reaches back to the cut, relative to the end of the horizon.
    """

    window: int
    cosine: float
    relative_error: float
    bound: float
    adjoint: float


@dataclass(frozen=True)
class Option:
    """One estimator for this problem.

    Attributes:
        estimator: the estimator.
        cosine: of the angle to the exact gradient: measured; expected where random; for exact
            estimators that to the exact gradient of a run that is rounded differently.
        relative_error: likewise.
        seconds: for one hypergradient, without compilation.
        memory: bytes beside inputs and outputs, as the compiler counts them.
        measured: whether `seconds` was measured; otherwise it follows from those that were.
    """

    estimator: AbstractEstimator
    cosine: float
    relative_error: float
    seconds: float
    memory: int
    measured: bool


@dataclass(frozen=True)
class Warning:
    """What will go wrong, before it does.

    Attributes:
        kind: short and stable, such as `neumann-diverges`.
        text: what it means and what to do.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Recommendation:
    """Which estimator to use.

    Attributes:
        estimator: None if no estimator can be recommended.
        reason: why.
        would_change: what would change the answer.
    """

    estimator: AbstractEstimator | None
    reason: str
    would_change: str


@dataclass(frozen=True)
class Response:
    """How far a step against the gradient can be trusted.

    Attributes:
        score: metasmoothness along the gradient, between -1 and 1; near 1 the response is smooth.
        length: the distance in `outer` at which it was measured, and twice which it reached.
        reach: the distance at which the objective is expected to stop falling, at most twice
            `length`; NaN where the response is not smooth.
        descent_step_size: the step size of gradient descent on `outer` that goes so far.
        adam_step_size: the step size of Adam on `outer` whose first step goes so far.
    """

    score: float
    length: float
    reach: float
    descent_step_size: float
    adam_step_size: float
