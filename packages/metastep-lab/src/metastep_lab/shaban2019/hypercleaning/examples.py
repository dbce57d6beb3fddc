"""The data of `hypercleaning`: images with corrupted labels, clean ones to judge by, the rest."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep.tasks import WeightedClassification
from metastep_lab import data

CLASSES = 10


class Examples(eqx.Module):
    """The data of one run: inputs with a column of ones, labels before and after corruption."""

    task: WeightedClassification
    clean_task: WeightedClassification
    test_features: Array
    test_labels: Array
    replaced: Array
    wrong: Array
    images: np.ndarray


def prepare(config: Any, folder: Path | None, seed: int) -> Examples:
    """Load, split and corrupt the data set.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples of a class.
    """
    loaded = (data.digits if config.dataset == "digits" else data.mnist)(folder)
    images, labels = loaded.arrays["images"], loaded.arrays["labels"].astype(np.int32)
    pixels = images.reshape(len(images), -1).astype(np.float32) / images.max()
    # W is 10 x 785 (section 4.2.1): the 785th input is the bias.
    features = np.concatenate([pixels, np.ones((len(images), 1), np.float32)], axis=1)
    train, validation = data.balanced_indices(labels, (config.train, config.validation), seed)
    # "The test set consists of the remaining examples" (Appendix G.1).
    test = np.setdiff1d(np.arange(len(labels)), np.concatenate([train, validation]))
    if test.size == 0:
        raise ValueError(
            f"train and validation are {config.train} and {config.validation}; together they must "
            f"leave some of the {len(labels)} examples of {config.dataset} for testing"
        )
    rng = np.random.default_rng(seed)
    given, replaced = data.corrupt_labels(labels[train], CLASSES, config.corruption, rng)

    def task(train_labels: np.ndarray) -> WeightedClassification:
        return WeightedClassification(
            jnp.asarray(features[train]),
            jnp.asarray(train_labels, jnp.int32),
            jnp.asarray(features[validation]),
            jnp.asarray(labels[validation]),
            CLASSES,
            config.regularization,
        )

    return Examples(
        task=task(given),
        clean_task=task(labels[train]),
        test_features=jnp.asarray(features[test]),
        test_labels=jnp.asarray(labels[test]),
        replaced=jnp.asarray(replaced),
        wrong=jnp.asarray(given != labels[train]),
        images=images[train],
    )
