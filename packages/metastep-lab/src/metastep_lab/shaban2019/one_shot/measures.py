"""The measurements of `one-shot` at given hyperparameters, compiled once for all methods."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

import metastep as ms
from metastep.compilation import compiled
from metastep.diagnosis.bias_curve import bias_curve
from metastep.problems.base import split_keys
from metastep.trees import cosine, norm, subtract
from metastep.types import Outer, RandomKey
from metastep_lab.shaban2019.one_shot.characters import Episode, Hyperparameters, encode, query_loss
from metastep_lab.shaban2019.one_shot.problem import AbstractEncodedProblem, HeadProblem, Tasks


@compiled
def _draw(tasks: Tasks, keys: Key[Array, " tasks"]) -> Episode:
    return jax.lax.map(lambda key: tasks(key).head.episode, keys)


@compiled
def _judge(
    episodes: Episode, outer: Hyperparameters, horizon: int, normalized: bool
) -> tuple[Array, Array]:
    def one(episode: Episode) -> tuple[Array, Array]:
        problem = HeadProblem(episode=episode, horizon=horizon, normalized=normalized)
        encoded = encode(outer, episode)
        head = ms.unroll(problem, encoded, jax.random.key(0))
        loss, correct = query_loss(head, encoded, episode.labels, normalized)
        return correct, loss

    return jax.lax.map(one, episodes)


def judge(
    tasks: Tasks, keys: Key[Array, " tasks"], outer: Hyperparameters, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a head to a task for each key, `at_once` in one call of a compiled function.

    Returns the fraction of correctly classified queries and their mean loss, of shape (tasks,).
    """
    found = []
    for first in range(0, len(keys), at_once):
        drawn = _draw(tasks, keys[first : first + at_once])
        found.append(_judge(drawn, outer, tasks.horizon, tasks.normalized))
    correct, loss = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return correct, loss


@compiled
def _truncations(
    tasks: Callable[[RandomKey], AbstractEncodedProblem],
    keys: Key[Array, " tasks"],
    outer: Outer,
    windows: tuple[int, ...],
) -> tuple[Array, ...]:
    def one(key: Key[Array, ""]) -> Outer:
        problem = tasks(key)
        # One pass back through the representation for each window; `encode` itself runs once.
        encoded, pull_back = jax.vjp(problem.encode, outer)
        curve = bias_curve(problem.head, encoded, split_keys(key), windows)
        join = lambda many, last: jnp.concatenate([many, last[None]])
        grads = jax.tree.map(join, curve.truncated, curve.exact)
        return jax.lax.map(lambda grad: pull_back(grad)[0], grads)

    def against_last(grads: Outer) -> tuple[Array, Array]:
        exact = jax.tree.map(lambda x: x[-1], grads)

        def against(grad: Outer) -> tuple[Array, Array]:
            return norm(subtract(grad, exact)) / norm(exact), cosine(grad, exact)

        return jax.vmap(against)(jax.tree.map(lambda x: x[:-1], grads))

    grads = jax.lax.map(one, keys)
    # What an outer step follows is the mean over its tasks: its cosine is not the mean of cosines.
    averaged = against_last(jax.tree.map(lambda x: jnp.mean(x, axis=0), grads))
    errors, cosines = jax.vmap(against_last)(grads)
    return *averaged, jnp.median(errors, axis=0), jnp.median(cosines, axis=0)


def truncations(
    tasks: Callable[[RandomKey], AbstractEncodedProblem],
    keys: Key[Array, " tasks"],
    outer: Outer,
    windows: tuple[int, ...],
) -> tuple[np.ndarray, ...]:
    """Compare K-RMD for many windows with the exact gradient, initial state included.

    Returns relative error and cosine of the gradients averaged over the tasks, of shape (windows,);
    medians of the single tasks' errors and cosines, likewise.
    """
    return tuple(map(np.asarray, _truncations(tasks, keys, outer, windows)))
