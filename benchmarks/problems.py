"""The data of the benchmark cases: NumPy only, fixed seeds, the same for every library."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

CLASSES = 10
PIXELS = 784


@dataclass(frozen=True)
class Hypercleaning:
    """One weight per training example of a linear classifier, half of whose labels are random.

    Attributes:
        features: shape (examples, 785), sparse values in [0, 1] and a column of ones.
        labels: integers, shape (examples,).
        validation_features: as `features`.
        validation_labels: as `labels`, never corrupted.
        outer: one logit per training example.
        horizon: gradient steps on all examples, from zero.
        step_size: of these steps.
        regularization: factor of |W|^2 in the training loss.
    """

    features: np.ndarray
    labels: np.ndarray
    validation_features: np.ndarray
    validation_labels: np.ndarray
    outer: np.ndarray
    horizon: int = 100
    step_size: float = 1.0
    regularization: float = 0.001


@dataclass(frozen=True)
class Mlp:
    """One weight decay per parameter array of a 784-100-20-10 network trained on small batches.

    Attributes:
        params: weights (outputs, inputs) and biases (outputs,), alternating.
        features: shape (steps, batch, 784), one batch for every step.
        labels: integers, shape (steps, batch).
        validation_features: shape (examples, 784).
        validation_labels: integers, shape (examples,).
        outer: logarithms of the weight decays, in the order of `params`.
        horizon: gradient steps.
        step_size: of these steps.
    """

    params: tuple[np.ndarray, ...]
    features: np.ndarray
    labels: np.ndarray
    validation_features: np.ndarray
    validation_labels: np.ndarray
    outer: np.ndarray = field(default_factory=lambda: np.full(6, -7.0, np.float32))
    horizon: int = 100
    step_size: float = 0.1


def images(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sparse images in [0, 1], about one pixel in five lit, and their classes."""
    lit = np.random.default_rng(0).random((CLASSES, PIXELS)) ** 3
    labels = rng.integers(0, CLASSES, count)
    shown = rng.random((count, PIXELS)) < 0.8 * lit[labels]
    return (shown * rng.random((count, PIXELS))).astype(np.float32), labels.astype(np.int32)


def hypercleaning(examples: int = 5000) -> Hypercleaning:
    """Return the case with `examples` training and as many validation examples."""
    rng = np.random.default_rng(1)
    features, labels = images(2 * examples, rng)
    features = np.concatenate([features, np.ones((2 * examples, 1), np.float32)], axis=1)
    corrupted = np.where(
        rng.random(examples) < 0.5, rng.integers(0, CLASSES, examples), labels[:examples]
    )
    return Hypercleaning(
        features=features[:examples].copy(),
        labels=corrupted.astype(np.int32),
        validation_features=features[examples:].copy(),
        validation_labels=labels[examples:],
        outer=np.zeros(examples, np.float32),
    )


def mlp(seed: int = 2, horizon: int = 100, batch: int = 32, validation: int = 500) -> Mlp:
    """Return the case with one batch of its own for each of `horizon` steps."""
    rng = np.random.default_rng(seed)
    features, labels = images(horizon * batch + validation, rng)
    sizes = (PIXELS, 100, 20, CLASSES)
    params = []
    for inputs, outputs in pairwise(sizes):
        params.append((rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)).astype(np.float32))
        params.append(np.zeros(outputs, np.float32))
    return Mlp(
        params=tuple(params),
        features=features[:-validation].reshape(horizon, batch, PIXELS),
        labels=labels[:-validation].reshape(horizon, batch),
        validation_features=features[-validation:],
        validation_labels=labels[-validation:],
        horizon=horizon,
    )


CASES = {"hypercleaning": hypercleaning, "mlp": mlp, "meta-batch": lambda: None}
