"""The methods that `step-size-quadratic` compares, one row of `METHODS` each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

import metastep as ms
from metastep.tasks import Quadratic
from metastep.types import Outer

# Element by element, as in the authors' code; the text does not mention it.
CLIP = 1e4
# Wang et al. (2020), appendix F.1: "The meta-training learning rate is set to be 0.001".
TENSORFLOW_RATE = 1e-3


def decaying(scale: float, horizon: int) -> optax.GradientTransformation:
    """Descend F with meta step sizes scale / sqrt(k), k from 1."""
    del horizon
    # The square root of an integer would be float32, also in float64 mode.
    return optax.sgd(lambda count: scale / jnp.sqrt(count + jnp.ones(())))


def constant(scale: float, horizon: int) -> optax.GradientTransformation:
    """Descend log f, which is F times the horizon, with a constant meta step size."""
    del scale
    # Their runs have no 1 / t before the logarithm: the scale undoes that of the objective here,
    # and the clip is on d log f / d eta.
    return optax.chain(optax.scale(horizon), optax.clip(CLIP), optax.sgd(TENSORFLOW_RATE))


def rmsprop(scale: float, horizon: int) -> optax.GradientTransformation:
    """Descend log f by RMSProp."""
    del scale
    # optax starts the mean square at 0, TensorFlow at 1: d log f / d eta away from eta* is tens to
    # thousands, so that its squares hide the difference.
    adaptive = optax.rmsprop(TENSORFLOW_RATE, decay=0.9)
    return optax.chain(optax.scale(horizon), optax.clip(CLIP), adaptive)


def without_second_derivatives(step_size: Outer) -> optax.GradientTransformation:
    """Descend with gradients that are constants in the derivative of the descent."""
    # What the flag `use_second_derivatives=False` does: dw_t / d eta becomes -sum of the
    # gradients, as if none depended on eta.
    cut = optax.stateless(lambda updates, params: jax.lax.stop_gradient(updates))
    return optax.chain(cut, optax.sgd(step_size))


def not_negative(step_size: Outer) -> Outer:
    """Reset a negative step size to zero, as Theorem 4 does."""
    return jnp.maximum(step_size, 0)


@dataclass(frozen=True)
class Method:
    """One method to tune the step size.

    Attributes:
        estimator: how F' is computed.
        log_objective: whether the estimator is given log f / t; `LogDomain` takes f.
        meta_optimizer: (meta_step_scale, inner steps) to an optimizer of the step size.
        precision: of everything.
        early: by how many inner steps the objective is evaluated before the horizon.
        inner: step size to the inner optimizer.
        project: applied to an updated step size.
    """

    estimator: ms.AbstractEstimator
    log_objective: bool
    meta_optimizer: Callable[[float, int], optax.GradientTransformation]
    precision: Literal["float32", "float64"] = "float32"
    early: int = 0
    inner: Callable[[Outer], optax.GradientTransformation] = optax.sgd
    project: Callable[[Outer], Outer] | None = None

    def problem(self, task: Quadratic, horizon: int) -> ms.TrainingProblem:
        """Return the problem that this method differentiates."""
        steps = horizon - self.early
        log = ms.log_transformed(task.objective, steps)
        objective = log if self.log_objective else task.objective
        return ms.TrainingProblem(task.loss, objective, task.start, self.inner, steps)


LOG_DOMAIN = ms.LogDomain(ms.Forward())
# Methods that repeat TensorFlow's have no `project`: nothing resets a negative step size there.
_BACK = ms.Reverse()
_CUT = without_second_derivatives
METHODS: Mapping[str, Method] = {
    "log-domain": Method(LOG_DOMAIN, False, decaying, "float64", project=not_negative),
    "log-domain-float32": Method(LOG_DOMAIN, False, decaying, project=not_negative),
    "reverse-float32": Method(_BACK, True, decaying, project=not_negative),
    "reverse-float64": Method(_BACK, True, decaying, "float64", project=not_negative),
    "reverse-constant": Method(_BACK, True, constant, early=1),
    "reverse-rmsprop": Method(_BACK, True, rmsprop, early=1),
    "stop-gradient-constant": Method(_BACK, True, constant, early=1, inner=_CUT),
    "stop-gradient-rmsprop": Method(_BACK, True, rmsprop, early=1, inner=_CUT),
    "log-domain-constant": Method(LOG_DOMAIN, False, constant, "float64", early=1),
    "log-domain-rmsprop": Method(LOG_DOMAIN, False, rmsprop, "float64", early=1),
}
