"""The images that the networks of the thesis are trained on, and their labels."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from metastep_lab import data
from metastep_lab.experiment import Context
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.image_networks import AbstractImageNetwork

BATCH = 128
LOADERS = {
    "digits": data.digits,
    "mnist": data.mnist,
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
}

Dataset = Literal["digits", "mnist", "cifar10", "cifar100"]
Labels = Literal["true", "random", "halves"]
Scaling = Literal["normalized", "unit"]


class Examples(NamedTuple):
    """Images, gray or in colors, and their labels."""

    images: Float[Array, "examples *colors rows columns"]
    labels: Int[Array, " examples"]


def class_count(dataset: Dataset, labels: Labels = "true") -> int:
    """Return the number of classes: 2 for halves, else those of the data set."""
    if labels == "halves":
        return 2
    return 100 if dataset == "cifar100" else 10


def load(config: Any, context: Context, labels: Labels) -> Examples:
    """Load the images that a configuration names by dataset, examples and scaling.

    They are training examples of the data set, or test examples if there are no others, as in the
    subset of MNIST; of MNIST the first ones, of others random ones. Labels are true; random, as in
    MNIST-R and CIFAR10-R of the thesis; or halves: 0 for the first half of the classes and 1 for
    the second, as in MNIST-2.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    dataset, examples = config.dataset, config.examples
    images, classes = _raw(dataset, context.data)
    if examples > len(classes):
        raise ValueError(
            f"examples is {examples}; allowed are integers from {BATCH} to {len(classes)}, the "
            f"number of examples of {dataset} that were found"
        )
    rng = np.random.default_rng(context.seed)
    if dataset != "mnist":
        order = rng.permutation(len(classes))
        images, classes = images[order], classes[order]
    images, classes = images[:examples].astype(np.float32), classes[:examples].astype(np.int32)
    images /= 16 if dataset == "digits" else 255
    if config.scaling == "normalized":
        # Each color by itself, as in Appendix C.7.3.
        axes = (0, 2, 3) if images.ndim == 4 else None
        mean, deviation = images.mean(axes, keepdims=True), images.std(axes, keepdims=True)
        images = (images - mean) / deviation
    if labels == "random":
        # Drawn after the order: the images are those of the true labels.
        classes = rng.integers(0, class_count(dataset), len(classes)).astype(np.int32)
    elif labels == "halves":
        classes = (classes >= class_count(dataset) // 2).astype(np.int32)
    return Examples(jnp.asarray(images), jnp.asarray(classes))


def _raw(dataset: Dataset, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images, colors before rows and columns, and labels, as they are stored."""
    arrays = LOADERS[dataset](folder).arrays
    images, labels = arrays["images"], arrays["labels"]
    if "split" in arrays:
        training = arrays["split"] == "train"
        if training.any():
            images, labels = images[training], labels[training]
    return images if images.ndim == 3 else images.transpose(0, 3, 1, 2), labels


def fitted(network: DigitNetwork | AbstractImageNetwork, examples: Examples) -> Examples:
    """Return images of 32 x 32 pixels for convolutions: enlarged or with a margin."""
    images = np.asarray(examples.images)
    if images.shape[-1] == 32 or (isinstance(network, DigitNetwork) and not network.channels):
        return examples
    times = 32 // images.shape[-1]
    images = np.kron(images, np.ones((1, times, times), images.dtype))
    margin = (32 - images.shape[-1]) // 2
    space = ((0, 0), (margin, margin), (margin, margin))
    # Not zeros: once normalized, the background of an image is another number.
    return Examples(jnp.asarray(np.pad(images, space, mode="edge")), examples.labels)
