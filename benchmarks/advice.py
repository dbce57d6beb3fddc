"""Is the advice of `diagnose` right on the training of a small convolutional network on digits?

Prints the diagnosis at the start and at the end of tuning (step size, weight decay and label
smoothing of Adam with warm-up and cosine, 150 steps), the seconds of it and of the first exact
hypergradient, and the exact derivatives beside central differences.

    python benchmarks/advice.py [start|tuned] [relu] [horizon]

With `relu` in the place of GELU the response has jumps: central differences at several distances
contradict each other and the exact derivative, which is right between two jumps.
"""

import sys
from collections.abc import Callable
from time import process_time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import metastep as ms
from metastep.types import Outer, RandomKey
from metastep_lab import data

TRAINED, BATCH = 1000, 64
DISTANCES = (1e-1, 1e-2, 1e-3)
START = {"step_size": -8.1117, "decay": -6.9078, "smoothing": -3.0}
TUNED = {"step_size": -4.600, "decay": -10.392, "smoothing": -5.726}


class Network(eqx.Module):
    """Two convolutions with pooling and a linear layer: 1, 8 and 16 channels."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    last: eqx.nn.Linear
    activation: Callable

    def __init__(self, key: RandomKey, activation: Callable = jax.nn.gelu):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 16, 3, padding=1, key=keys[1])
        self.activation = activation
        self.last = eqx.nn.Linear(64, 10, key=keys[2])

    def __call__(self, image: jax.Array) -> jax.Array:
        """Return ten logits for an image of shape (1, 8, 8)."""
        pool = lambda x: x.reshape(x.shape[0], x.shape[1] // 2, 2, -1, 2).mean((2, 4))
        hidden = pool(self.activation(self.first(image)))
        return self.last(pool(self.activation(self.second(hidden))).ravel())


def digits_problem(horizon: int = 150, activation: Callable = jax.nn.gelu) -> ms.TrainingProblem:
    """Train the network on 1,000 digits and judge it on the others."""
    found = data.digits().arrays
    images = jnp.asarray(found["images"], jnp.float32)[:, None] / 16
    labels = jnp.asarray(found["labels"])

    def loss(model: Network, outer: Outer, rows: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels[rows], 10), jax.nn.sigmoid(outer["smoothing"])
        )
        return jnp.mean(optax.softmax_cross_entropy(jax.vmap(model)(images[rows]), targets))

    def objective(model: Network, outer: Outer) -> jax.Array:
        logits = jax.vmap(model)(images[TRAINED:])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[TRAINED:]))

    def optimizer(outer: Outer) -> optax.GradientTransformation:
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, horizon // 10, horizon)
        return optax.chain(
            optax.scale_by_adam(eps_root=1e-8),
            optax.add_decayed_weights(jnp.exp(outer["decay"])),
            optax.scale_by_learning_rate(lambda t: jnp.exp(outer["step_size"]) * shape(t)),
        )

    return ms.TrainingProblem(
        loss,
        objective,
        lambda outer, key: Network(key, activation),
        optimizer,
        horizon,
        lambda t, key: jax.random.randint(key, (BATCH,), 0, TRAINED),
    )


def main() -> None:
    """Print what is said and what is true."""
    at = TUNED if "tuned" in sys.argv else START
    horizon = next((int(x) for x in sys.argv[1:] if x.isdigit()), 150)
    activation = jax.nn.relu if "relu" in sys.argv else jax.nn.gelu
    problem, outer = digits_problem(horizon, activation), jax.tree.map(jnp.float32, at)
    key = jax.random.key(0)
    begin = process_time()
    exact = jax.block_until_ready(ms.hypergradient(problem, outer, ms.Reverse(), key=key))
    first = process_time() - begin
    begin = process_time()
    found = ms.diagnose(problem, outer, key=key)
    took = process_time() - begin
    print(found, found.details(), sep="\n\n")
    print(f"\nprocessor time: diagnosis {took:.1f} s, first hypergradient {first:.1f} s")
    end = jax.jit(
        lambda outer: problem.objective(ms.unroll(problem, outer, key), outer, key),
        compiler_options=ms.compiler_options(),
    )
    for name in outer:
        moved = lambda by, name=name: end(outer | {name: outer[name] + by})
        slopes = [float((moved(by) - moved(-by)) / (2 * by)) for by in DISTANCES]
        shown = ", ".join(f"{x:.6f} at {by:g}" for x, by in zip(slopes, DISTANCES, strict=True))
        print(f"{name}: exact {float(exact.grad[name]):.6f}, central differences {shown}")


if __name__ == "__main__":
    main()
