"""Meta-training steps per second of MAML: `python benchmarks/maml_mlp.py`.

Sinusoid regression as in Finn et al. (2017): a 1-40-40-1 network with ReLU, 32 tasks per step, 10
training and 10 validation points each, 5 inner steps, exact second derivatives. All methods start
from the same float32 numbers and take the same steps; "distance" is that of their parameters after
a few of them to those of metastep. Data stay the same from step to step, so that nothing but the
training is timed. learn2learn is measured where it is installed.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import equinox as eqx
import higher
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

import metastep as ms
from metastep.problems.averaged import Averaged
from metastep.problems.maml import MAMLProblem
from metastep.tasks.few_shot import random_sinusoid

try:
    import learn2learn
except ImportError:
    learn2learn = None

SIZES, TASKS, POINTS, HORIZON = (1, 40, 40, 1), 32, 10, 5
RATE, OUTER_RATE, MOMENTUM, SEED = 0.01, 1e-4, 0.9, 0
CHECKED_STEPS = 10
PAUSE = 0.1  # seconds in which the threads of the last method stop spinning

Steps = Callable[[int], np.ndarray]
"""Take a number of steps from the common start; return the parameters, flat."""


@dataclass(frozen=True)
class Data:
    """What every method starts from: inputs of shape (tasks, points, 1), targets without the 1."""

    params: list[np.ndarray]
    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]


def make_data() -> Data:
    rng = np.random.default_rng(SEED)
    params = []
    for inputs, outputs in pairwise(SIZES):
        params.append(rng.normal(size=(outputs, inputs)) / np.sqrt(inputs))
        params.append(np.zeros(outputs))
    draw = lambda key: random_sinusoid(key, samples=POINTS, validation_samples=POINTS)
    tasks = jax.vmap(draw)(jax.random.split(jax.random.key(SEED), TASKS))
    arrays = lambda examples: (np.array(examples.inputs), np.array(examples.targets))
    return Data(
        [leaf.astype(np.float32) for leaf in params],
        arrays(tasks.training),
        arrays(tasks.validation),
    )


def _jax_loss(params: list[jax.Array], outer: object, batch: tuple) -> jax.Array:
    hidden, targets = batch
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        hidden = jax.nn.relu(hidden @ weight.T + bias)
    return jnp.mean(((hidden @ params[-2].T + params[-1])[:, 0] - targets) ** 2)


def _flat(params: list) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in params])


def _problem(data: Data) -> Averaged:
    task = lambda training, validation: MAMLProblem(
        _jax_loss, training, validation, horizon=HORIZON, rate=RATE
    )
    examples = jax.tree.map(jnp.asarray, (data.training, data.validation))
    return Averaged(eqx.filter_vmap(task)(*examples))


def metastep(data: Data) -> Steps:
    """`minimize`: all steps in one compiled loop."""
    problem = _problem(data)
    params, optimizer = (
        list(map(jnp.asarray, data.params)),
        optax.sgd(OUTER_RATE, momentum=MOMENTUM),
    )

    def steps(count: int) -> np.ndarray:
        run = ms.minimize(
            problem,
            params,
            ms.Reverse(),
            optimizer=optimizer,
            steps=count,
            every=count,
            key=jax.random.key(SEED),
        )
        return _flat(run.outer)

    return steps


def metastep_calls(data: Data) -> Steps:
    """`hypergradient` and an optax update, called from Python at every step."""
    problem = _problem(data)
    optimizer, key = optax.sgd(OUTER_RATE, momentum=MOMENTUM), jax.random.key(SEED)

    @jax.jit
    def update(grad: list, state: optax.OptState, params: list) -> tuple[list, optax.OptState]:
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    def steps(count: int) -> np.ndarray:
        params = list(map(jnp.asarray, data.params))
        state = optimizer.init(params)
        for _ in range(count):
            estimate = ms.hypergradient(problem, params, ms.Reverse(), key=key)
            params, state = update(estimate.grad, state, params)
        return _flat(params)

    return steps


def _tasks(data: Data) -> tuple[Tensor, ...]:
    return tuple(map(torch.from_numpy, (*data.training, *data.validation)))


def _error(predictions: Tensor, targets: Tensor) -> Tensor:
    return ((predictions[:, 0] - targets) ** 2).mean()


def _network(data: Data) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(SIZES):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, leaf in zip(network.parameters(), data.params, strict=True):
            parameter.copy_(torch.from_numpy(leaf))
    return network


def _train(data: Data, backward: Callable[[torch.nn.Module], None]) -> Steps:
    """Return steps of gradient descent on the gradients that `backward(network)` accumulates."""

    def steps(count: int) -> np.ndarray:
        network = _network(data)
        optimizer = torch.optim.SGD(network.parameters(), lr=OUTER_RATE, momentum=MOMENTUM)
        for _ in range(count):
            optimizer.zero_grad()
            backward(network)
            optimizer.step()
        return _flat([parameter.detach().numpy() for parameter in network.parameters()])

    return steps


def _predict(params: list[Tensor], hidden: Tensor) -> Tensor:
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        hidden = functional.relu(functional.linear(hidden, weight, bias))
    return functional.linear(hidden, *params[-2:])


def torch_loop(data: Data) -> Steps:
    """Plain autograd, one task after the other."""
    tasks = _tasks(data)

    def backward(network: torch.nn.Module) -> None:
        for x, y, validation_x, validation_y in zip(*tasks, strict=True):
            params = list(network.parameters())
            for _ in range(HORIZON):
                loss = _error(_predict(params, x), y)
                slopes = torch.autograd.grad(loss, params, create_graph=True)
                params = [leaf - RATE * slope for leaf, slope in zip(params, slopes, strict=True)]
            (_error(_predict(params, validation_x), validation_y) / TASKS).backward()

    return _train(data, backward)


def torch_vmap(data: Data) -> Steps:
    """`torch.func`: all tasks at once."""
    tasks = _tasks(data)
    slopes_of = torch.func.grad(lambda params, x, y: _error(_predict(params, x), y))

    def one(params: list[Tensor], x: Tensor, y: Tensor, *validation: Tensor) -> Tensor:
        for _ in range(HORIZON):
            slopes = slopes_of(params, x, y)
            params = [leaf - RATE * slope for leaf, slope in zip(params, slopes, strict=True)]
        return _error(_predict(params, validation[0]), validation[1])

    def backward(network: torch.nn.Module) -> None:
        params = list(network.parameters())
        torch.func.vmap(one, in_dims=(None, 0, 0, 0, 0))(params, *tasks).mean().backward()

    return _train(data, backward)


def with_higher(data: Data) -> Steps:
    """`higher.innerloop_ctx`, one task after the other."""
    tasks = _tasks(data)

    def backward(network: torch.nn.Module) -> None:
        inner = torch.optim.SGD(network.parameters(), lr=RATE)
        for x, y, validation_x, validation_y in zip(*tasks, strict=True):
            with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (
                fast,
                descent,
            ):
                for _ in range(HORIZON):
                    descent.step(_error(fast(x), y))
                (_error(fast(validation_x), validation_y) / TASKS).backward()

    return _train(data, backward)


def with_learn2learn(data: Data) -> Steps:
    """`learn2learn.algorithms.MAML`, one task after the other."""
    tasks = _tasks(data)

    def backward(network: torch.nn.Module) -> None:
        maml = learn2learn.algorithms.MAML(network, lr=RATE)
        for x, y, validation_x, validation_y in zip(*tasks, strict=True):
            learner = maml.clone()
            for _ in range(HORIZON):
                learner.adapt(_error(learner(x), y))
            (_error(learner(validation_x), validation_y) / TASKS).backward()

    return _train(data, backward)


@dataclass(frozen=True)
class Method:
    """What is measured.

    Attributes:
        make: returns its steps.
        count: steps per round: about a second.
        torch: whether PyTorch's thread count matters.
    """

    make: Callable[[Data], Steps]
    count: int
    torch: bool = True


METHODS = {
    "metastep, minimize": Method(metastep, 500, torch=False),
    "metastep, hypergradient": Method(metastep_calls, 200, torch=False),
    "torch.func, vmap": Method(torch_vmap, 20),
    "torch, loop": Method(torch_loop, 4),
    "higher": Method(with_higher, 4),
    "learn2learn": Method(with_learn2learn, 4),
}


@dataclass
class Row:
    """Seconds per step of a method with a thread count, round by round."""

    name: str
    threads: int | None
    steps: Steps
    distance: float
    seconds: list[float]

    def measure(self) -> None:
        """Take a round of steps."""
        count = METHODS[self.name].count
        time.sleep(PAUSE)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        begin = time.perf_counter()
        self.steps(count)
        self.seconds.append((time.perf_counter() - begin) / count)


def main() -> None:
    """Measure all methods, alternating, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="rounds, after one that warms up")
    arguments, console, data = parser.parse_args(), Console(width=100), make_data()
    cores, rows, expected = len(os.sched_getaffinity(0)), [], None
    for name, method in METHODS.items():
        if name == "learn2learn" and learn2learn is None:
            console.print("left out: learn2learn is not installed")
            continue
        steps = method.make(data)
        found = steps(CHECKED_STEPS)
        expected = found if expected is None else expected
        distance = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        for threads in sorted({1, cores}) if method.torch else (None,):
            rows.append(Row(name, threads, steps, distance, []))
    for repeat in range(arguments.repeats + 1):
        for row in rows[:: -1 if repeat % 2 else 1]:
            row.measure()
    table = Table("method", "torch threads", "steps / s", "times slower", "distance")
    for row in rows:
        seconds = median(row.seconds[1:])
        ratio = median(
            theirs / mine for theirs, mine in zip(row.seconds[1:], rows[0].seconds[1:], strict=True)
        )
        threads = "" if row.threads is None else str(row.threads)
        table.add_row(
            row.name, threads, f"{1 / seconds:.3g}", f"{ratio:.3g}", f"{row.distance:.0e}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
