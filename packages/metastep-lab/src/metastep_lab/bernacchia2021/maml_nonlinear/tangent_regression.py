"""MAML in the linearized limit of a wide network, where the outer problem has an exact solution.

Linearized at its initial weights, a network is a linear model whose inputs are the gradients of
its outputs. MAML then depends only on the inner products of these gradients, the
tangent kernel. One inner step is linear, so that the predictions on all validation examples are
P K a for weights that have moved by sum_j a_j k(x_j), with K the kernel of all training examples
and P = [I, -(train_rate / n) K_vt]; the outer descent moves along the rows of P.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.types import Scalar
from metastep_lab.bernacchia2021.maml_nonlinear.nonlinear_regression import Network, Trace, trace
from metastep_lab.bernacchia2021.mixed_regression import RegressionTasks


def tangent_kernel(first: Trace, second: Trace) -> Float[Array, "*batch first second"]:
    """Return the inner products of the gradients of outputs, without forming the gradients.

    Both traces are of the same network. The kernel is the empirical neural tangent kernel, exact.

    Reference:
        Jacot et al. (2018), Neural tangent kernel.
    """
    product = lambda a, b: a @ jnp.swapaxes(b, -1, -2)
    layers = zip(first.activations, second.activations, first.signals, second.signals, strict=True)
    return sum(
        # Gradients are outer products: (h d^T).(g e^T) = (h.g) (d.e); the bias adds d.e.
        ((product(h, g) + 1) * product(d, e) for h, g, d, e in layers),
        start=jnp.zeros((), first.outputs.dtype),
    )


class TangentProblem(NamedTuple):
    """The linearized outer problem; everything is affine in the train rate.

    Attributes:
        examples: of all validation examples, then all train examples.
        kernel: of these examples.
        pull: K_vt / n within each task, zero between tasks, shape (validation, train).
        residuals: targets minus outputs of the examples before training.
    """

    examples: Trace
    kernel: Float[Array, "examples examples"]
    pull: Float[Array, "validation train"]
    residuals: Float[Array, " examples"]


def tangent_problem(network: Network, tasks: RegressionTasks) -> TangentProblem:
    """Linearize MAML on the training tasks at the initial weights."""
    count, samples, dim = tasks.train_inputs.shape
    flat = lambda x: x.reshape(-1, dim)
    inputs = jnp.concatenate([flat(tasks.validation_inputs), flat(tasks.train_inputs)])
    targets = [tasks.validation_targets.reshape(-1), tasks.train_targets.reshape(-1)]
    examples = trace(network, inputs)
    kernel = tangent_kernel(examples, examples)
    validation = targets[0].size
    same = jnp.repeat(jnp.eye(count, dtype=kernel.dtype), validation // count, axis=0)
    same = jnp.repeat(same, samples, axis=1)
    pull = same * kernel[:validation, validation:] / samples
    return TangentProblem(examples, kernel, pull, jnp.concatenate(targets) - examples.outputs)


def outer_coefficients(
    problem: TangentProblem,
    train_rate: Scalar | float,
    step_size: Scalar | float = 0.001,
    epochs: Scalar | float = jnp.inf,
) -> Float[Array, " examples"]:
    """Return the weights after some steps of the outer descent, as coefficients of the gradients.

    The weights have moved by sum_j a_j k(x_j). With epochs = inf that is the solution of the outer
    problem, loss zero, that is nearest to the initial weights.

    Args:
        problem: from `tangent_problem`.
        train_rate: alpha_t, the inner step size, of any sign.
        step_size: of the outer descent on (1/2) mean squared error; has no effect at inf.
        epochs: steps of the outer descent, a whole number or inf.

    Returns:
        a. Exact, by the eigendecomposition of the matrix of the outer least squares, which has one
        row for each validation example; not finite where that is singular, or where the descent
        diverges.

    Reference:
        Bernacchia (2021), Eqs. 12, 13 and 69.
    """
    pull = -train_rate * problem.pull
    rows = jnp.concatenate([jnp.eye(pull.shape[0], dtype=pull.dtype), pull], axis=1)
    eigenvalues, vectors = jnp.linalg.eigh(rows @ problem.kernel @ rows.T)
    # The outer loss is a mean over the validation examples.
    shrunk = 1 - step_size * eigenvalues / pull.shape[0]
    # A negative base to a float power is NaN, as is inf % 2: the sign is put back by hand.
    odd = jnp.where(jnp.isfinite(epochs), epochs % 2 == 1, False)
    power = jnp.abs(shrunk) ** epochs * jnp.where(odd, jnp.sign(shrunk), 1)
    # A geometric series; at inf also where the descent with this step size would diverge.
    learned = jnp.where(jnp.isfinite(epochs), 1 - power, 1) / eigenvalues
    return rows.T @ (vectors @ (learned * (vectors.T @ (rows @ problem.residuals))))


def tangent_losses(
    network: Network,
    problem: TangentProblem,
    coefficients: Float[Array, "settings examples"],
    tasks: RegressionTasks,
    test_rates: Float[Array, " test_rates"],
) -> Float[Array, "settings test_rates"]:
    """Return the mean loss on new tasks after one inner step of the linearized network on each.

    Args:
        network: the initial weights, at which `problem` was linearized.
        problem: the training problem.
        coefficients: from `outer_coefficients`, one row for each setting.
        tasks: new tasks, as in `nonlinear_regression.new_task_losses`.
        test_rates: alpha_r.
    """
    samples = tasks.train_targets.shape[1]

    def one(task: RegressionTasks) -> Array:
        target, test = (trace(network, x) for x in (task.train_inputs, task.validation_inputs))
        moved = lambda seen: coefficients @ tangent_kernel(problem.examples, seen) + seen.outputs
        left = moved(target) - task.train_targets
        before = moved(test) - task.validation_targets
        step = left @ tangent_kernel(target, test) / samples
        after = before[:, None] - test_rates[:, None] * step[:, None]
        return jnp.mean(after**2, axis=-1) / 2

    return jnp.mean(jax.lax.map(one, tasks), axis=0)
