"""Distributions of few-shot tasks: a few examples for adaptation, others for its evaluation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.checks import require_count
from metastep.tasks.least_squares import Examples
from metastep.types import RandomKey, Scalar

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, jnp.pi)
INPUTS = (-5.0, 5.0)


class Sinusoid(eqx.Module):
    """Regression of a sine wave y = amplitude * sin(x - phase) from a few of its points.

    Attributes:
        amplitude: scalar.
        phase: scalar, in radians.
        training: the points for adaptation, inputs of shape (samples, 1).
        validation: the points for its evaluation.
    """

    amplitude: Scalar
    phase: Scalar
    training: Examples
    validation: Examples

    def __call__(self, inputs: Float[Array, " points"]) -> Float[Array, " points"]:
        """Return the true curve."""
        return self.amplitude * jnp.sin(inputs - self.phase)


def random_sinusoid(key: RandomKey, *, samples: int, validation_samples: int) -> Sinusoid:
    """Draw a sine wave: amplitude in [0.1, 5], phase in [0, pi], inputs in [-5, 5], all uniform.

    Example:
        >>> import jax
        >>> from metastep.tasks.few_shot import random_sinusoid
        >>> task = random_sinusoid(jax.random.key(0), samples=10, validation_samples=20)
        >>> task.training.inputs.shape, task.validation.targets.shape
        ((10, 1), (20,))

    The task has `samples` points for adaptation and `validation_samples` for its evaluation, both
    from 1, without noise and in the default precision.

    Reference:
        Finn, Abbeel and Levine (2017), Model-agnostic meta-learning, section 5.1.
    """
    require_count("samples", samples)
    require_count("validation_samples", validation_samples)
    amplitude_key, phase_key, inputs_key = jax.random.split(key, 3)
    uniform = lambda key, bounds, shape=(): jax.random.uniform(
        key, shape, minval=bounds[0], maxval=bounds[1]
    )
    amplitude, phase = uniform(amplitude_key, AMPLITUDES), uniform(phase_key, PHASES)
    inputs = uniform(inputs_key, INPUTS, (samples + validation_samples, 1))
    targets = amplitude * jnp.sin(inputs[:, 0] - phase)
    # One draw for both parts, which are independent points of one curve.
    examples = lambda rows: Examples(inputs[rows], targets[rows])
    training, validation = slice(samples), slice(samples, None)
    return Sinusoid(amplitude, phase, examples(training), examples(validation))


def squared_error(predict: Callable[[Array], Array], examples: Examples) -> Scalar:
    """Return the mean of (predict(x) - y)^2 over examples; `predict` maps (dim,) to a scalar."""
    return jnp.mean((jax.vmap(predict)(examples.inputs) - examples.targets) ** 2)
