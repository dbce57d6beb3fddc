"""The interface of a learned optimizer: weights, and a map from weights to a transformation."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from metastep.types import RandomKey


class AbstractLearnedOptimizer(eqx.Module):
    """A family of optax transformations, one for each value of the weights theta.

    An instance holds what is not learned. `optimizer(weights)` is an optax transformation for any
    training loop. `TrainingProblem(optimizer=optimizer, ...)` takes the family itself: the weights
    are then the hyperparameters `outer`, for every estimator.

    Attributes:
        state_depends_on_weights: whether the state depends on the weights for gradients that do
            not. If not, a first-order meta-gradient needs no derivative of the state.
    """

    state_depends_on_weights: ClassVar[bool]

    @abc.abstractmethod
    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return initial weights for meta-training: nested dictionaries of float arrays."""

    @abc.abstractmethod
    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation for these weights, which may be traced."""


def check_params(params: PyTree) -> None:
    """Refuse parameters without leaves, and leaves that are not real floating-point arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params has no leaves (it is {params!r}); allowed: at least one array.")
    for path, leaf in leaves:
        # A Python number has no `dtype`.
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has dtype {dtype}; allowed are real "
                "floating-point arrays. Train the others apart: equinox.partition(params, "
                "equinox.is_inexact_array)."
            )


def cast(weights: PyTree, like: Array) -> PyTree:
    """Return the weights in the precision of a parameter array."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, like.dtype), weights)
