"""Mixed mode beside reverse mode over reverse mode: `python benchmarks/mixed_mode.py [CASE...]`.

Cases: `transformer` (d 64, 4 layers, 4 heads, 64 tokens, batches of 8, Adam, one weight per
example), `convolutions` (1, 8 and 16 channels on 1,000 digits, AdamW with warm-up and cosine, three
hyperparameters), `network` (784-100-20-10, batches of 32, gradient descent, one weight per
example), `softmax` (5,000 x 785, full batches, momentum, one weight per example).

Every method runs in a process of its own. They compile one after the other, then take turns. Shown
are the CPU and wall seconds until the first answer (tracing, compiling, one call), XLA's own figure
for temporaries, the medians of wall and CPU seconds of a call and their ratio to the first row, and
the relative distance of the gradient to that of plain reverse mode. "by hand" is
`jax.value_and_grad` of the same loop with nothing around it. Options: `--rounds 5`, `--x64`.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.problems.base import split_keys
from metastep_lab.data import digits

METHODS = {
    "by hand": None,
    "Reverse(mixed=False)": ms.Reverse(mixed=False),
    "Reverse(mixed=True)": ms.Reverse(mixed=True),
    "Reverse()": ms.Reverse(),
    "Reverse('sqrt', mixed=False)": ms.Reverse("sqrt", mixed=False),
    "Reverse('sqrt', mixed=True)": ms.Reverse("sqrt", mixed=True),
}
REFERENCE = "Reverse(mixed=False)"
Case = tuple[ms.TrainingProblem, Any]
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def rows_in_turn(batch: int, examples: int) -> Callable:
    """Return `batch(t, key)`: the next rows of the data."""
    return lambda t, key: (t * batch + jnp.arange(batch)) % examples


def attention(layer: dict, x: jax.Array, heads: int) -> jax.Array:
    """Return causal self-attention, x of shape (batch, tokens, width)."""
    batch, tokens, width = x.shape
    split = lambda z: z.reshape(batch, tokens, heads, -1).swapaxes(1, 2)
    queries, keys, values = map(split, jnp.split(x @ layer["in"], 3, axis=-1))
    scores = queries @ keys.swapaxes(-1, -2) / np.sqrt(width // heads)
    causal = jnp.tril(jnp.ones((tokens, tokens), bool))
    mixed = jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ values
    return mixed.swapaxes(1, 2).reshape(x.shape) @ layer["out"]


def normalized(x: jax.Array) -> jax.Array:
    """Return x with mean 0 and variance 1 along its last axis."""
    return jax.nn.standardize(x, epsilon=1e-5)


def transformer() -> Case:
    """Return a small language model on random tokens."""
    width, layers, heads, tokens, vocabulary, examples, horizon = 64, 4, 4, 64, 64, 64, 8
    keys = iter(jax.random.split(jax.random.key(0), 4 * layers + 4))
    matrix = lambda *shape: jax.random.normal(next(keys), shape) / np.sqrt(shape[0])
    layer = lambda: {
        "in": matrix(width, 3 * width),
        "out": matrix(width, width),
        "up": matrix(width, 4 * width),
        "down": matrix(4 * width, width),
    }
    params = {
        "embedding": matrix(vocabulary, width),
        "position": matrix(tokens, width),
        "layers": [layer() for _ in range(layers)],
        "head": matrix(width, vocabulary),
    }
    text = jax.random.randint(next(keys), (examples, tokens + 1), 0, vocabulary)

    def losses(params: dict, text: jax.Array) -> jax.Array:
        x = params["embedding"][text[:, :-1]] + params["position"]
        for layer in params["layers"]:
            x = x + attention(layer, normalized(x), heads)
            x = x + jax.nn.gelu(normalized(x) @ layer["up"]) @ layer["down"]
        return jnp.mean(cross_entropy(x @ params["head"], text[:, 1:]), axis=-1)

    problem = ms.TrainingProblem(
        loss=lambda params, weights, rows: jnp.mean(weights[rows] * losses(params, text[rows])),
        objective=lambda params, weights: jnp.mean(losses(params, text[:8])),
        init_params=params,
        optimizer=optax.adam(1e-3, eps_root=1e-8),
        horizon=horizon,
        batch=rows_in_turn(8, examples),
    )
    return problem, jnp.ones(examples)


def convolutions() -> Case:
    """Return a convolutional network whose step size, decay and label smoothing are tuned."""
    data, horizon, batch = digits().arrays, 150, 64
    images = jnp.asarray(data["images"][:, None] / 16.0, jnp.result_type(float))
    labels = jnp.asarray(data["labels"], jnp.int32)
    keys = iter(jax.random.split(jax.random.key(0), 3))
    normal = lambda scale, *shape: scale * jax.random.normal(next(keys), shape)
    params = {
        "first": normal(1 / 3, 8, 1, 3, 3),
        "second": normal(1 / 9, 16, 8, 3, 3),
        "head": normal(1 / 16, 256, 10),
        "biases": [jnp.zeros((8, 1, 1)), jnp.zeros((16, 1, 1)), jnp.zeros(10)],
    }
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")

    def scores(params: dict, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(convolve(x, params["first"]) + params["biases"][0])
        x = jax.nn.relu(convolve(x, params["second"]) + params["biases"][1])
        x = jnp.max(x.reshape(len(x), 16, 4, 2, 4, 2), axis=(3, 5))
        return x.reshape(len(x), -1) @ params["head"] + params["biases"][2]

    def loss(params: dict, outer: jax.Array, rows: jax.Array) -> jax.Array:
        smoothed = optax.smooth_labels(jax.nn.one_hot(labels[rows], 10), jax.nn.sigmoid(outer[2]))
        return jnp.mean(optax.softmax_cross_entropy(scores(params, images[rows]), smoothed))

    def optimizer(outer: jax.Array) -> optax.GradientTransformation:
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, 15, horizon)
        rate = lambda count: jnp.exp(outer[0]) * shape(count)
        return optax.adamw(rate, eps_root=1e-8, weight_decay=jnp.exp(outer[1]))

    problem = ms.TrainingProblem(
        loss=loss,
        objective=lambda params, outer: jnp.mean(
            cross_entropy(scores(params, images[1000:]), labels[1000:])
        ),
        init_params=params,
        optimizer=optimizer,
        horizon=horizon,
        batch=lambda t, key: jax.random.randint(key, (batch,), 0, 1000),
    )
    return problem, jnp.array([-4.6, -7.0, -3.0])


def network() -> Case:
    """Return a network of three layers, one weight per example."""
    sizes, examples = (784, 100, 20, 10), 640
    keys = iter(jax.random.split(jax.random.key(0), 5))
    params = [
        (jax.random.normal(next(keys), pair) / np.sqrt(pair[0]), jnp.zeros(pair[1]))
        for pair in pairwise(sizes)
    ]
    images = jax.random.normal(next(keys), (examples, 784))
    labels = jax.random.randint(next(keys), (examples,), 0, 10)

    def losses(params: list, rows: jax.Array) -> jax.Array:
        x = images[rows]
        for weight, bias in params[:-1]:
            x = jnp.tanh(x @ weight + bias)
        return cross_entropy(x @ params[-1][0] + params[-1][1], labels[rows])

    problem = ms.TrainingProblem(
        loss=lambda params, outer, rows: jnp.mean(
            jax.nn.sigmoid(outer[rows]) * losses(params, rows)
        ),
        objective=lambda params, outer: jnp.mean(losses(params, jnp.arange(examples))),
        init_params=params,
        optimizer=optax.sgd(0.1),
        horizon=100,
        batch=rows_in_turn(32, examples),
    )
    return problem, jnp.zeros(examples)


def softmax() -> Case:
    """Return softmax regression on full batches, one weight per example."""
    examples = 5000
    images = jax.random.normal(jax.random.key(0), (examples, 785))
    labels = jnp.arange(examples) % 10
    losses = lambda weight: cross_entropy(images @ weight, labels)
    problem = ms.TrainingProblem(
        loss=lambda weight, outer, rows: jnp.mean(jax.nn.sigmoid(outer) * losses(weight)),
        objective=lambda weight, outer: jnp.mean(losses(weight)),
        init_params=jnp.zeros((785, 10)),
        optimizer=optax.sgd(0.5, momentum=0.9),
        horizon=100,
    )
    return problem, jnp.zeros(examples)


CASES = {case.__name__: case for case in (transformer, convolutions, network, softmax)}


def by_hand(problem: ms.TrainingProblem, outer: Any, key: jax.Array) -> tuple[Any, Any]:
    """Return value and gradient of the loop that one would write without metastep."""
    _, run_key = jax.random.split(split_keys(key).init)
    plain = isinstance(problem.optimizer, optax.GradientTransformation)

    def ending(outer: Any) -> jax.Array:
        optimizer = problem.optimizer if plain else problem.optimizer(outer)

        def step(carry: tuple, t: jax.Array) -> tuple[tuple, None]:
            params, state = carry
            batch = problem.batch and problem.batch(t, jax.random.fold_in(run_key, t))
            updates, state = optimizer.update(
                jax.grad(problem.loss)(params, outer, batch), state, params
            )
            return (optax.apply_updates(params, updates), state), None

        begin = (problem.init_params, optimizer.init(problem.init_params))
        (params, _), _ = jax.lax.scan(step, begin, jnp.arange(problem.horizon))
        return problem.objective_of_params(params, outer)

    return jax.value_and_grad(ending)(outer)


def serve(connection: Connection, case: str, method: str, x64: bool) -> None:
    """Send what the first call took and gave, then the time of a call whenever one is wanted."""
    jax.config.update("jax_enable_x64", x64)
    problem, outer = CASES[case]()
    estimator = METHODS[method]

    def run(outer: Any, key: jax.Array) -> tuple[Any, Any]:
        if estimator is None:
            return by_hand(problem, outer, key)
        estimate = estimator.estimate(problem, outer, None, key)[0]
        return estimate.value, estimate.grad

    key, begin = jax.random.key(0), clocks()
    jitted = jax.jit(run, compiler_options=ms.compiler_options())
    program = jitted.lower(outer, key).compile()
    _, grad = jax.block_until_ready(program(outer, key))
    temporary = program.memory_analysis().temp_size_in_bytes
    connection.send((elapsed(begin), temporary, np.asarray(grad)))
    while connection.recv():
        begin = clocks()
        jax.block_until_ready(program(outer, key))
        connection.send(elapsed(begin))


def clocks() -> tuple[float, float]:
    """Return wall and CPU seconds, the latter of all threads."""
    return time.perf_counter(), time.process_time()


def elapsed(begin: tuple[float, float]) -> tuple[float, float]:
    """Return wall and CPU seconds since `begin`."""
    wall, cpu = clocks()
    return wall - begin[0], cpu - begin[1]


def measure(case: str, rounds: int, x64: bool) -> Table:
    """Measure all methods on one case and return the table."""
    context = multiprocessing.get_context("spawn")
    workers, first = {}, {}
    for method in METHODS:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, case, method, x64), daemon=True)
        process.start()
        theirs.close()  # or a process that died would never be noticed
        workers[method] = (process, ours)
        first[method] = ours.recv()
    calls: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for number in range(rounds):
        for method in list(METHODS)[:: -1 if number % 2 else 1]:
            workers[method][1].send(True)
            calls[method].append(workers[method][1].recv())
    for process, connection in workers.values():
        connection.send(False)
        process.join()
    expected = first[REFERENCE][2]
    table = Table("method", "first: wall, CPU", "temporary MiB", "wall", "CPU", "ratio", "distance")
    cpus = {method: median(cpu for _, cpu in calls[method]) for method in METHODS}
    for method, ((wall, cpu), temporary, grad) in first.items():
        distance = np.linalg.norm(grad - expected) / np.linalg.norm(expected)
        table.add_row(
            method,
            f"{wall:.1f}, {cpu:.1f}",
            f"{temporary / 2**20:.1f}",
            f"{median(wall for wall, _ in calls[method]):.3f}",
            f"{cpus[method]:.3f}",
            f"{cpus[method] / cpus['by hand']:.2f}",
            f"{distance:.0e}",
        )
    table.title = f"{case}, {'float64' if x64 else 'float32'}"
    return table


def main() -> None:
    """Print one table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each method")
    parser.add_argument("--x64", action="store_true", help="float64 instead of float32")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}; allowed are {', '.join(CASES)}")
    for case in options.cases or CASES:
        Console(width=110).print(measure(case, options.rounds, options.x64))


if __name__ == "__main__":
    main()
