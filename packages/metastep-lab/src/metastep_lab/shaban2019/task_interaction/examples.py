"""The data of `task-interaction`: features, and the examples of a trial."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep_lab import data
from metastep_lab.shaban2019.task_interaction.interaction import InteractingClasses
from metastep_lab.shaban2019.task_interaction.patch_features import patch_features, read_features


class Examples(eqx.Module):
    """The data of one trial."""

    task: InteractingClasses
    test_features: Array
    test_labels: Array


def load(config: Any, folder: Path | None, seed: int) -> tuple[np.ndarray, np.ndarray, list]:
    """Return features, labels and the names of the classes.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if there is no such file of features, or it does not hold features and labels.
    """
    if config.features is not None:
        path = Path(config.features)
        beside = folder / path if folder is not None else path
        if not path.exists() and not beside.exists():
            raise ValueError(
                f"features is {config.features}, and there is no such file, nor in the folder of "
                "the data sets; allowed is an .npz file with the arrays features and labels"
            )
        features, labels = read_features(path if path.exists() else beside)
        return features, labels, [str(label) for label in np.unique(labels)]
    found = (data.digits if config.dataset == "digits" else data.cifar10)(folder).arrays
    labels = found["labels"].astype(np.int32)
    names = found.get("classes", np.unique(labels))
    size = dict(filters=config.filters, size=config.patch_size)
    features = patch_features(found["images"], seed=seed, **size)
    return features, labels, [str(name) for name in names]


def draw(config: Any, features: np.ndarray, labels: np.ndarray, seed: int, trial: int) -> Examples:
    """Draw the examples of one trial, class-balanced, and scale the features."""
    number = np.random.SeedSequence((seed, trial)).generate_state(1)[0]
    sets = data.balanced_indices(labels, (config.examples, config.examples), int(number))
    test = np.setdiff1d(np.arange(labels.size), np.concatenate(sets))
    if test.size == 0:
        raise ValueError(
            f"examples is {config.examples}; allowed is what leaves some of the {labels.size} "
            "examples for testing"
        )
    with_bias = np.concatenate([features, np.ones((labels.size, 1), np.float32)], axis=1)
    curvature = np.linalg.norm(with_bias[sets[0]], 2) ** 2 / (2 * config.examples)
    scaled = (with_bias * np.sqrt(config.smoothness / curvature)).astype(np.float32)
    part = lambda rows: (jnp.asarray(scaled[rows]), jnp.asarray(labels[rows]))
    return Examples(InteractingClasses(*part(sets[0]), *part(sets[1])), *part(test))
