"""Derive warnings and one recommendation from measurements."""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from metastep.diagnosis.diagnosis import Diagnosis
from metastep.diagnosis.rows import Option, Recommendation, Warning
from metastep.estimators.evolution import EvolutionStrategies
from metastep.estimators.implicit import Implicit
from metastep.estimators.truncated import TruncatedReverse
from metastep.files import readable_bytes

# The bound is not lower, although a short window may descend faster at first: its bias stays when
# the exact gradient vanishes, which a few outer steps do not show.
GOOD_COSINE = 0.95
GOOD_ERROR = 0.5
"""Least cosine and largest relative error at which a biased gradient is recommended."""

WORTHWHILE = 0.8
"""Largest time of a biased gradient, relative to an exact one, at which it is recommended."""

VANISHING = 1e-6
EXPLODING = 1e6


def advise(diagnosis: Diagnosis) -> Diagnosis:
    """Add warnings and a recommendation to measurements."""
    warnings = tuple(warning for check in CHECKS if (warning := check(diagnosis)))
    advice = _recommend(diagnosis)
    if advice.estimator is not None and any(warning.kind == "not-smooth" for warning in warnings):
        advice = replace(advice, reason=f"{advice.reason} But steps may lead nowhere: not-smooth.")
    return replace(diagnosis, warnings=warnings, recommendation=advice)


def _not_finite(d: Diagnosis) -> Warning | None:
    # A gradient that overflows although the run does not is chaos, which has its own warning.
    if d.finite or d.chaotic:
        return None
    return Warning(
        "not-finite",
        "The run, its objective or its exact hypergradient is infinite or NaN. Reduce the inner "
        "step size or the horizon; hypergradient(...).result says which came first.",
    )


def _zero(d: Diagnosis) -> Warning | None:
    if not (d.finite and _vanished(d)):
        return None
    return Warning(
        "zero-gradient",
        "The exact hypergradient is zero: the objective does not change with `outer` here. Check "
        "that the objective uses what was trained, and that nothing on the way is rounded, "
        "clipped or saturated.",
    )


def _chaotic(d: Diagnosis) -> Warning | None:
    if not d.chaotic:
        return None
    return Warning(
        "chaotic",
        f"{_cost(d)}: it is not meaningful. Reduce the inner step size or the horizon, clip inner "
        "gradients, or smooth the objective.",
    )


def _not_smooth(d: Diagnosis) -> Warning | None:
    response = d.response
    if d.chaotic or response is None or not np.isnan(response.reach):
        return None
    return Warning(
        "not-smooth",
        f"The trained state jumps as `outer` moves by {response.length:.1e} along the gradient "
        f"(metasmoothness {response.score:.2f}): the exact gradient is the slope between two jumps "
        "and need not point downhill for any step. Smooth activations in the place of ReLU, larger "
        "batches, eps_root in Adam, smaller outputs of the last layer, clipped inner gradients, "
        "normalisation before each layer and a smaller inner step size make a run smoother; "
        "EvolutionStrategies with a sigma beyond the jumps follow the trend.",
    )


def _exploding(d: Diagnosis) -> Warning | None:
    # `not >`, here and below: a decay of NaN (from a state of zeros) warns of nothing.
    if d.chaotic or not d.adjoint_decay > EXPLODING:
        return None
    return Warning(
        "exploding",
        f"The influence of the state on the objective grows by {d.adjoint_decay:.1e} on the way "
        "back through the run. "
        "scaled_hypergradient represents any size; a smaller inner step size avoids it.",
    )


def _vanishing(d: Diagnosis) -> Warning | None:
    # A gradient of exactly zero has its own warning.
    if _vanished(d) or not d.adjoint_decay < VANISHING:
        return None
    return Warning(
        "vanishing",
        f"Of the influence of the last inner state {d.adjoint_decay:.1e} is left at the first: "
        "what acts through the initial state alone gets a vanishing gradient, and early steps do "
        "not matter.",
    )


