"""One problem per query: the same training with another objective."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from metastep.estimators.base import influences
from metastep.problems.base import AbstractProblem, advance, split_keys, start, take_step
from metastep.trees import as_arrays, leaf_names, real_variables
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex

Asked = AbstractProblem | Callable[[PyTree], AbstractProblem]
"""A problem, or a function from a query to one."""


def as_queries(problem: Asked, queries: PyTree) -> PyTree[Array]:
    """Return queries as arrays with one row each; a plain problem has one empty row."""
    if isinstance(problem, AbstractProblem):
        if queries is not None:
            raise ValueError(
                "queries are given, and problem is one problem with one objective: give a function "
                "`query -> problem`, or no queries."
            )
        # No number, but one row: the code for many queries serves one problem too.
        return jnp.zeros((1, 0))
    if queries is None:
        raise ValueError(
            "problem is a function of a query, and queries is None: give arrays with one row for "
            "each query, such as (inputs, labels)."
        )
    queries = as_arrays(queries)
    leaves = jax.tree.leaves(queries)
    if not leaves or not all(eqx.is_array(leaf) and leaf.ndim for leaf in leaves):
        held = ", ".join(
            f"{leaf.dtype}{list(leaf.shape)}" if eqx.is_array(leaf) else repr(leaf)
            for leaf in leaves
        )
        raise ValueError(
            f"queries holds {held or 'nothing'}; allowed are arrays with one row for each query. "
            "Of one query (x, label), give (x[None], label[None])."
        )
    lengths = [len(leaf) for leaf in leaves]
    if len(set(lengths)) > 1 or not lengths[0]:
        named = ", ".join(
            f"{name or 'it'} {length}"
            for name, length in zip(leaf_names(queries), lengths, strict=True)
        )
        raise ValueError(
            f"queries has arrays of these numbers of rows: {named}; allowed is one number, from 1."
        )
    return queries


def problem_of(problem: Asked, query: PyTree) -> AbstractProblem:
    """Return the problem of one query."""
    if isinstance(problem, AbstractProblem):
        return problem
    made = problem(query)
    if not isinstance(made, AbstractProblem):
        raise ValueError(
            f"problem returned a {type(made).__name__} for a query; it must return a problem, such "
            "as a TrainingProblem."
        )
    return made


class Question(AbstractProblem):
    """The problem of one query. The query is a leaf, so one compiled program serves all."""

    problem: Asked
    query: PyTree
    horizon: int = eqx.field(static=True)

    def __init__(self, problem: Asked, query: PyTree):
        self.problem = problem
        self.query = query
        self.horizon = problem_of(problem, query).horizon

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the state before training."""
        return problem_of(self.problem, self.query).init(outer, key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of training."""
        return problem_of(self.problem, self.query).step(inner, outer, t, key)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the objective of the query."""
        return problem_of(self.problem, self.query).objective(inner, outer, key)


def outcomes(
    problem: Asked, weights: Outer, queries: PyTree[Array], key: RandomKey
) -> Float[Array, " queries"]:
    """Train with these weights and return the objective of every query.

    Training does not depend on the query, so it is not repeated under `vmap`.
    """

    def outcome(query: PyTree) -> Array:
        asked, keys = problem_of(problem, query), split_keys(key)
        end = advance(asked, weights, start(asked, weights, keys), keys, asked.horizon)
        return asked.objective(end.inner, weights, keys.objective)

    return jax.vmap(outcome)(queries)


def require_connected(problem: AbstractProblem, weights: Outer, key: RandomKey) -> None:
    """Refuse weights that training does not use, and queries without a derivative.

    Costs a few traces and no computation.
    """
    keys = split_keys(key)

    # One step is enough: a weight that never reaches a step does not reach the end.
    def moved(weights: Outer) -> PyTree:
        begin = start(problem, weights, keys)
        return real_variables(take_step(problem, weights, begin, keys).inner)[0]

    reached = zip(leaf_names(weights), influences(moved, weights), strict=True)
    if lost := ["examples" + name for name, good in reached if not good]:
        raise ValueError(
            f"{', '.join(lost)} cannot reach the training loss: a step of training has no "
            "derivative with respect to these weights. Multiply the loss of each example by its "
            "weight, and do not round, compare or stop the gradient of the weights."
        )
    # Zeros serve as a trained state: influence is a matter of structure, and nothing is run.
    shapes = eqx.filter_eval_shape(lambda: start(problem, weights, keys).inner)
    inner = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if _is_numeric(x) else x,
        shapes,
        is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct),
    )
    variables, restore = real_variables(inner)
    judged = lambda variables: problem.objective(restore(variables), weights, keys.objective)
    if not any(influences(judged, variables)):
        raise ValueError(
            "queries have no derivative: the objective does not depend on the trained state "
            "smoothly. An accuracy, an argmax, a rounded or detached number has none; use a loss, "
            "a margin or a log-probability."
        )


def _is_numeric(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.number)
