"""Quadratic bilevel problems in batches, whose solutions are linear systems."""

import jax.numpy as jnp
import numpy as np
import optax

from metastep.bilevel import BilevelProblem
from metastep.compilation import compiled

BATCHES = 3
START = {"a": np.array([0.4, -0.7]), "b": np.array(0.2)}
OUTER = {"p": np.array([0.3, -0.1]), "q": np.array(0.5)}

_rng = np.random.default_rng(5)
_factors = _rng.normal(size=(BATCHES, 3, 3))
# One Hessian, coupling, shift and target per batch. A full batch is their mean.
HESSIANS = np.eye(3) + 0.2 * _factors @ _factors.transpose(0, 2, 1)
COUPLINGS = _rng.normal(size=(BATCHES, 3, 3))
SHIFTS = _rng.normal(size=(BATCHES, 3))
TARGETS = _rng.normal(size=(BATCHES, 3))
MIXED = 0.3


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in tree.values()])


def _pick(arrays, batch):
    """Take a batch, or the mean of all."""
    arrays = jnp.asarray(arrays)
    return arrays.mean(axis=0) if batch is None else arrays[batch]


def inner_loss(params, outer, batch):
    z = flat(params)
    linear = _pick(COUPLINGS, batch) @ flat(outer) + _pick(SHIFTS, batch)
    return z @ _pick(HESSIANS, batch) @ z / 2 - z @ linear


def outer_loss(params, outer, batch):
    z, x = flat(params), flat(outer)
    return jnp.sum((z - _pick(TARGETS, batch)) ** 2) / 2 + jnp.sum(x**2) / 2 + MIXED * x @ z


def problem(inner_batch=None, outer_batch=None, optimizer=None, horizon=1):
    optimizer = optax.sgd(0.2) if optimizer is None else optimizer
    start = {name: jnp.asarray(value) for name, value in START.items()}
    return BilevelProblem(
        inner_loss, outer_loss, start, optimizer, horizon, inner_batch, outer_batch
    )


def in_turn(t, key):
    """The batch with the number t, round after round."""
    return t % BATCHES


def hyperparameters():
    return {name: jnp.asarray(value) for name, value in OUTER.items()}


@compiled
def first_step(which, solver, outer, key):
    """Return the first estimate and the state after it."""
    return solver.estimate(which, outer, solver.init(which, outer, key), key)


class Dense:
    """The gradients of one pair of batches in NumPy, on flat vectors."""

    def __init__(self, inner=None, outer=None):
        take = lambda arrays, batch: arrays.mean(axis=0) if batch is None else arrays[batch]
        self.hessian, self.coupling = take(HESSIANS, inner), take(COUPLINGS, inner)
        self.shift, self.target = take(SHIFTS, inner), take(TARGETS, outer)

    def inner_gradient(self, z, x):
        return self.hessian @ z - self.coupling @ x - self.shift

    def inner_slope(self, z):
        """The derivative of g with respect to the hyperparameters."""
        return -self.coupling.T @ z

    def outer_gradient(self, z, x):
        return z - self.target + MIXED * x

    def outer_slope(self, z, x):
        return x + MIXED * z

    def minimum(self, x):
        return np.linalg.solve(self.hessian, self.coupling @ x + self.shift)

    def adjoint(self, x):
        return -np.linalg.solve(self.hessian, self.outer_gradient(self.minimum(x), x))

    def hypergradient(self, x):
        return self.outer_slope(self.minimum(x), x) - self.coupling.T @ self.adjoint(x)

    def outer_optimum(self):
        """The hypergradient is affine: solve for its zero."""
        constant = self.hypergradient(np.zeros(3))
        columns = [self.hypergradient(e) - constant for e in np.eye(3)]
        return np.linalg.solve(np.stack(columns, axis=1), -constant)