def _neumann(d: Diagnosis) -> Warning | None:
    if not d.contraction >= 1:
        return None
    return Warning(
        "neumann-diverges",
        f"The last inner step does not contract (|eigenvalue| {d.contraction:.4g}): a Neumann "
        "series or fixed-point iteration diverges. Use Reverse, or a smaller inner step size.",
    )


def _implicit(d: Diagnosis) -> Warning | None:
    if not d.implicit_message:
        return None
    errors = [o.relative_error for o in d.options if isinstance(o.estimator, Implicit)]
    if not errors:
        return Warning("implicit-refused", f"Implicit does not apply: {d.implicit_message}")
    if np.isnan(errors[0]):
        return Warning(
            "implicit-wrong", f"Implicit differentiation gives NaN: {d.implicit_message}"
        )
    return Warning(
        "implicit-wrong",
        f"Implicit differentiation is wrong here, by {100 * errors[0]:.0f} % of the exact "
        f"gradient: {d.implicit_message}",
    )


def _not_descent(d: Diagnosis) -> Warning | None:
    bad = [row.window for row in d.windows if row.cosine <= 0]
    if not bad:
        return None
    return Warning(
        "not-descent",
        f"Truncated back-propagation is no descent direction here with window {_listed(bad)}: the "
        "angle to the exact gradient is 90 degrees or more.",
    )


def _descent_not_guaranteed(d: Diagnosis) -> Warning | None:
    if np.isnan(d.contraction):
        return None
    # Steps that do not contract are remembered for longer than any run.
    memory = 1 / max(1 - d.contraction, 1e-12)
    # The last window is the whole run, which cuts nothing off but the start.
    short = [row.window for row in d.windows[:-1] if row.window < memory and row.cosine > 0]
    if not short:
        return None
    reach = f"about {memory:.0f} steps" if memory < 1e6 else "the whole run"
    return Warning(
        "descent-not-guaranteed",
        f"Inner steps are remembered for {reach} (1 / (1 - contraction)); truncated "
        f"back-propagation with window {_listed(short)} need not be a descent direction elsewhere, "
        "whatever Lemma 3.2 of its paper says. Check with compare as the hyperparameters move.",
    )


CHECKS: tuple[Callable[[Diagnosis], Warning | None], ...] = (
    _not_finite,
    _zero,
    _chaotic,
    _not_smooth,
    _exploding,
    _vanishing,
    _neumann,
    _implicit,
    _not_descent,
    _descent_not_guaranteed,
)


def _listed(windows: list[int]) -> str:
    return str(windows[0]) if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"


def _cost(d: Diagnosis) -> str:
    """Describe the loss of digits by rounding."""
    if not d.finite:
        return "The exact gradient overflows although training does not"
    return f"Rounding costs the exact gradient {d.digits_lost:.0f} of {d.digits:.0f} decimal digits"


def _vanished(d: Diagnosis) -> bool:
    """Whether the exact hypergradient is zero."""
    return not any(np.any(np.asarray(x)) for x in jax.tree.leaves(d.exact))


