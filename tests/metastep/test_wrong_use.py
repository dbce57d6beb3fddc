"""Values of the wrong type, in a process of its own without the type checker of the tests."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, optax, metastep as ms

key, outer = jax.random.key(0), {"rate": 0.1}
make = lambda **options: ms.TrainingProblem(**({
    "loss": lambda w, outer, batch: jnp.sum(w**2),
    "objective": lambda w, outer: jnp.sum(w**2),
    "init_params": jnp.ones(2),
    "optimizer": lambda outer: optax.sgd(outer["rate"]),
    "horizon": 2,
} | options))
tune = lambda **options: ms.minimize(
    make(), outer, ms.Reverse(), **({"optimizer": optax.sgd(0.1), "steps": 1, "key": key} | options)
)
cases = {
    "estimator class": lambda: ms.hypergradient(make(), outer, ms.Reverse, key=key),
    "estimator name": lambda: ms.compare(make(), outer, ["reverse"], key=key),
    "distribution": lambda: ms.hypergradient(lambda key: make(), outer, ms.Reverse(), key=key),
    "diagnosed distribution": lambda: ms.diagnose(lambda key: make(), outer, key=key),
    "driven distribution": lambda: ms.driven_hypergradient(make, outer, ms.Reverse(), key=key),
    "inner optimizer": lambda: make(optimizer="adam"),
    "batch": lambda: make(batch=(jnp.ones(3), jnp.ones(3))),
    "outer optimizer": lambda: tune(optimizer=optax.adam),
    "checkpoint": lambda: tune(checkpoint="run.ckpt"),
}
found = {}
for name, case in cases.items():
    try:
        case()
    except ValueError as error:
        found[name] = str(error)
print(json.dumps(found))
"""

MESSAGES = {
    "estimator class": "estimator is <class 'metastep.estimators.reverse.Reverse'>; allowed",
    "estimator name": "estimator is 'reverse'; allowed are instances of estimators",
    "distribution": "problem is a function; allowed is one problem",
    "diagnosed distribution": "problem is a function; allowed is one problem",
    "driven distribution": "problem is a function; allowed is one problem",
    "inner optimizer": "optimizer is a str; allowed is a function of (outer). So is an optax",
    "batch": "batch is a tuple; allowed is a function of (t, key). Give arrays",
    "outer optimizer": "optimizer is <function adam",
    "checkpoint": "checkpoint is 'run.ckpt'; allowed are None and metastep.Checkpoint(path)",
}


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_use_names_the_argument_and_what_is_allowed(found, name):
    assert found[name].startswith(MESSAGES[name])
