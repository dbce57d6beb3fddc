"""Train a fresh network with the learned optimizer that ships with metastep.

    python examples/train_with_a_learned_optimizer.py --out runs/learned_optimizer

The optimizer is an optax transformation like any other. A network wider than any it was
meta-trained on learns digits of which a fifth have wrong labels; SGD and Adam run beside it at
step sizes that people reach for first, which are not tuned. Under a minute on two cores.

    python examples/train_with_a_learned_optimizer.py --run RUN --save FILE.npz

takes the first train-by-validation optimizer out of the directory of a finished
`metastep run mlp-optimizer` instead, and saves it as a file for `metastep.learned.load`.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from metastep import learned as optimizers
from metastep.compilation import compiled
from metastep_lab import data
from metastep_lab.figures.style import Lines, line_figure, save
from metastep_lab.wang2021.mlp_optimizer.digit_classification import (
    DigitClassification,
    cross_entropy,
    epochs,
    fraction_correct,
)

MODE = "train-by-validation"
SIZES = (64, 150, 30, 10)
EXAMPLES, BATCH, NOISE, STEPS, EVERY = 200, 32, 0.2, 400, 20


def from_run(directory: Path) -> optimizers.TrainedOptimizer:
    """Return the first train-by-validation optimizer of a finished run of `mlp-optimizer`."""
    result = json.loads((directory / "result.json").read_text())
    config = result["config"]
    prefix = f"{MODE}.{config['noise'][0]}.0."
    options = {name: config[name] for name in ("fan_in", "standardize")}
    family = optimizers.MLPOptimizer(**options)
    weights = family.initial_weights(jax.random.key(0))
    with np.load(directory / "arrays.npz") as arrays:
        for layer, parts in weights.items():
            for name in parts:
                parts[name] = jnp.asarray(arrays[f"{prefix}{layer}.{name}"])
    # Of trajectories of one length, at least one is seen to its end.
    horizon = min(config["horizon"], config["unrolls"] * config["segment"])
    description = f"{MODE}, noise {config['noise'][0]}, meta-seed 0, of: {result['command']}"
    return optimizers.TrainedOptimizer(family, weights, horizon, description)


def make_task(seed: int) -> tuple[DigitClassification, jax.Array, jax.Array]:
    """Return a task with noisy labels, and clean images and labels to test on."""
    rng = np.random.default_rng(seed)
    digits = data.digits().arrays
    order = rng.permutation(len(digits["labels"]))
    inputs = (digits["images"].reshape(len(order), -1) / 16).astype(np.float32)[order]
    labels = digits["labels"].astype(np.int32)[order]
    noisy, _ = data.corrupt_labels(labels[:EXAMPLES], SIZES[-1], NOISE, rng)
    task = DigitClassification(
        inputs=jnp.asarray(inputs[:EXAMPLES]),
        labels=jnp.asarray(noisy),
        validation_inputs=jnp.zeros((0, SIZES[0])),
        validation_labels=jnp.zeros(0, jnp.int32),
        batches=jnp.asarray(epochs(EXAMPLES, BATCH, STEPS, rng)),
        sizes=SIZES,
    )
    return task, jnp.asarray(inputs[EXAMPLES:]), jnp.asarray(labels[EXAMPLES:])


@compiled
def train(
    optimizer: optax.GradientTransformation,
    task: DigitClassification,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Train from scratch; return training loss and test accuracy every `EVERY` steps."""
    params = task.init(key)

    def step(carry: tuple, t: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(task.loss)(params, t), state, params)
        return (optax.apply_updates(params, updates), state), None

    def stretch(carry: tuple, begin: jax.Array) -> tuple[tuple, tuple]:
        loss = cross_entropy(carry[0], task.inputs, task.labels)
        measured = loss, fraction_correct(carry[0], inputs, labels)
        return jax.lax.scan(step, carry, begin + jnp.arange(EVERY))[0], measured

    carry = (params, optimizer.init(params))
    return jax.lax.scan(stretch, carry, jnp.arange(0, STEPS, EVERY))[1]


def main() -> None:
    """Load, train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/learned_optimizer"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a finished run of mlp-optimizer")
    parser.add_argument("--save", type=Path, help="where to save the optimizer")
    arguments, console = parser.parse_args(), Console(width=100)
    trained = from_run(arguments.run) if arguments.run else optimizers.pretrained()
    if arguments.save:
        optimizers.save(arguments.save, trained)
        console.print("wrote", arguments.save)
    console.print(f"learned optimizer: {trained.description}; up to {trained.horizon} steps")
    candidates = {
        "learned": trained.transformation(steps=STEPS),
        "SGD, 0.1": optax.sgd(0.1),
        "Adam, 0.001": optax.adam(1e-3),
    }
    task, inputs, labels = make_task(arguments.seed)
    steps, losses, accuracies = np.arange(0, STEPS, EVERY), {}, {}
    for name, optimizer in candidates.items():
        key = jax.random.key(arguments.seed)
        loss, accuracy = map(np.asarray, train(optimizer, task, inputs, labels, key))
        losses[name], accuracies[name] = (steps, loss), (steps, accuracy)
        console.print(f"{name}: training loss {loss[-1]:.3f}, test accuracy {accuracy[-1]:.3f}")
    figure = line_figure(
        Lines(losses, "steps", "cross-entropy (nats)", "Noisy training labels"),
        Lines(accuracies, "steps", "accuracy", "New images, clean labels"),
    )
    paths = save(figure, arguments.out / "learned_optimizer")
    console.print("wrote", ", ".join(map(str, paths)))


if __name__ == "__main__":
    main()