def _recommend(d: Diagnosis) -> Recommendation:
    """Choose the fastest estimator that fits into memory and has the right direction."""
    if d.chaotic:
        smoothed = next(o for o in d.options if isinstance(o.estimator, EvolutionStrategies))
        return Recommendation(
            smoothed.estimator,
            f"{_cost(d)}: it is not meaningful. Evolution strategies estimate the gradient of a "
            "smoothed objective. Choose sigma by the size of change in outer to average over.",
            "A smaller inner step size or a shorter horizon, until `chaotic` is gone.",
        )
    if not d.finite:
        return Recommendation(
            None,
            "There is no finite hypergradient to estimate.",
            "A smaller inner step size or a shorter horizon.",
        )
    if _vanished(d):
        return Recommendation(
            None,
            "The exact hypergradient is zero: there is no direction to estimate.",
            "An objective that depends on what was trained, or another starting point.",
        )
    fitting = [o for o in d.options if o.memory <= d.memory]
    good = [o for o in fitting if trusted(d, o)]
    # This comes before the two kinds are separated: a biased estimator that an exact one beats in
    # everything is out.
    good = [o for o in good if not any(_dominates(other, o) for other in good)]
    exact = min((o for o in good if not _may_err(o)), key=_price, default=None)
    biased = min((o for o in good if _may_err(o)), key=_price, default=None)
    if exact is None and biased is None:
        return Recommendation(
            None,
            f"No estimator with cosine {GOOD_COSINE} fits into {readable_bytes(d.memory)}.",
            "More memory, or a shorter horizon.",
        )
    if biased and (exact is None or biased.seconds < WORTHWHILE * exact.seconds):
        return _biased(d, biased, exact)
    assert exact is not None
    return Recommendation(
        exact.estimator,
        f"It is exact and takes {exact.seconds:.2g} s and {readable_bytes(exact.memory)} of "
        f"{readable_bytes(d.memory)}; no other that can be trusted here (cosine from "
        f"{GOOD_COSINE}, relative error to {GOOD_ERROR}) takes less than "
        f"{100 * WORTHWHILE:.0f} % of this time.",
        _alternatives(d, exact),
    )


def _alternatives(d: Diagnosis, exact: Option) -> str:
    """Describe how the next-best estimators fall short of a recommendation."""
    parts = []
    leaner = [o for o in d.options if not _may_err(o) and o.memory < exact.memory]
    if leaner:
        next_best = min(leaner, key=_price)
        parts.append(
            f"with less than {readable_bytes(exact.memory)}, {next_best.estimator} "
            f"({readable_bytes(next_best.memory)}, {next_best.seconds:.2g} s)"
        )
    parts.append("inner steps that contract faster make a window of truncation worthwhile")
    return "; ".join(parts) + "."


def trusted(d: Diagnosis, option: Option) -> bool:
    """Whether direction and length are right, and are likely to stay so."""
    if isinstance(option.estimator, Implicit) and d.implicit_message:
        return False
    if isinstance(option.estimator, TruncatedReverse):
        (row,) = (row for row in d.windows if row.window == option.estimator.window)
        # If influence grows towards the start, the part cut off may dominate at other values.
        if not row.adjoint < 1:
            return False
    return option.cosine >= GOOD_COSINE and option.relative_error <= GOOD_ERROR


def _may_err(option: Option) -> bool:
    return isinstance(option.estimator, TruncatedReverse | Implicit | EvolutionStrategies)


def _dominates(one: Option, other: Option) -> bool:
    """Whether one estimator is no worse in any measured respect, and better in one."""
    figures = lambda o: np.array([-o.cosine, o.relative_error, o.seconds, o.memory])
    return bool(np.all(figures(one) <= figures(other)) and np.any(figures(one) < figures(other)))


def _price(option: Option) -> tuple[float, float, float]:
    """Return the key for comparisons: time, then memory, then accuracy."""
    return option.seconds, float(option.memory), option.relative_error


def _biased(d: Diagnosis, option: Option, exact: Option | None) -> Recommendation:
    speed = f", {exact.seconds / option.seconds:.1f} times as fast as exact" if exact else ""
    numbers = f"cosine {option.cosine:.3f}, relative error {option.relative_error:.2g}{speed}"
    if isinstance(option.estimator, TruncatedReverse):
        return Recommendation(
            option.estimator,
            f"The last {option.estimator.window} steps carry the gradient ({numbers}).",
            "Smaller inner steps or weaker regularization lengthen the memory of the inner loop; "
            "near the optimum, where the exact gradient is small, the bias matters more: end with "
            "an exact estimator.",
        )
    return Recommendation(
        option.estimator,
        f"The inner loop has converged (last step {d.stationarity:.1e} of the first ones), and "
        f"the fixed point tells the gradient ({numbers}) in memory that does not grow with the "
        "horizon.",
        "A shorter horizon, larger inner steps or stochastic batches: then it is not converged.",
    )
