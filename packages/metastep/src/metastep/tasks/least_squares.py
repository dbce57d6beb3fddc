"""Least squares with Gaussian inputs: tasks on which a tuned step size overfits or underfits."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from metastep.checks import require, require_count
from metastep.types import Outer, RandomKey, Scalar


class Examples(eqx.Module):
    """Inputs and targets of a regression.

    Attributes:
        inputs: X, shape (samples, dim).
        targets: y, shape (samples,).
    """

    inputs: Float[Array, "samples dim"]
    targets: Float[Array, " samples"]


class LeastSquares(eqx.Module):
    """A linear regression y = <w*, x> + noise, with training and validation examples.

    `loss` takes a batch of examples, or None for all training examples. The two objectives are
    `objectives.train_by_train(task.loss, task.training)` and
    `objectives.train_by_validation(task.loss, task.validation)`.

    Attributes:
        truth: w*, shape (dim,).
        training: the examples for the inner descent.
        validation: the held-out examples.
    """

    truth: Float[Array, " dim"]
    training: Examples
    validation: Examples

    def loss(
        self, params: Float[Array, " dim"], outer: Outer = None, batch: Examples | None = None
    ) -> Scalar:
        """Return |X w - y|^2 / (2 n) over a batch; None for all training examples."""
        del outer
        batch = self.training if batch is None else batch
        residuals = batch.inputs @ params - batch.targets
        return jnp.sum(residuals**2) / (2 * batch.targets.size)

    def one_example(self, t: Int[Array, ""] | int, key: RandomKey) -> Examples:
        """Return one training example drawn uniformly: the batch of stochastic descent."""
        del t
        # With the axis of examples, so that `loss` is the same for one and for many.
        row = jax.random.randint(key, (1,), 0, self.training.targets.size)
        return Examples(self.training.inputs[row], self.training.targets[row])

    def start(self) -> Float[Array, " dim"]:
        """Return w_0 = 0, the start of the paper's descent."""
        return jnp.zeros_like(self.truth)


def random_least_squares(
    key: RandomKey,
    *,
    dim: int,
    samples: int,
    noise: float,
    validation_samples: int | None = None,
) -> LeastSquares:
    """Draw a task: w* uniform on the unit sphere, standard normal inputs, normal noise.

    Example:
        >>> import jax
        >>> from metastep.tasks import random_least_squares
        >>> task = random_least_squares(jax.random.key(0), dim=3, samples=5, noise=1.0)
        >>> task.training.inputs.shape, task.validation.targets.shape
        ((5, 3), (5,))

    Args:
        key: a random key.
        dim: the number of coefficients d.
        samples: training examples n (n_1 of train-by-validation).
        noise: sigma, the standard deviation of the noise, from 0.
        validation_samples: n_2; None for the value of `samples`.

    Returns:
        The task, in the default precision.

    Reference:
        Wang et al. (2021), section 4.
    """
    validation_samples = samples if validation_samples is None else validation_samples
    require_count("dim", dim)
    require_count("samples", samples)
    require_count("validation_samples", validation_samples)
    # A traced noise level has no value to check.
    require(isinstance(noise, Tracer) or noise >= 0, "noise", noise, "numbers from 0")
    truth_key, training_key, validation_key = jax.random.split(key, 3)
    direction = jax.random.normal(truth_key, (dim,))
    # A normalized Gaussian vector is uniform on the sphere.
    truth = direction / jnp.linalg.norm(direction)

    def draw(key: RandomKey, count: int) -> Examples:
        inputs_key, noise_key = jax.random.split(key)
        inputs = jax.random.normal(inputs_key, (count, dim))
        return Examples(inputs, inputs @ truth + noise * jax.random.normal(noise_key, (count,)))

    training, validation = draw(training_key, samples), draw(validation_key, validation_samples)
    return LeastSquares(truth, training, validation)
