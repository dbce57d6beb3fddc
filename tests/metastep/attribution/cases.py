"""Problems of these tests: ridge regression, whose answers are known, and a small network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms

EXAMPLES, FEATURES, QUERIES, DECAY = 12, 3, 4, 0.1
RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((EXAMPLES, FEATURES)), RNG.standard_normal(EXAMPLES)
ASKED = (RNG.standard_normal((QUERIES, FEATURES)), RNG.standard_normal(QUERIES))


class Ridge(eqx.Module):
    """From a query to ridge regression by gradient descent, judged by the query's squared error."""

    step_size: float = 0.2
    horizon: int = eqx.field(static=True, default=600)

    def __call__(self, query):
        inputs, target = query

        def loss(w, weights, batch):
            errors = jnp.asarray(X) @ w - jnp.asarray(Y)
            return jnp.mean(weights * errors**2) / 2 + DECAY / 2 * jnp.sum(w**2)

        return ms.TrainingProblem(
            loss,
            lambda w, weights: (inputs @ w - target) ** 2 / 2,
            jnp.zeros(FEATURES),
            optax.sgd(self.step_size),
            self.horizon,
        )


def fitted(weights):
    """Return the minimiser and the Hessian of the weighted training loss, in closed form."""
    hessian = X.T @ (weights[:, None] * X) / EXAMPLES + DECAY * np.eye(FEATURES)
    return np.linalg.solve(hessian, X.T @ (weights * Y) / EXAMPLES), hessian


def network(query):
    """A network of two layers on batches of 4, with momentum: 6 steps."""
    hidden, total = 5, 8
    inputs = jnp.asarray(X[:total])
    targets = jnp.asarray(Y[:total])

    def output(params, x):
        return jnp.tanh(x @ params[0]) @ params[1]

    def loss(params, weights, rows):
        return jnp.mean(weights[rows] * (output(params, inputs[rows]) - targets[rows]) ** 2)

    def init(weights, key):
        first, second = jax.random.split(key)
        return (
            jax.random.normal(first, (FEATURES, hidden)),
            jax.random.normal(second, (hidden,)),
        )

    return ms.TrainingProblem(
        loss,
        lambda params, weights: (output(params, query[0]) - query[1]) ** 2,
        init,
        optax.sgd(0.1, momentum=0.5),
        6,
        lambda t, key: jax.random.choice(key, total, (4,), replace=False),
    )
