"""Applying and meta-training the MLP optimizer: `python benchmarks/learned_optimizer.py`.

Against the same mathematics written with the parts of Google's learned_optimization, where it is
installed (`peers_learned_optimization.py`), and written down plainly: features entry-major and
concatenated for each tensor, normalized, then the network. All train the same network on the same
batches from the same weights; all meta-gradients recompute the steps (rematerialization) and treat
inner gradients as constants. CPU time of the process, the methods taking turns; ratios are medians
over rounds. Both peers are compiled twice: as metastep compiles, without those kernels of XLA that
are wrong on some processors (`metastep.compilation`), and with all of them, as `jax.jit` does by
default. The targets are for the library where it is there, else for the plain code; "distance" is
between the parameters after the steps, or the meta-gradients: both peers take 1 - 0.9999 in single
precision.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table

from metastep.compilation import compiled
from metastep.learned import MLPOptimizer
from metastep.learned.features import DECAYS, TIME_SCALES
from metastep.learned.segment import LearnedTraining, first_state, run_segment
from metastep_lab.wang2021.mlp_optimizer.digit_classification import (
    DigitClassification,
    epochs,
    training_objective,
)

try:
    from peers_learned_optimization import transformation as learned_optimization
except ImportError as error:
    learned_optimization = None
    MISSING = f"left out: learned_optimization ({error})"

STEPS, EXAMPLES, BATCH, SAMPLE = 50, 1000, 32, 64
KERNELS = {"as metastep": compiled, "jax.jit": jax.jit}
OURS = ("metastep", "as metastep")
TARGETS = {"apply": 2.5, "meta-gradient": 2.0}


def plain(weights: dict) -> optax.GradientTransformation:
    """The authors' loop, feature by feature, with entries along the rows."""

    def init(params: dict) -> tuple:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, len(DECAYS))), params)
        return jnp.zeros((), jnp.int32), zeros, zeros

    def one(grad: jax.Array, param: jax.Array, mean: jax.Array, square: jax.Array, t: jax.Array):
        decays = jnp.array(DECAYS)
        mean = decays * mean + (1 - decays) * grad[..., None]
        square = decays * square + (1 - decays) * grad[..., None] ** 2
        root = jax.lax.rsqrt(square + 1e-6)
        entries = (grad[..., None], mean * root, param[..., None], mean, square, root)
        rows = jnp.concatenate([part.reshape(grad.size, -1) for part in entries], axis=1)
        rows = rows * jax.lax.rsqrt(1e-5 + jnp.mean(rows**2, axis=0, keepdims=True))
        clock = jnp.tanh(t / jnp.array(TIME_SCALES, jnp.float32) - 1)
        rows = jnp.concatenate([rows, jnp.tile(clock, (grad.size, 1))], axis=1)
        units = jax.nn.relu(rows @ weights["hidden"]["weight"] + weights["hidden"]["bias"])
        out = units @ weights["output"]["weight"] + weights["output"]["bias"]
        step = -out[:, 0] * jnp.exp(out[:, 1] * 0.001) * 0.001
        return step.reshape(grad.shape), mean, square

    def update(grads: dict, state: tuple, params: dict | None = None) -> tuple:
        count, means, squares = state
        found = jax.tree.map(lambda *leaves: one(*leaves, count + 1), grads, params, means, squares)
        parts = jax.tree.transpose(jax.tree.structure(grads), jax.tree.structure((0, 0, 0)), found)
        return parts[0], (count + 1, parts[1], parts[2])

    return optax.GradientTransformation(init, update)


def make_task(pixels: int) -> DigitClassification:
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.random((EXAMPLES, pixels)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, EXAMPLES), jnp.int32)
    batches = jnp.asarray(epochs(EXAMPLES, BATCH, STEPS, rng))
    return DigitClassification(
        inputs, labels, inputs[:0], labels[:0], batches, (pixels, 100, 20, 10), SAMPLE
    )


def methods(pixels: int, peers: dict[str, Callable]) -> dict[str, dict[tuple, Callable]]:
    """Measurement to (method, kernels) to a function of the weights; metastep is the first."""
    task, key = make_task(pixels), jax.random.key(0)
    family = MLPOptimizer()
    problem = LearnedTraining(
        task=task, optimizer=family, measure=training_objective, horizon=STEPS
    )
    params = task.init(key)
    grads = jax.grad(task.loss)(params, 0)
    start = first_state(problem, family.initial_weights(key), key)

    def apply(make: Callable, compile: Callable) -> Callable:
        """Apply to one gradient `STEPS` times."""

        @compile
        def run(weights: dict) -> jax.Array:
            optimizer = make(weights)

            def step(carry: tuple, _: None) -> tuple:
                params, state = carry
                updates, state = optimizer.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), None

            params_end = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[0][0]
            return ravel_pytree(params_end)[0]

        return run

    def gradient(make: Callable, compile: Callable) -> Callable:
        """Differentiate the mean objective of `STEPS` steps."""

        def mean(weights: dict) -> jax.Array:
            optimizer = make(weights)

            @jax.checkpoint
            def step(carry: tuple, t: jax.Array) -> tuple:
                params, state, total = carry
                step_key = jax.random.fold_in(start.key, t)
                total = total + training_objective(task, params, step_key)
                grads = jax.lax.stop_gradient(jax.grad(task.loss)(params, t))
                updates, state = optimizer.update(grads, state, params)
                return (optax.apply_updates(params, updates), state, total), None

            carry = (start.params, optimizer.init(start.params), jnp.zeros(()))
            return jax.lax.scan(step, carry, jnp.arange(STEPS))[0][2] / STEPS

        return compile(jax.grad(mean))

    def segment(weights: dict) -> dict:
        return run_segment(problem, weights, start, jnp.asarray(STEPS), STEPS, 1).grad

    theirs = lambda of: {
        (name, kernels): of(make, compile)
        for name, make in peers.items()
        for kernels, compile in KERNELS.items()
    }
    return {
        "apply": {OURS: apply(family, compiled), **theirs(apply)},
        "meta-gradient": {OURS: segment, **theirs(gradient)},
    }


def milliseconds(method: Callable, weights: dict) -> float:
    """Return the CPU time of a step."""
    begin = time.process_time()
    jax.block_until_ready(method(weights))
    return (time.process_time() - begin) / STEPS * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=196)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    console, weights = Console(width=120), MLPOptimizer().initial_weights(jax.random.key(1))
    peers = {"learned_optimization": learned_optimization, "plain code": plain}
    if learned_optimization is None:
        console.print(MISSING)
        del peers["learned_optimization"]
    deciding = next(iter(peers))
    table = Table(
        "measurement", "against", "its kernels", "metastep ms/step", "its ms/step", "ratio"
    )
    table.add_column("target")
    table.add_column("distance")
    for name, found in methods(arguments.pixels, peers).items():
        ends = {one: ravel_pytree(method(weights))[0] for one, method in found.items()}
        rounds = [
            {one: milliseconds(method, weights) for one, method in found.items()}
            for _ in range(arguments.rounds)
        ]
        middle = {one: median(times[one] for times in rounds) for one in found}
        for one in list(found)[1:]:
            ratio = median(times[one] / times[OURS] for times in rounds)
            distance = jnp.linalg.norm(ends[OURS] - ends[one]) / jnp.linalg.norm(ends[one])
            numbers = [f"{value:.2f}" for value in (middle[OURS], middle[one], ratio)]
            target = str(TARGETS[name]) if one[0] == deciding else ""
            table.add_row(name, *one, *numbers, target, f"{float(distance):.1e}")
    console.print(table)


if __name__ == "__main__":
    main()
