"""Hypergradients of a batch of tasks: all at once (`jax.vmap`) or one by one (`jax.lax.map`)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
from ours import KEY, JaxMethod, NetworkTask

import metastep as ms

ORDERS = {"vmap": jax.vmap, "map": lambda function: lambda tasks: jax.lax.map(function, tasks)}
QUADRATICS, DIM, HORIZON = 64, 20, 100
NETWORKS = 4


class Quadratic(eqx.Module):
    """The loss w^T H w / 2 - b^T w."""

    hessian: jax.Array
    linear: jax.Array

    def __call__(self, params: jax.Array, outer: jax.Array, batch: None) -> jax.Array:
        """Return it; it does not depend on the hyperparameter."""
        del outer, batch
        return params @ self.hessian @ params / 2 - self.linear @ params


def quadratics(data: None, order: str) -> JaxMethod:
    """Tune the logarithm of the step size of many small quadratic tasks."""
    del data
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(QUADRATICS, DIM, 2 * DIM)) / np.sqrt(2 * DIM)
    hessians = jnp.asarray(factors @ factors.swapaxes(1, 2), jnp.float32)
    tasks = Quadratic(hessians, jnp.asarray(rng.normal(size=(QUADRATICS, DIM)), jnp.float32))
    outer = jnp.full((QUADRATICS,), jnp.log(0.05))

    def grad(task_and_outer: tuple[Quadratic, jax.Array]) -> jax.Array:
        task, outer = task_and_outer
        problem = ms.TrainingProblem(
            loss=task,
            objective=lambda params, outer: task(params, outer, None),
            init_params=jnp.zeros(DIM),
            optimizer=lambda outer: optax.sgd(jnp.exp(outer)),
            horizon=HORIZON,
        )
        return ms.hypergradient(problem, outer, ms.Reverse(), key=jax.random.key(KEY)).grad

    return JaxMethod(ORDERS[order](grad), (tasks, outer), jit=True)


def networks(data: None, order: str) -> JaxMethod:
    """Tune the weight decays of a few networks."""
    del data
    cases = [problems.mlp(seed=seed) for seed in range(NETWORKS)]
    tasks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(NetworkTask, cases))

    def grad(task: NetworkTask) -> jax.Array:
        problem = task.problem(cases[0].step_size, cases[0].horizon)
        key = jax.random.key(KEY)
        return ms.hypergradient(problem, task.outer, ms.Reverse(), key=key).grad

    return JaxMethod(ORDERS[order](grad), tasks, jit=True)


def reference_product(data: object, size: int) -> JaxMethod:
    """One large matrix product: what the machine can do at this moment."""
    del data
    matrix = jnp.asarray(np.random.default_rng(4).random((size, size)), jnp.float32)
    return JaxMethod(lambda matrix: matrix @ matrix, matrix, jit=True)
