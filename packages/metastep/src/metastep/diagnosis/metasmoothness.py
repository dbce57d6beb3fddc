"""Metasmoothness: whether training responds smoothly to a step of the hyperparameters.

An exact hypergradient may be useless: if the trained parameters jump as a hyperparameter moves,
the slope at one point predicts nothing about the next. Three runs along a line measure this
without derivatives.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metastep.checks import require_key
from metastep.compilation import compiled
from metastep.problems.base import AbstractProblem, advance, require_problem, split_keys, start
from metastep.trees import as_hyperparameters, norm, real_variables
from metastep.types import Inner, Outer, RandomKey, Scalar

PART = 0.1
"""The default length, relative to the size of the hyperparameters."""


@dataclass(frozen=True)
class Metasmoothness:
    """The response of training along a line in the hyperparameters.

    Attributes:
        score: between -1 and 1. Near 1 the trained state continues in the direction of its first
            move; near 0 its two moves are unrelated.
        length: h, the distance between the three points.
        values: the objective at 0, h and 2 h.
    """

    score: float
    length: float
    values: tuple[float, ...]


def metasmoothness(
    problem: AbstractProblem,
    outer: Outer,
    *,
    key: RandomKey,
    direction: Outer | None = None,
    length: float | None = None,
) -> Metasmoothness:
    """Measure how smoothly the trained state responds to a change of the hyperparameters.

    With the states w_0, w_1, w_2 after training at `outer` and at the distances h and 2 h from it,
    and d = |w_2 - w_0| for each number of the state, the score is
    sum_i d_i / |d|_1 sign(w_1 - w_0)_i sign(w_2 - w_1)_i.

    Example:
        The end of gradient descent depends linearly on its target.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: (w - outer["target"]) ** 2 / 2,
        ...     objective=lambda w, outer: w**2,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.1),
        ...     horizon=10,
        ... )
        >>> ms.metasmoothness(problem, {"target": 1.0}, key=jax.random.key(0)).score
        1.0

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters.
        key: determines the trajectory, and the direction if none is given.
        direction: a tree like `outer` of any size but zero; None draws one at random.
        length: h, positive, in the units of `outer`; None is a tenth of the size of `outer`, or of
            a vector of ones if `outer` is zero.

    Returns:
        The score and the three values. Time: three forward runs. Memory: three inner states.

    Raises:
        ValueError: for a length that is not positive, a direction that is zero or has another
            structure than `outer`, and as `hypergradient`.

    Reference:
        Engstrom et al. (2025), Optimizing ML training with metagradient descent, section 3.
    """
    require_key(key)
    require_problem(problem)
    outer = as_hyperparameters(outer)
    flat, unflatten = ravel_pytree(outer)
    if length is not None and not 0 < length < float("inf"):
        raise ValueError(f"length is {length!r}; allowed are None and positive numbers.")
    if direction is None:
        # The direction has a key of its own, since training uses `key`.
        line = jax.random.normal(jax.random.fold_in(key, 5), flat.shape, flat.dtype)
    else:
        if jax.tree.structure(direction) != jax.tree.structure(outer):
            raise ValueError(
                f"direction has the structure {jax.tree.structure(direction)}; allowed is that of "
                f"outer, {jax.tree.structure(outer)}."
            )
        line = ravel_pytree(as_hyperparameters(direction))[0].astype(flat.dtype)
        if not jnp.any(line):
            raise ValueError("direction is zero; give one along which `outer` moves.")
    line = line / jnp.linalg.norm(line)
    reach = length or default_length(outer)
    outers = [unflatten(flat + i * reach * line) for i in range(3)]
    values, ends = zip(*(_ending(problem, at, key) for at in outers), strict=True)
    here, there, beyond = map(float, values)
    return Metasmoothness(smoothness(*ends), reach, (here, there, beyond))


def default_length(outer: Outer) -> float:
    """Return a tenth of the size of the hyperparameters."""
    size = float(norm(outer))
    return PART * (size or float(sum(x.size for x in jax.tree.leaves(outer))) ** 0.5)


@compiled
def _ending(problem: AbstractProblem, outer: Outer, key: RandomKey) -> tuple[Scalar, Any]:
    keys = split_keys(key)
    end = advance(problem, outer, start(problem, outer, keys), keys, problem.horizon)
    value = problem.objective(end.inner, outer, keys.objective)
    return value, real_variables(end.inner)[0]


def smoothness(*ends: Inner) -> float:
    """Return the score of three trained states; 1 if they are equal, NaN where infinity moves."""
    flat = lambda tree: np.concatenate([np.ravel(np.asarray(x)) for x in jax.tree.leaves(tree)])
    rows = np.stack([flat(end).astype(np.float64) for end in ends])
    # What has not moved has no weight; of an infinite number (the best loss before the first one)
    # the difference would be NaN.
    one, two, three = rows[:, rows[0] != rows[2]]
    with np.errstate(all="ignore"):
        # Signs, weighted by the whole move: a few large coordinates that jump decide, not noise.
        moved = np.abs(three - one)
        agreement = np.sum(moved * np.sign(two - one) * np.sign(three - two))
        return float(agreement / np.sum(moved)) if moved.size else 1.0
