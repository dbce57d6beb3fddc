"""The methods that exact scores are compared with: cheaper derivatives, and gradient cosines."""

from collections.abc import Mapping
from time import perf_counter

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

import metastep as ms
from metastep.attribution import attribute
from metastep.compilation import compiled
from metastep_lab.studies.data_attribution.models import Training

COSINE = "gradient cosine"
METHODS = ("exact", "truncated", "implicit", COSINE)
SOLVER = lx.GMRES(rtol=1e-3, atol=0.0, restart=50, max_steps=100)


def other_scores(
    training: Training, queries: PyTree[Array], window: int, key: Array
) -> Mapping[str, tuple[np.ndarray, float]]:
    """Return the scores, (queries, examples), and the seconds of all methods but the exact one.

    `window` is the number of last steps that the truncated scores differentiate. Implicit
    differentiation (influence functions) is left out if a step uses a batch of the examples: such
    training has no fixed point.
    """
    total = len(jax.tree.leaves(training.examples)[0])
    estimators: dict[str, ms.AbstractEstimator] = {"truncated": ms.TruncatedReverse(window)}
    if training.batches is None:
        estimators["implicit"] = ms.Implicit(SOLVER)
    found = {}
    for name, estimator in estimators.items():
        begin = perf_counter()
        # Without checks, which would be those of the exact scores and are no part of the cost.
        made = attribute(training, total, queries, estimator=estimator, key=key, share=None)
        found[name] = (np.asarray(made.scores, np.float64), perf_counter() - begin)
    begin = perf_counter()
    angles = np.asarray(gradient_cosine(training, queries, key), np.float64)
    found[COSINE] = (angles, perf_counter() - begin)
    return found


@compiled
def gradient_cosine(
    training: Training, queries: PyTree[Array], key: Array
) -> Float[Array, "queries examples"]:
    """Return minus the cosine between the gradients of queries and examples after training.

    It is negative where a step on the example lowers the query.
    """
    total = len(jax.tree.leaves(training.examples)[0])
    problem = training(jax.tree.map(lambda x: x[0], queries))
    params = ms.unroll(problem, jnp.ones(total), key).params

    def direction(one: PyTree) -> Array:
        flat, _ = ravel_pytree(jax.grad(training.model.loss)(params, one))
        # An example that is fitted perfectly has no direction; its cosine counts as zero.
        return flat / (jnp.linalg.norm(flat) + jnp.finfo(flat.dtype).tiny)

    of_queries, of_examples = (jax.vmap(direction)(rows) for rows in (queries, training.examples))
    return -of_queries @ of_examples.T
