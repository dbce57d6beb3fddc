"""A driven run to be killed: `python -m tests.driven_run DIRECTORY` prints the bits it ends with.

Every state and every adjoint that is saved is a line, so that whoever reads along knows where the
run is.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms
from metastep import files

HORIZON = 40
EXAMPLES = np.random.default_rng(0).normal(size=(HORIZON, 4, 3))


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
def _problem(horizon, precision):
    return problem(ms.Batches(EXAMPLES), horizon)


def same_problem(horizon=HORIZON):
    """Return the problem on `EXAMPLES`; one and the same, which is compiled once."""
    return _problem(horizon, jnp.result_type(float))


OUTER = {"decay": 0.1, "step_size": 0.05}


def bits(estimate):
    """Return value and gradient as text that tells any two floats apart."""
    leaves = jax.tree.leaves((estimate.value, estimate.grad))
    return " ".join(np.asarray(x).tobytes().hex() for x in leaves)


def telling(replace):
    """Return `os.replace` that prints what it has put in its place."""

    def told(source, target):
        replace(source, target)
        if not str(target).endswith("run"):
            print(target, flush=True)

    return told


def main(directory):
    files.os.replace = telling(files.os.replace)
    estimate = ms.driven_hypergradient(
        same_problem(),
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
