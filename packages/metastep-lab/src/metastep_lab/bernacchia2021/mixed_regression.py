"""Mixed linear regression: the tasks on which MAML with one inner step has an exact optimum.

Every task has its own coefficients w around a common center; MAML looks for parameters omega from
which one gradient step on a few training examples leads to a small loss on the task's validation
examples. The adapted parameters are affine in omega, so that the outer problem is least squares,
and its inputs and targets are affine in the inner step size (the train rate): products of examples
are computed once and shared by all rates, and each rate costs one small Cholesky factorization.
The loss on new tasks is a quadratic form of omega* - center, known exactly, so that no test
examples are needed.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, ArrayLike, Float

from metastep.types import RandomKey, Scalar
from metastep_lab.bernacchia2021.moments import Shape, shaped

Covariance = Float[Array, "dim dim"] | Float[Array, ""]


def _as_float(value: ArrayLike) -> Array:
    return jnp.asarray(value, jnp.result_type(value, float))


class MixedRegression(eqx.Module):
    """A distribution of regressions y = <w, x> + z with normal z.

    w and x are normal, or the symmetric root of their covariance times independent entries of a
    given shape.

    Attributes:
        center: w_0, the mean of the coefficients, shape (dim,).
        noise: sigma, the standard deviation of z, from 0.
        task_covariance: of w, shape (dim, dim), or a number that stands for a multiple of the
            identity: nu^2 / dim where nu is the paper's variability of tasks.
        covariance: of x, in the same way.
        task_shape: of the independent entries of w; normal for None.
        input_shape: of those of x; normal for None.
    """

    center: Float[Array, " dim"] = eqx.field(converter=_as_float)
    noise: Scalar = eqx.field(converter=_as_float)
    task_covariance: Covariance = eqx.field(converter=_as_float)
    covariance: Covariance = eqx.field(converter=_as_float, default=1.0)
    task_shape: Shape | None = None
    input_shape: Shape | None = None

    def __check_init__(self):
        """Refuse negative noise and invalid covariances."""
        # Traced numbers have no values to be checked.
        if not isinstance(self.noise, Tracer) and not self.noise >= 0:
            raise ValueError(f"noise is {self.noise}; allowed are numbers from 0.")
        dim = self.center.size
        for name in ("task_covariance", "covariance"):
            matrix = getattr(self, name)
            if matrix.ndim and matrix.shape != (dim, dim):
                raise ValueError(f"{name} has shape {matrix.shape}; allowed: ({dim}, {dim}) or ().")
            if not isinstance(matrix, Tracer):
                _check_covariance(name, np.atleast_2d(matrix))


def _check_covariance(name: str, matrix: np.ndarray) -> None:
    allowed = "allowed are symmetric positive semi-definite matrices."
    if not np.all(np.isfinite(matrix)):
        raise ValueError(f"{name} has entries that are not finite; {allowed}")
    rounding = 100 * np.finfo(matrix.dtype).eps * np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > rounding:
        raise ValueError(f"{name} is not symmetric; {allowed}")
    lowest = np.linalg.eigvalsh(matrix)[0]
    if lowest < -rounding * matrix.shape[0]:
        raise ValueError(f"{name} has the eigenvalue {lowest:g}; {allowed}")


class Design(NamedTuple):
    """The numbers of examples and tasks.

    Attributes:
        train_samples: n_t, for the inner step during training.
        validation_samples: n_v, for the outer loss, of each task.
        tasks: m, during training.
        target_samples: n_r, for the inner step on a new task.
    """

    train_samples: int
    validation_samples: int
    tasks: int
    target_samples: int

    def check(self) -> None:
        """Raise ValueError naming the first count below 1."""
        for name, count in self._asdict().items():
            if count < 1:
                raise ValueError(f"{name} is {count!r}; allowed are the integers from 1.")


class RegressionTasks(NamedTuple):
    """The examples of a number of tasks, in the order of the arguments of `outer_solution`."""

    train_inputs: Float[Array, "tasks train dim"]
    train_targets: Float[Array, "tasks train"]
    validation_inputs: Float[Array, "tasks validation dim"]
    validation_targets: Float[Array, "tasks validation"]


def draw_tasks(
    key: RandomKey,
    distribution: MixedRegression,
    *,
    tasks: int,
    train_samples: int,
    validation_samples: int,
) -> RegressionTasks:
    """Draw tasks and their examples, in the dtype of the distribution's center.

    The train samples are for the inner step, the validation samples for the outer loss.

    Raises:
        ValueError: for a count below 1.

    Reference:
        Bernacchia (2021), Meta-learning with negative learning rates, section 4.
    """
    Design(train_samples, validation_samples, tasks, target_samples=1).check()
    dim, samples = distribution.center.size, train_samples + validation_samples
    # A single call: compiling the sampler takes longer than running it.
    normal = jax.random.normal(key, (tasks, samples + 1, dim + 1), distribution.center.dtype)
    spread, covariance = distribution.task_covariance, distribution.covariance
    truth = _correlate(spread, normal[:, -1, :-1], distribution.task_shape) + distribution.center
    inputs = _correlate(covariance, normal[:, :-1, :-1], distribution.input_shape)
    targets = jnp.einsum("tnp,tp->tn", inputs, truth) + distribution.noise * normal[:, :-1, -1]
    cut = lambda array: jnp.split(array, [train_samples], axis=1)
    (train_inputs, valid_inputs), (train_targets, valid_targets) = cut(inputs), cut(targets)
    return RegressionTasks(train_inputs, train_targets, valid_inputs, valid_targets)


def _correlate(covariance: Array, normal: Array, shape: Shape | None) -> Array:
    """Turn standard normal vectors into vectors of a covariance, with entries of a shape."""
    if shape is not None:
        normal = shaped(normal, shape)
    if covariance.ndim == 0:
        return jnp.sqrt(covariance) * normal
    values, vectors = jnp.linalg.eigh(covariance)
    # A rotation leaves normal entries normal, and is left out. Entries of another shape have
    # fourth moments that depend on it: those of `new_task_loss` are for the symmetric root.
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    return normal @ (root.T if shape is None else vectors @ root.T)


def outer_solution(
    train_inputs: Float[Array, "tasks train dim"],
    train_targets: Float[Array, "tasks train"],
    validation_inputs: Float[Array, "tasks validation dim"],
    validation_targets: Float[Array, "tasks validation"],
    train_rate: Scalar | float,
    start: Float[Array, " dim"],
) -> Float[Array, " dim"]:
    """Return omega*, the limit of gradient descent on MAML's outer loss.

    The outer loss is the mean of (1/2) |X_v theta - y_v|^2 over all validation examples, with
    theta = omega - (train_rate / train) X_t^T (X_t omega - y_t) in each task. With more parameters
    than validation examples in all tasks, many omega have loss zero and omega* is the one nearest
    to `start`, omega_0; otherwise omega* is unique. The train rate, alpha_t, may have any sign.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from metastep_lab.bernacchia2021.mixed_regression import outer_solution
        >>> inputs = np.random.default_rng(0).standard_normal((4, 11, 3))
        >>> train, valid = jnp.asarray(inputs[:, :5]), jnp.asarray(inputs[:, 5:])
        >>> truth = jnp.array([1.0, 2.0, 3.0])
        >>> examples = (train, train @ truth, valid, valid @ truth)
        >>> omega = outer_solution(*examples, train_rate=-0.1, start=jnp.zeros(3))
        >>> bool(jnp.allclose(omega, truth, rtol=1e-4))
        True

    Returns:
        omega*; NaN where the least squares are singular in floating point. Exact, by normal
        equations: the relative error is the rounding times the squared condition number. Cost: that
        of the Gram matrix of size min(dim, tasks * validation).

    Reference:
        Bernacchia (2021), Eqs. 69 and 83.
    """
    tasks = RegressionTasks(train_inputs, train_targets, validation_inputs, validation_targets)
    return outer_solutions(tasks, jnp.asarray(train_rate)[None], start)[0]


def outer_solutions(
    tasks: RegressionTasks, train_rates: Float[Array, " rates"], start: Float[Array, " dim"]
) -> Float[Array, "rates dim"]:
    """Return `outer_solution` for many train rates; all products of examples are computed once.

    Each rate costs a Cholesky factorization of size min(dim, tasks * validation).
    """
    problem = _outer_problem(tasks)
    return jax.vmap(lambda rate: _solve(problem, rate, start))(train_rates)


class _OuterProblem(NamedTuple):
    """Least squares whose inputs and targets are the first entries minus train rate times second.

    Its products, of inputs with inputs and (with fewer parameters than equations) with targets,
    are sums over pairs of entries.
    """

    inputs: Float[Array, "2 equations dim"]
    targets: Float[Array, "2 equations"]
    gram: Float[Array, "2 2 size size"]
    right: Float[Array, "2 2 dim"] | None


def _outer_problem(tasks: RegressionTasks) -> _OuterProblem:
    # X_v theta = X_v (I - alpha_t X_t^T X_t / n_t) omega + alpha_t X_v X_t^T y_t / n_t (Eqs. 67,
    # 68).
    overlap = jnp.einsum("tvp,tnp->tvn", tasks.validation_inputs, tasks.train_inputs)
    overlap /= tasks.train_inputs.shape[1]
    moved = jnp.einsum("tvn,tnp->tvp", overlap, tasks.train_inputs)
    seen = jnp.einsum("tvn,tn->tv", overlap, tasks.train_targets)
    dim = moved.shape[-1]
    inputs = jnp.stack([tasks.validation_inputs, moved]).reshape(2, -1, dim)
    targets = jnp.stack([tasks.validation_targets, seen]).reshape(2, -1)
    # The smaller of B B^T and B^T B, which is the one that is regular.
    if dim > inputs.shape[1]:
        return _OuterProblem(inputs, targets, jnp.einsum("inp,jmp->ijnm", inputs, inputs), None)
    gram = jnp.einsum("inp,jnq->ijpq", inputs, inputs)
    return _OuterProblem(inputs, targets, gram, jnp.einsum("inp,jn->ijp", inputs, targets))


def _solve(problem: _OuterProblem, rate: Array, start: Array) -> Array:
    """Return omega* by Eq. 69 with more parameters than equations, else by Eq. 83."""
    affine = jnp.stack([jnp.ones_like(rate), -rate]).astype(start.dtype)
    pairs = jnp.outer(affine, affine)
    gram = cho_factor(jnp.tensordot(pairs, problem.gram, 2))
    if problem.right is not None:
        return cho_solve(gram, jnp.tensordot(pairs, problem.right, 2))
    inputs, targets = (jnp.tensordot(affine, x, 1) for x in (problem.inputs, problem.targets))
    return start + cho_solve(gram, targets - inputs @ start) @ inputs


def new_task_loss(
    params: Float[Array, "*batch dim"],
    test_rates: Float[Array, " test_rates"],
    distribution: MixedRegression,
    *,
    target_samples: int,
) -> Float[Array, "*batch test_rates"]:
    """Return the expected loss on a new task after one inner step from given parameters omega.

    (1/2) E (y - <theta, x>)^2 over tasks, target and test examples. Exact: it is quadratic in
    omega - center and in the test rate, alpha_r.

    Args:
        params: omega.
        test_rates: alpha_r, the step sizes of the inner step on the new task.
        distribution: of the tasks.
        target_samples: n_r, the new task's examples for the inner step, from 1.

    Reference:
        Bernacchia (2021), Eq. 65, and Eq. 123 for any covariance.
    """
    errors = params - distribution.center
    matrix = lambda c: c * jnp.eye(errors.shape[-1], dtype=errors.dtype) if c.ndim == 0 else c
    covariance, tasks = matrix(distribution.covariance), matrix(distribution.task_covariance)
    square = covariance @ covariance
    trace, cube = jnp.trace(square), square @ covariance
    # F of normal x (after Eq. 17).
    fourth = 2 * cube + covariance * trace
    if distribution.input_shape is not None:
        values, vectors = jnp.linalg.eigh(covariance)
        root = (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T
        # x = Sigma^{1/2} s: F gains Sigma^{1/2} (kappa - 3) diag(Sigma^{1/2} Sigma Sigma^{1/2})
        # Sigma^{1/2} from the fourth moments of independent entries s.
        fourth += (distribution.input_shape.kurtosis - 3) * (root * jnp.diagonal(square)) @ root
    # Coefficients of test rates to the power 0, 1, 2.
    # The sample covariance S of n_r inputs has E S Sigma S = Sigma^3 + (F - Sigma^3) / n_r; the
    # noise of their targets moves theta by alpha_r X^T z / n_r.
    quadratic = jnp.stack([covariance, -2 * square, cube + (fourth - cube) / target_samples])
    noise = distribution.noise**2 * jnp.array([1.0, 0.0, trace / target_samples])
    constant = noise + jnp.einsum("kpq,pq->k", quadratic, tasks)
    forms = constant + jnp.einsum("...p,kpq,...q->...k", errors, quadratic, errors)
    return forms @ jnp.stack([jnp.ones_like(test_rates), test_rates, test_rates**2]) / 2
