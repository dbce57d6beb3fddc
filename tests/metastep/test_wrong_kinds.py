"""Arguments of a wrong kind, as users meet them: without the type checks of the other tests."""

import json
import re
import subprocess
import sys

SETUP = """
import json, sys
import jax, jax.numpy as jnp, optax, metastep as ms
key, outer = jax.random.key(0), {"c": 1.0}
def make(**options):
    given = {
        "loss": lambda w, outer, batch: jnp.sum((w - outer["c"]) ** 2),
        "objective": lambda w, outer: jnp.sum(w**2),
        "init_params": jnp.ones(2),
        "optimizer": optax.sgd(0.1),
        "horizon": 3,
    }
    return ms.TrainingProblem(**(given | options))
def grad(problem, estimator=ms.Reverse()):
    return ms.hypergradient(problem, outer, estimator, key=key)
def tune(problem, **options):
    options = {"optimizer": optax.sgd(0.1), "steps": 2, "key": key} | options
    return ms.minimize(problem, outer, ms.Reverse(), **options)
def message(code):
    try:
        eval(code)
    except ValueError as error:
        return str(error)
    except Exception as error:
        return repr(error)
print(json.dumps([message(code) for code in json.loads(sys.argv[1])]))
"""
PROBLEM = "problem is .*; allowed are instances of problems"
ESTIMATOR = "estimator is <class .*; allowed are instances of estimators"
OPTIMIZER = "allowed are optax transformations"
CASES = {
    "make(loss=0.1)": "loss is 0.1; allowed are functions",
    "make(objective=None)": "objective is None; allowed are functions",
    "make(optimizer=0.1)": f"optimizer is 0.1; {OPTIMIZER}",
    "make(batch=jnp.ones(1))": r"batch is \[1.\]; allowed are None, functions .*Batches",
    "grad(make(optimizer=lambda outer: 0.1))": rf"optimizer\(outer\) is 0.1; {OPTIMIZER}",
    "grad(lambda key: make())": PROBLEM,
    "grad(make(), ms.Reverse)": ESTIMATOR,
    "grad(make(), ms.Implicit('cg'))": "solver is 'cg'; allowed are None, Neumann",
    "ms.LogDomain(ms.Reverse)": ESTIMATOR,
    "ms.unroll(None, outer, key)": PROBLEM,
    "ms.scaled_hypergradient(None, outer, key=key)": PROBLEM,
    "ms.driven_hypergradient(None, outer, ms.Reverse(), key=key)": PROBLEM,
    "ms.driven_plan(None, outer, ms.Reverse(), key=key)": PROBLEM,
    "ms.diagnose(make, outer, key=key)": PROBLEM,
    "ms.metasmoothness(make, outer, key=key)": PROBLEM,
    "ms.MAMLProblem(None, 1.0, 1.0, horizon=1, rate=0.1)": "loss is None; allowed are functions",
    "ms.compare(None, outer, [ms.Reverse()], key=key)": PROBLEM,
    "ms.compare(make(), outer, ms.Reverse(), key=key)": "estimators is Reverse.*allowed are lists",
    "ms.compare(make(), outer, [ms.Reverse], key=key)": ESTIMATOR,
    "make(batch=(row for row in [1.0]))": "batch is <generator .*; allowed are None, .*Batches",
    "tune(make(), checkpoint='run')": "checkpoint is 'run'; allowed are None and metastep.Check",
    "tune(None)": "problem is None; allowed are problems, and functions",
    "tune(lambda key: None, meta_batch=2)": r"problem\(key\) is None; allowed are instances",
    "tune(make(), optimizer=optax.sgd)": f"optimizer is <function .*; {OPTIMIZER}",
}


def test_the_message_names_the_argument_and_what_is_allowed():
    done = subprocess.run(
        [sys.executable, "-c", SETUP, json.dumps(list(CASES))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    found = dict(zip(CASES, messages, strict=True))
    wrong = {code: found[code] for code, said in CASES.items() if not re.match(said, found[code])}
    assert not wrong
