"""Gradient descent on least squares with all step sizes of a grid at once.

Two ways to draw the same losses. `dense_losses` runs descent on a task's examples, the weights of
all step sizes being the columns of one matrix. The spectral way never draws the examples: for
Gaussian inputs the singular values of X, and the coordinates of truth and noise in its singular
vectors, have known laws, in which descent is diagonal. It is exact in law, jointly over step sizes,
and costs O(dim x step sizes) per inner step instead of O(samples x dim x step sizes).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.linalg import eigvalsh_tridiagonal
from scipy.stats import wishart

from metastep.compilation import compiled
from metastep.tasks.least_squares import LeastSquares

RADIUS = 40.0
"""A run has diverged once |w| reaches this many noise levels (footnote 3)."""
Columns = Float[Array, "*tasks steps"]


class GridLosses(eqx.Module):
    """The end of descent from 0, for every step size of a grid.

    Attributes:
        training: |X w - y|^2 / (2 n) on the training examples.
        validation: the same on the validation examples.
        error: |w - w*|^2.
        stopped: whether |w| reached the radius, after which w is the radius times a fixed unit
            vector.
    """

    training: Columns
    validation: Columns
    error: Columns
    stopped: Bool[Array, "*tasks steps"]


def dense_losses(
    task: LeastSquares,
    step_sizes: Float[Array, " steps"],
    *,
    horizon: int,
    radius: float | Array,
) -> GridLosses:
    """Run descent on the examples of a task with every step size at once.

    Each step is one product with X and one with X^T, or one with X^T X where forming that is
    cheaper over the whole run. A run is stopped after the first step with |w| >= radius; with an
    infinite radius, never. Peak memory: the examples and three matrices of shape (dim, steps).

    Reference:
        Wang et al. (2021), section 4 and footnote 3.
    """
    inputs, targets = task.training.inputs, task.training.targets
    samples, dim = inputs.shape
    columns = step_sizes.size
    # Multiplications of both ways, each divided by dim.
    by_examples = 2 * samples * columns * horizon
    by_gram = (samples * dim) + dim * columns * horizon
    if by_gram < by_examples:
        gram, target = inputs.T @ inputs / samples, inputs.T @ targets / samples
        gradient = lambda weights: gram @ weights - target[:, None]
    else:
        gradient = lambda weights: inputs.T @ (inputs @ weights - targets[:, None]) / samples

    def body(
        carry: tuple[Array, Array], _: None
    ) -> tuple[tuple[Float[Array, "dim steps"], Bool[Array, " steps"]], None]:
        weights, stopped = carry
        after = weights - step_sizes * gradient(weights)
        # Not `>=`: a norm that is no number counts as outside.
        stopped = stopped | ~(jnp.sum(after**2, axis=0) < radius**2)
        # The last weights inside: stopped columns never overflow, whatever follows.
        return (jnp.where(stopped, weights, after), stopped), None

    begin = jnp.zeros((dim, columns), inputs.dtype), jnp.zeros(columns, bool)
    (weights, stopped), _ = jax.lax.scan(body, begin, None, length=horizon)
    # Footnote 3 allows an arbitrary unit vector u; here all its entries are equal.
    weights = jnp.where(stopped, radius / jnp.sqrt(dim), weights)
    half_mean = lambda batch: (
        jnp.sum((batch.inputs @ weights - batch.targets[:, None]) ** 2, axis=0)
        / (2 * batch.targets.size)
    )
    error = jnp.sum((weights - task.truth[:, None]) ** 2, axis=0)
    return GridLosses(half_mean(task.training), half_mean(task.validation), error, stopped)


class SpectralTasks(eqx.Module):
    """Least squares tasks in the singular basis of their inputs, m = min(samples, dim).

    Attributes:
        singular_values: of X, shape (tasks, m).
        truth: coordinates of w*, and the length of the rest of it, shape (tasks, m + 1).
        targets: coordinates of y, and the length of the rest of it, shape (tasks, m + 1).
        far: a fixed unit vector for stopped runs, in the same coordinates and one that is
            orthogonal to all of them, shape (tasks, m + 2).
        moments: sum of g g^T over the validation examples, g standard normal with one entry per
            step size and one for the noise, shape (tasks, steps + 1, steps + 1).
        noise: sigma, shape (tasks,).
        samples: training examples per task.
        validation_samples: validation examples per task.
    """

    singular_values: Float[Array, "tasks m"]
    truth: Float[Array, "tasks m_and_rest"]
    targets: Float[Array, "tasks m_and_rest"]
    far: Float[Array, "tasks m_and_two"]
    moments: Float[Array, "tasks columns columns"]
    noise: Float[Array, " tasks"]
    samples: int = eqx.field(static=True)
    validation_samples: int = eqx.field(static=True)


def draw_spectral_tasks(
    generator: np.random.Generator,
    *,
    tasks: int,
    dim: int,
    samples: int,
    noise: float,
    validation_samples: int,
    steps: int,
) -> SpectralTasks:
    """Draw tasks as `random_least_squares` does, in law, without drawing an input.

    `steps` is the number of step sizes that `spectral_losses` will be given. Cost per task O(min(n,
    d)^2) for the singular values and O(steps^2) for the validation set, independently of its size.
    In float64 where it is enabled.

    Raises:
        ValueError: for a size below 1 or a negative noise.

    Reference:
        Dumitriu and Edelman (2002), Matrix models for beta ensembles, for the singular values.
    """
    sizes = {"tasks": tasks, "dim": dim, "samples": samples, "steps": steps}
    for name, size in (sizes | {"validation_samples": validation_samples}).items():
        if size < 1:
            raise ValueError(f"{name} is {size!r}; allowed are the integers from 1.")
    if not noise >= 0:
        raise ValueError(f"noise is {noise!r}; allowed are numbers from 0.")
    values = np.stack([_singular_values(generator, samples, dim) for _ in range(tasks)])
    count = values.shape[1]
    truth = _normalised(_gaussian_with_rest(generator, tasks, dim, count))
    noisy = noise * _gaussian_with_rest(generator, tasks, samples, count)
    noisy[:, :count] += values * truth[:, :count]
    # The singular vectors of Gaussian inputs are uniform: any fixed unit vector has coordinates in
    # them that are uniform on the sphere.
    far = _unit_vectors(generator, tasks, dim, count)
    columns = steps + 1
    # SciPy draws Wishart matrices only with at least as many degrees of freedom as columns, and
    # without the first axis if there is one task.
    if validation_samples >= columns:
        moments = wishart.rvs(
            validation_samples, np.eye(columns), size=tasks, random_state=generator
        ).reshape(tasks, columns, columns)
    else:
        vectors = generator.standard_normal((tasks, validation_samples, columns))
        moments = vectors.transpose(0, 2, 1) @ vectors
    return SpectralTasks(
        singular_values=jnp.asarray(values),
        truth=jnp.asarray(truth),
        targets=jnp.asarray(noisy),
        far=jnp.asarray(far),
        moments=jnp.asarray(moments),
        noise=jnp.full(tasks, noise),
        samples=samples,
        validation_samples=validation_samples,
    )


def _singular_values(generator: np.random.Generator, samples: int, dim: int) -> np.ndarray:
    """Draw the singular values of a standard normal (samples, dim) matrix.

    They are those of a bidiagonal matrix with independent chi entries; its Gram matrix is
    tridiagonal.
    """
    longer, count = max(samples, dim), min(samples, dim)
    # B is lower bidiagonal with a_i^2 ~ chi^2(longer - i) and, below, b_i^2 ~ chi^2(count - 1 -
    # i): the diagonal of B B^T is a_i^2 + b_{i-1}^2, and beside it stands a_i b_i.
    diagonal = generator.chisquare(longer - np.arange(count))
    below = generator.chisquare(np.arange(count - 1, 0, -1)) if count > 1 else np.empty(0)
    gram = diagonal + np.append(0.0, below)
    eigenvalues = eigvalsh_tridiagonal(gram, np.sqrt(diagonal[:-1] * below))
    # Rounding can make the smallest one negative, and descent divides by its root.
    return np.sqrt(np.maximum(eigenvalues, np.finfo(np.float64).tiny))


def _gaussian_with_rest(
    generator: np.random.Generator, tasks: int, size: int, count: int
) -> np.ndarray:
    """Draw `count` coordinates of a standard normal vector and the length of the others."""
    rest = generator.chisquare(size - count, (tasks, 1)) if size > count else np.zeros((tasks, 1))
    return np.hstack([generator.standard_normal((tasks, count)), np.sqrt(rest)])


def _unit_vectors(generator: np.random.Generator, tasks: int, dim: int, count: int) -> np.ndarray:
    """Draw uniform unit vectors: `count` coordinates, one along the rest of w*, and the rest."""
    if dim == count:
        drawn = generator.standard_normal((tasks, count))
        return np.pad(_normalised(drawn), ((0, 0), (0, 2)))
    return _normalised(_gaussian_with_rest(generator, tasks, dim, count + 1))


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@compiled
def spectral_losses(
    drawn: SpectralTasks,
    step_sizes: Float[Array, " steps"],
    *,
    horizon: int,
    radius: float | Array,
) -> GridLosses:
    """Run descent on tasks in their singular basis, with every step size at once.

    The tasks were drawn for this number of step sizes; the radius is that of `dense_losses`. Peak
    memory beyond the tasks: a few matrices of shape (dim, steps), one task after the other.
    """
    one = lambda task: _one_spectral_task(task, step_sizes, horizon=horizon, radius=radius)
    return jax.lax.map(one, drawn)


def _one_spectral_task(
    task: SpectralTasks, step_sizes: Array, *, horizon: int, radius: float | Array
) -> GridLosses:
    values, targets = task.singular_values[:, None], task.targets[:-1, None]
    # In the right singular vectors w_t = (1 - rates^t) y / s, and the residual is rates^t y.
    rates = 1 - step_sizes * values**2 / task.samples
    solution = targets / values

    def body(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        left, stopped = carry
        # Step by step, not as a power: a run ends at the first step that is outside.
        left = left * rates
        squared = jnp.sum(((1 - left) * solution) ** 2, axis=0)
        return (left, stopped | ~(squared < radius**2)), None

    begin = jnp.ones_like(rates), jnp.zeros(step_sizes.shape, bool)
    (left, stopped), _ = jax.lax.scan(body, begin, None, length=horizon)
    truth, far = jnp.append(task.truth, 0.0)[:, None], radius * task.far[:, None]
    weights = jnp.concatenate([(1 - left) * solution, jnp.zeros((2, step_sizes.size))])
    weights = jnp.where(stopped, far, weights)
    # left * targets, not targets - values * weights, which cancels once the fit is good.
    residuals = jnp.where(stopped, targets - values * far[:-2], left * targets)
    errors = weights - truth
    # Validation examples are standard normal: only the Gram matrix of the errors matters. Its
    # factor by QR distinguishes step sizes whose errors are nearly the same.
    factor = jnp.linalg.qr(errors, mode="r")
    seen = jnp.zeros((step_sizes.size, step_sizes.size)).at[: factor.shape[0]].set(factor)
    # The residual of a validation example is g.(factor column) plus noise; the sign of the noise,
    # and of the rows of the factor, does not matter to a Gaussian g.
    seen = jnp.concatenate([seen, jnp.full((1, step_sizes.size), task.noise)])
    return GridLosses(
        training=(jnp.sum(residuals**2, axis=0) + task.targets[-1] ** 2) / (2 * task.samples),
        validation=jnp.sum(seen * (task.moments @ seen), axis=0) / (2 * task.validation_samples),
        error=jnp.sum(errors**2, axis=0),
        stopped=stopped,
    )
