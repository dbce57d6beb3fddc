"""Check the advisor against truth: `python benchmarks/advisor.py`.

For every problem: what it recommends, the cosine and error that it predicts, those that the
recommended estimator has, and what the diagnosis cost in exact hypergradients (computing time, the
slower of plain and checkpointed reverse mode, compilation apart).
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.data import digits
from metastep.hypergradient.compare import ready, timed_steadily
from metastep.trees import cosine, norm, subtract

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.cases import PROBLEMS, TUNED_START
from tests.hypergradient.test_diagnose import Logistic, counterexample


def toy(horizon):
    """Section 4.1 of Shaban et al. (2019), from lambda = (1, 1)."""
    hessian = jnp.diag(jnp.array([1.0, 0.5]))
    judge = lambda w, outer: jnp.sum(w**2) + 10 * jnp.sum(jnp.sin(w) ** 2)
    problem = ms.QuadraticProblem(hessian, hessian, jnp.array([2.0, 2.0]), judge, 0.1, horizon)
    return problem, jnp.ones(2)


def cleaning(examples=500, horizon=100):
    """Weights for examples of the embedded digits, half of whose labels are noise."""
    found = digits().arrays
    images = jnp.asarray(found["images"][: 2 * examples].reshape(2 * examples, -1)) / 16.0
    images = jnp.hstack([images, jnp.ones((2 * examples, 1))])
    labels = found["labels"][: 2 * examples].astype(np.int32)
    random = np.random.default_rng(0)
    noisy = random.random(examples) < 0.5
    labels[:examples][noisy] = random.integers(0, 10, noisy.sum())
    labels = jnp.asarray(labels)
    cost = lambda w, rows: optax.softmax_cross_entropy_with_integer_labels(
        images[rows] @ w, labels[rows]
    )
    train, valid = slice(0, examples), slice(examples, None)
    problem = ms.TrainingProblem(
        lambda w, outer, batch: (
            jnp.mean(jax.nn.sigmoid(outer) * cost(w, train)) + 1e-3 * jnp.sum(w**2)
        ),
        lambda w, outer: jnp.mean(cost(w, valid)),
        jnp.zeros((images.shape[1], 10)),
        optax.sgd(1.0),
        horizon,
    )
    return problem, jnp.zeros(examples)


def network(horizon=50):
    """Weight decays of a small network, one per layer, trained with momentum on noisy lines."""
    keys = jax.random.split(jax.random.key(1), 4)
    inputs = jax.random.normal(keys[0], (64, 5))
    targets = jnp.sin(inputs @ jnp.arange(1.0, 6.0)) + 0.3 * jax.random.normal(keys[1], (64,))
    params = {
        "first": 0.5 * jax.random.normal(keys[2], (5, 16)),
        "second": 0.3 * jax.random.normal(keys[3], (16,)),
    }

    def error(params, rows):
        predicted = jnp.tanh(inputs[rows] @ params["first"]) @ params["second"]
        return jnp.mean((predicted - targets[rows]) ** 2)

    def loss(params, outer, batch):
        decay = jax.tree.map(lambda x, rate: jnp.exp(rate) * jnp.sum(x**2), params, outer)
        return error(params, slice(0, 32)) + sum(jax.tree.leaves(decay))

    problem = ms.TrainingProblem(
        loss,
        lambda params, outer: error(params, slice(32, None)),
        params,
        optax.sgd(0.05, momentum=0.9),
        horizon,
    )
    return problem, {"first": jnp.array(-4.0), "second": jnp.array(-4.0)}


CASES = {
    "toy, T=100": lambda: toy(100),
    "toy, T=2000": lambda: toy(2000),
    "hypercleaning": cleaning,
    "network": network,
    "counter-example": counterexample,
    "quadratic": PROBLEMS["quadratic"],
    "sgd": PROBLEMS["sgd"],
    "momentum": PROBLEMS["momentum"],
    "safe-adam": PROBLEMS["safe-adam"],
    "sgd-batches": PROBLEMS["sgd-batches"],
    "tuned start": TUNED_START["start"],
    "logistic map": lambda: (Logistic(), jnp.array(3.9)),
}


def main() -> None:
    """Print one row for each problem."""
    key, table = jax.random.key(0), Table(title="advice against truth")
    heads = "problem,recommended,cosine,predicted,error,predicted,cost (gradients),warnings"
    for name in heads.split(","):
        table.add_column(name, overflow="fold")
    for name, make in CASES.items():
        problem, outer = make()
        found = ms.diagnose(problem, outer, key=key)
        estimator = found.recommendation.estimator
        programs = [ready(problem, outer, ms.Reverse(c), key) for c in (None, "sqrt")]
        exact = max(timed_steadily(program.call)[1] for program in programs)
        warnings = ", ".join(warning.kind for warning in found.warnings)
        if estimator is None:
            table.add_row(name, "none", *["-"] * 4, f"{found.seconds / exact:.1f}", warnings)
            continue
        reference = ms.hypergradient(problem, outer, ms.Reverse(), key=key).grad
        advised = ms.hypergradient(problem, outer, estimator, key=key).grad
        promised = found.option(estimator)
        error = float(norm(subtract(advised, reference)) / norm(reference))
        table.add_row(
            name,
            str(estimator),
            f"{float(cosine(advised, reference)):+.3f}",
            f"{promised.cosine:+.3f}",
            f"{error:.2e}",
            f"{promised.relative_error:.2e}",
            f"{found.seconds / exact:.1f}",
            warnings,
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
