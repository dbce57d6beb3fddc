"""A long run that Python drives, in little memory: `python benchmarks/outside.py [--steps 2000]`.

A transformer of ten million parameters (d 256, 12 layers, 8 heads) on sequences of 32 tokens, one
per step, Adam: a state of 111 MiB. All states of 2,000 steps together are 217 GiB. Shown are the
plan, the seconds of the run, and the peak memory of the whole process, JAX, XLA and the model
included. `--states` are stored at once, as many in memory as fit into `--memory` MiB, the others in
`--directory`. Kill the command and start it again: it goes on.

The allocator of Linux would keep what is freed, in pieces: the process starts itself again with
MALLOC_MMAP_THRESHOLD_=1000000, which gives it back.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms

WIDTH, LAYERS, HEADS, TOKENS, VOCABULARY = 256, 12, 8, 32, 1024


def parameters(key: jax.Array) -> dict[str, Any]:
    """Return the parameters; the layers are stacked along a first axis."""
    keys = iter(jax.random.split(key, 7))
    matrix = lambda *shape: jax.random.normal(next(keys), shape) / np.sqrt(shape[-2])
    return {
        "embedding": matrix(VOCABULARY, WIDTH),
        "position": matrix(TOKENS, WIDTH),
        "layers": {
            "in": matrix(LAYERS, WIDTH, 3 * WIDTH),
            "out": matrix(LAYERS, WIDTH, WIDTH),
            "up": matrix(LAYERS, WIDTH, 4 * WIDTH),
            "down": matrix(LAYERS, 4 * WIDTH, WIDTH),
        },
    }


def attention(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Return causal self-attention, x of shape (tokens, width)."""
    queries, keys, values = jnp.split((x @ layer["in"]).reshape(TOKENS, HEADS, -1), 3, axis=-1)
    mixed = jax.nn.dot_product_attention(queries, keys, values, is_causal=True)
    return mixed.reshape(TOKENS, WIDTH) @ layer["out"]


def loss(params: dict[str, Any], text: jax.Array) -> jax.Array:
    """Return the mean loss of predicting the next token of one sequence."""

    def block(x: jax.Array, layer: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        x = x + attention(layer, jax.nn.standardize(x, epsilon=1e-5))
        hidden = jax.nn.gelu(jax.nn.standardize(x, epsilon=1e-5) @ layer["up"])
        return x + hidden @ layer["down"], None

    x = params["embedding"][text[:-1]] + params["position"]
    x, _ = jax.lax.scan(block, x, params["layers"])
    scores = jax.nn.standardize(x, epsilon=1e-5) @ params["embedding"].T
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, text[1:]))


def sequence(t: int) -> np.ndarray[Any, Any]:
    """Return the text of step t, from outside of the program; each counts up from a number."""
    first, stride = np.random.default_rng(t).integers(1, (VOCABULARY, 8))
    return np.asarray((first + stride * np.arange(TOKENS + 1)) % VOCABULARY, np.int32)


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--states", type=int, default=12)
    parser.add_argument("--memory", type=int, default=600, help="MiB of states in memory")
    parser.add_argument("--directory", help="where states go; a temporary one by default")
    options = parser.parse_args()
    validation = jnp.asarray(sequence(10**6))
    problem = ms.TrainingProblem(
        loss=lambda params, outer, text: jnp.exp(outer["log_weight"]) * loss(params, text),
        objective=lambda params, outer: loss(params, validation),
        init_params=parameters(jax.random.key(0)),
        optimizer=lambda outer: optax.adam(jnp.exp(outer["log_step_size"]), eps_root=1e-8),
        horizon=options.steps,
        batch=ms.Batches(sequence),
    )
    outer = {"log_weight": 0.0, "log_step_size": float(np.log(1e-4))}
    estimator, key = ms.Reverse(ms.Binomial(options.states), mixed=True), jax.random.key(0)
    memory = options.memory * 2**20
    print(ms.driven_plan(problem, outer, estimator, key=key, memory=memory, on_disk=True))
    count = sum(x.size for x in jax.tree.leaves(problem.init_params))
    print(f"{count / 1e6:.1f} million parameters", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter(), time.process_time()
        estimate = ms.driven_hypergradient(
            problem,
            outer,
            estimator,
            key=key,
            directory=options.directory or folder,
            memory=memory,
        )
        wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"value {estimate.value:.6f}, gradient", {k: float(g) for k, g in estimate.grad.items()})
    print(f"wall {wall:.0f} s, CPU {cpu:.0f} s, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    allocator = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    if not allocator.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | allocator)
    main()
