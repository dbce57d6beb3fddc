"""Measure the inner dynamics of a problem, and recommend an estimator.

`measure` takes the measurements, at the cost of about four exact hypergradients. `advise` turns
them into warnings and a recommendation.
"""

from math import inf
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metastep.checks import require_key
from metastep.diagnosis.advise import advise
from metastep.diagnosis.clock import Clock
from metastep.diagnosis.diagnosis import Diagnosis
from metastep.diagnosis.measure import SMOOTH, Measurements, measure, stationarity
from metastep.diagnosis.metasmoothness import Metasmoothness
from metastep.diagnosis.options import Costs, options
from metastep.diagnosis.rows import Response, WindowRow
from metastep.estimators.implicit import EARLY_STEPS, UNSEEN_FACTOR, Implicit
from metastep.problems.base import AbstractProblem, require_problem
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey

DEFAULT_MEMORY = 2**30

OFF = 0.1
"""The relative error of implicit differentiation above which a warning is given."""

NOT_THERE = (
    "Inner steps have become small, and yet the inner loop is not at its fixed point, or a "
    "hyperparameter acts on the path to it. Lengthen the horizon, or use Reverse."
)


def diagnose(
    problem: AbstractProblem,
    outer: Outer,
    *,
    key: RandomKey,
    memory: int = DEFAULT_MEMORY,
    budget: float | None = None,
) -> Diagnosis:
    """Recommend an estimator for a problem, with the reasons and what would change the answer.

    All measurements are made at these hyperparameters and for this key; elsewhere they may differ.

    Example:
        Fifty steps of gradient descent that contract by a tenth: one last step suffices.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: (w - outer["target"]) ** 2 / 2,
        ...     objective=lambda w, outer: w**2,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.1),
        ...     horizon=50,
        ... )
        >>> diagnosis = ms.diagnose(problem, {"target": 1.0}, key=jax.random.key(0))
        >>> round(diagnosis.contraction, 3), diagnosis.windows[0].window, diagnosis.chaotic
        (0.9, 1, False)

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, a pytree of floating-point arrays or floats.
        key: a random key.
        memory: bytes that a hypergradient may use; 1 GiB by default.
        budget: seconds that the diagnosis may take, compilation included. Measurements that exceed
            it are omitted and named in `left_out`. None measures everything.

    Returns:
        The diagnosis: `str()` in at most 30 lines, `details()` in full, `to_dict()` and fields for
        programs. Time: three exact hypergradients and three training runs, and one compilation of
        each. Memory: that of `Reverse()` if it fits into `memory`, else that of
        `Reverse("sqrt")`, and some 30 inner states.

    Raises:
        ValueError: wrong use, as in `hypergradient`; a budget that is not positive or too short for
            one exact hypergradient.
    """
    require_key(key)
    require_problem(problem)
    if budget is not None and not budget > 0:
        raise ValueError(f"budget is {budget!r}; allowed are None and positive seconds.")
    clock = Clock(budget)
    outer = as_hyperparameters(outer)
    return judge(problem, outer, key, measure(problem, outer, key, memory, clock), memory, clock)


def judge(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    found: Measurements,
    memory: int,
    clock: Clock,
) -> Diagnosis:
    """Turn measurements into a diagnosis."""
    curve, spectrum, horizon = found.curve, found.spectrum, problem.horizon
    # NaN stands for what the budget excluded, and fails every comparison below.
    values = np.array([np.nan]) if spectrum is None else spectrum.ritz_values()
    contraction = float(np.max(np.abs(values)))
    symmetric = spectrum is not None and spectrum.symmetric
    # The Jacobian of gradient descent is I - gamma H: the curvature comes in units of 1 / gamma.
    curvature = (1 - float(values.max().real), 1 - float(values.min().real))
    implicit = _Implicit.of(found)
    rows = _window_rows(found, contraction)
    count = sum(x.size for x in jax.tree.leaves(outer))
    with np.errstate(all="ignore"):
        # If no digit differs, the logarithm is -inf, and no digit is lost.
        lost = np.clip(np.log10(found.rounding_error) + found.digits, 0, found.digits)
        # The initial state is often zero, and then has no relative changes.
        before, after = curve.sensitivities[max(horizon - 1, 0)], curve.sensitivities[0]
        decay = float(np.divide(before, after)) if after else float("nan")
    # `decay` covers the steps after the first.
    steps = max(horizon - 1, 1)
    # Less than one digit is left, or the backward pass overflows although the run does not.
    chaotic = (found.finite and bool(lost > found.digits - 1)) or _overflown(found)
    costs = Costs(found, problem, outer, key, clock, count)
    listed = options(costs, rows, (implicit.cosine, implicit.relative_error), memory, chaotic)
    return advise(
        Diagnosis(
            horizon=horizon,
            outer_size=count,
            state_bytes=found.sizes.state,
            residual_bytes=round(found.sizes.stored(horizon)),
            value=float(curve.value),
            exact=jax.tree.map(jnp.asarray, curve.exact),
            finite=found.finite,
            contraction=contraction,
            symmetric=symmetric,
            inner_curvature=curvature if symmetric else None,
            lyapunov_exponent=float(np.log(decay)) / steps if decay > 0 else float("nan"),
            digits=found.digits,
            digits_lost=found.digits if chaotic else float(lost),
            chaotic=chaotic,
            adjoint_decay=decay,
            stationarity=stationarity(np.asarray(curve.moves)),
            implicit_message=implicit.message,
            response=_response(found.smooth, curve.exact, count),
            windows=rows,
            options=listed,
            memory=memory,
            work=found.work,
            seconds=clock.seconds,
            left_out=tuple(clock.left_out),
            warnings=(),
            recommendation=None,
        )
    )


