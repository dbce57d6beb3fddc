"""A driven run to be killed: `python -m tests.driven_run DIRECTORY` prints the bits it ends with.

Every batch that is loaded is a line, so that whoever reads along knows where the run is.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms

HORIZON = 40
EXAMPLES = np.random.default_rng(0).normal(size=(HORIZON, 4, 3))


def load(t):
    print(t, flush=True)
    return EXAMPLES[t]


def loss(w, outer, batch):
    return jnp.mean(jnp.tanh(batch @ w - 0.3) ** 2) + outer["decay"] * jnp.sum(w**2)


def problem(batch, horizon=HORIZON):
    return ms.TrainingProblem(
        loss=loss,
        objective=lambda w, outer: jnp.sum(jnp.sin(w)),
        init_params=jnp.ones(3),
        optimizer=lambda outer: optax.adam(outer["step_size"], eps_root=1e-8),
        horizon=horizon,
        batch=batch,
    )


@functools.cache
def same_problem(horizon=HORIZON):
    """Return the problem on `EXAMPLES`; one and the same, which is compiled once."""
    return problem(ms.Batches(EXAMPLES), horizon)


OUTER = {"decay": 0.1, "step_size": 0.05}


def bits(estimate):
    """Return value and gradient as text that tells any two floats apart."""
    leaves = jax.tree.leaves((estimate.value, estimate.grad))
    return " ".join(np.asarray(x).tobytes().hex() for x in leaves)


def main(directory):
    estimate = ms.driven_hypergradient(
        problem(ms.Batches(load)),
        OUTER,
        ms.Reverse(ms.Binomial(5)),
        key=jax.random.key(0),
        directory=directory,
        memory=64,  # one state of 45 bytes in memory, the others on disk
        save_every=0.0,
    )
    print(bits(estimate))


if __name__ == "__main__":
    main(sys.argv[1])
