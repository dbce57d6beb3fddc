"""The data of `task-interaction`: features, and the examples of a trial."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep_lab import data
from metastep_lab.experiment import Context
from metastep_lab.parts import kept
from metastep_lab.shaban2019.task_interaction.interaction import InteractingClasses
from metastep_lab.shaban2019.task_interaction.patch_features import patch_features, read_features
from metastep_lab.shaban2019.task_interaction.pretrained_features import ImageNetwork


class Examples(eqx.Module):
    """The data of one trial."""

    task: InteractingClasses
    test_features: Array
    test_labels: Array


LOADERS = {"digits": data.digits, "cifar10": data.cifar10, "cifar100": data.cifar100}


def load(config: Any, context: Context) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features, labels and the names of the classes.

    Features of a pretrained network are computed once, even if the run is interrupted.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if there is no such file or directory of features, or it is none.
    """
    path = None if config.features is None else _place(config.features, context.data)
    if path is not None and not path.is_dir():
        features, labels = read_features(path)
        return features, labels, [str(label) for label in np.unique(labels)]
    found = LOADERS[config.dataset](context.data).arrays
    images, labels = found["images"], found["labels"].astype(np.int32)
    names = [str(name) for name in found.get("classes", np.unique(labels))]
    if path is None:
        size = dict(filters=config.filters, size=config.patch_size)
        return patch_features(images, seed=context.seed, **size), labels, names
    network = ImageNetwork.load(path)
    show = lambda done: context.progress(done, len(images), "images read by the network")
    read = lambda: (jnp.asarray(network.read(images, show)), {})
    like = jnp.zeros((len(images), network.features), jnp.float32)
    return np.asarray(kept(context, "features", read, like)[0]), labels, names


def _place(name: str, folder: Path | None) -> Path:
    """Return where a file or directory of features is."""
    path = Path(name)
    beside = path if folder is None else folder / path
    if not path.exists() and not beside.exists():
        raise ValueError(
            f"features is {name}, and there is nothing of that name, nor in the folder of the data "
            "sets; allowed is a directory with an image network of Hugging Face, or an .npz file "
            "with the arrays features and labels"
        )
    return path if path.exists() else beside


def draw(config: Any, features: np.ndarray, labels: np.ndarray, seed: int, trial: int) -> Examples:
    """Draw the examples of one trial, class-balanced, and scale the features."""
    # Not seed + trial, by which runs of neighbouring seeds would share their trials.
    number = np.random.SeedSequence((seed, trial)).generate_state(1)[0]
    sets = data.balanced_indices(labels, (config.examples, config.examples), int(number))
    test = np.setdiff1d(np.arange(labels.size), np.concatenate(sets))
    if test.size == 0:
        raise ValueError(
            f"examples is {config.examples}; allowed is what leaves some of the {labels.size} "
            "examples for testing"
        )
    with_bias = np.concatenate([features, np.ones((labels.size, 1), np.float32)], axis=1)
    # The Hessian of the softmax cross-entropy, diag(p) - p p^T, has eigenvalues of at most 1/2.
    curvature = np.linalg.norm(with_bias[sets[0]], 2) ** 2 / (2 * config.examples)
    scaled = (with_bias * np.sqrt(config.smoothness / curvature)).astype(np.float32)
    part = lambda rows: (jnp.asarray(scaled[rows]), jnp.asarray(labels[rows]))
    return Examples(InteractingClasses(*part(sets[0]), *part(sets[1])), *part(test))
