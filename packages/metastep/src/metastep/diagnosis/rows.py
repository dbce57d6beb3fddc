"""The parts of a diagnosis: windows, options, warnings, recommendation and response."""

from dataclasses import dataclass

from metastep.estimators.base import AbstractEstimator


@dataclass(frozen=True)
class WindowRow:
    """One window of truncated back-propagation.

    Attributes:
        window: K.
        cosine: of the angle to the exact gradient; NaN if either is zero.
        relative_error: |truncated - exact| / |exact|.
        bound: the bound (10) of Shaban et al. (2019), relative to |exact|; infinite if the inner
            steps do not contract.
        adjoint: the norm of the adjoint at the cut, relative to that at the end of the horizon.
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
        cosine: of the angle to the exact gradient, measured; the expected value for a random
            estimator; for an exact estimator, that to the exact gradient of a run that is rounded
            differently.
        relative_error: likewise.
        seconds: for one hypergradient, without compilation.
        memory: bytes beyond inputs and outputs, as the compiler counts them.
        measured: whether `seconds` was measured; otherwise it is derived from measured times.
    """

    estimator: AbstractEstimator
    cosine: float
    relative_error: float
    seconds: float
    memory: int
    measured: bool


@dataclass(frozen=True)
class Warning:
    """A failure to expect.

    Attributes:
        kind: short and stable, such as `neumann-diverges`.
        text: its meaning and the remedy.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Recommendation:
    """The estimator to use.

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
        length: the distance h in `outer` at which it was measured; the runs reached 2 h.
        reach: the distance at which the objective is expected to stop falling, at most twice
            `length`; NaN if the response is not smooth.
        descent_step_size: the step size of gradient descent on `outer` that reaches it.
        adam_step_size: the step size of Adam on `outer` whose first step reaches it.
    """

    score: float
    length: float
    reach: float
    descent_step_size: float
    adam_step_size: float