def _overflown(found: Measurements) -> bool:
    """Whether the gradient overflows by growth from step to step, although training does not.

    A derivative that does not exist becomes NaN in a single step instead.
    """
    sizes = found.curve.sensitivities
    if not found.bounded or not np.isfinite(sizes[0]):
        return False
    return bool(np.max(sizes[np.isfinite(sizes)]) > 10.0 ** (2 * found.digits) * sizes[0])


def _window_rows(found: Measurements, contraction: float) -> tuple[WindowRow, ...]:
    """Compare every truncation with the exact gradient, and add the bound of the paper."""
    curve = found.curve
    exact, truncated = _matrix(curve.exact, 0)[0], _matrix(curve.truncated, 1)
    size, end = np.linalg.norm(exact), curve.adjoint_norms[0]
    with np.errstate(all="ignore"):
        # The contribution of a step is at most |B| |adjoint| with B = d step / d outer, so the
        # largest ratio on this trajectory bounds the sum of all that truncation leaves out.
        added = np.stack(jax.tree.leaves(curve.contributions))
        ratios = np.linalg.norm(added, axis=0) / curve.adjoint_norms[:-1]
        response = np.max(ratios[np.isfinite(ratios)], initial=0.0)
        errors = np.linalg.norm(truncated - exact, axis=1) / size
        cosines = truncated @ exact / (np.linalg.norm(truncated, axis=1) * size)
        factor = end * response / (1 - contraction) / size if contraction < 1 else inf
        return tuple(
            WindowRow(
                window=window,
                cosine=float(angle),
                relative_error=float(error),
                # Eq. 10 of Shaban et al. with measured factors: a geometric series from the cut on.
                bound=float(contraction**window * factor) if contraction < 1 else inf,
                adjoint=float(curve.adjoint_norms[window] / end),
            )
            for window, angle, error in zip(found.windows, cosines, errors, strict=True)
        )


def _matrix(tree: Outer, leading: int) -> np.ndarray:
    """Join the leaves of a tree into rows, one for each entry of the leading axis, if any."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.hstack([x.reshape(x.shape[0] if leading else 1, -1) for x in leaves])


def _response(smooth: Metasmoothness | None, grad: Outer, count: int) -> Response | None:
    """Estimate how far a step against the gradient may go.

    The parabola through the value, the slope and the value at 2 h has its minimum where the
    objective stops falling. Beyond 2 h nothing was measured.
    """
    if smooth is None:
        return None
    score, length = float(smooth.score), float(smooth.length)
    at, _, far = (float(x) for x in smooth.values)
    # Along the negative gradient, hence minus its norm.
    slope = -float(np.linalg.norm(_matrix(grad, 0)))
    # From far = at + 2 h slope + (2 h)^2 curvature / 2.
    curvature = (far - at - 2 * length * slope) / (2 * length**2)
    reach = min(-slope / curvature, 2 * length) if curvature > 0 else 2 * length
    if not score >= SMOOTH or not np.isfinite(far):
        reach = float("nan")
    # Descent moves by the step size times |g|, the first step of Adam by the step size in each of N
    # coordinates.
    return Response(score, length, reach, reach / -slope, reach / count**0.5)


class _Implicit(NamedTuple):
    """The predicted result of implicit differentiation."""

    message: str
    cosine: float
    relative_error: float

    @classmethod
    def of(cls, found: Measurements) -> "_Implicit":
        """Compare it with the exact gradient, and find the reason against its use."""
        nothing = float("nan")
        if found.refusal or found.spectrum is None:
            return cls(found.refusal, nothing, nothing)
        grad, residual = found.spectrum.fixed_point()
        grads = grad, found.curve.exact
        implicit, exact = (_matrix(grad, 0)[0] for grad in grads)
        with np.errstate(all="ignore"):
            error = float(np.linalg.norm(implicit - exact) / np.linalg.norm(exact))
            angle = implicit @ exact / (np.linalg.norm(implicit) * np.linalg.norm(exact))
        rules = Implicit()
        # In the order of `Implicit`: a cause that explains the following ones comes first.
        if not np.isfinite(error):
            result = RESULTS.nonfinite_gradient
        elif residual > rules.linear_tolerance:
            result = RESULTS.linear_solve_failed
        elif stationarity(np.asarray(found.curve.moves)) > rules.stationarity_tolerance:
            result = RESULTS.not_stationary
        elif _unseen(found):
            return cls(RESULTS[RESULTS.unseen_by_implicit], nothing, nothing)
        elif error > OFF:
            return cls(NOT_THERE, float(angle), error)
        else:
            result = RESULTS.successful
        return cls(RESULTS[result], float(angle), error)


def _unseen(found: Measurements) -> bool:
    """Whether `Implicit` would classify a hyperparameter as one without effect on the fixed point.

    The contributions of the steps to its gradient then decay as fast as the steps themselves.
    """
    curve, eps = found.curve, 10.0**-found.digits
    # The floor is that of `Implicit`: a smaller step is rounding error.
    small = UNSEEN_FACTOR * max(stationarity(curve.moves), 1e3 * eps)
    with np.errstate(all="ignore"):
        ratios = [x / curve.adjoint_norms[:-1] for x in jax.tree.leaves(curve.contributions)]
    # Contributions are counted from the end: the first steps come last.
    early = [np.max(x[-1 - EARLY_STEPS :]) for x in ratios]
    return any(x > 0 and now[0] <= small * x for now, x in zip(ratios, early, strict=True))
