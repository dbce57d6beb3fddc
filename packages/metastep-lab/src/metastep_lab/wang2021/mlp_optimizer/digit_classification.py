"""Training a small network on images of digits: the task of a learned optimizer."""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from metastep.types import RandomKey, Scalar, StepIndex

INITIAL_DEVIATION = 1.2


class DigitClassification(eqx.Module):
    """Fit a ReLU network to labeled images in batches drawn by reshuffled epochs.

    Parameters are one dictionary with `weight` and `bias` for each layer. Both start normally
    distributed with deviation 1.2 / sqrt(rows), as in the published code, where the rows of a bias
    are its entries.

    Reference:
        Metz et al. (2019); Wang et al. (2021), section 5 and Appendix F.

    Attributes:
        inputs: training images, flat, values from 0 to 1.
        labels: their classes.
        validation_inputs: images for train-by-validation; there may be none.
        validation_labels: their classes.
        batches: positions in `inputs`, one row for each step; see `epochs`.
        sizes: of the network, from inputs to classes.
        sample: how many random examples an objective is measured on; None for all of them.

    Raises:
        ValueError: on construction, for shapes that do not match.
    """

    inputs: Float[Array, "examples pixels"]
    labels: Int[Array, " examples"]
    validation_inputs: Float[Array, "validation pixels"]
    validation_labels: Int[Array, " validation"]
    batches: Int[Array, "steps batch"]
    sizes: tuple[int, ...] = eqx.field(static=True)
    sample: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        pairs = {
            "labels": (self.inputs, self.labels),
            "validation_labels": (self.validation_inputs, self.validation_labels),
        }
        for name, (inputs, labels) in pairs.items():
            if inputs.shape != (*labels.shape, self.sizes[0]):
                raise ValueError(
                    f"{name} has shape {labels.shape} beside inputs of {inputs.shape}; allowed "
                    f"are (n,) and (n, {self.sizes[0]}), the first of `sizes`."
                )

    def init(self, key: RandomKey) -> dict[str, dict[str, Array]]:
        """Return random parameters."""
        params = {}
        for index, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            keys = jax.random.split(jax.random.fold_in(key, index))
            shapes = {"weight": (inputs, outputs), "bias": (outputs,)}
            params[f"layer {index}"] = {
                name: INITIAL_DEVIATION / shape[0] ** 0.5 * jax.random.normal(one, shape)
                for one, (name, shape) in zip(keys, shapes.items(), strict=True)
            }
        return params

    def loss(self, params: dict, step: StepIndex) -> Scalar:
        """Return the mean cross-entropy of the batch of a step, in nats.

        Steps beyond the last row of `batches` begin again at the first.
        """
        rows = self.batches[jnp.asarray(step) % len(self.batches)]
        return cross_entropy(params, self.inputs[rows], self.labels[rows])


def training_objective(task: DigitClassification, params: dict, key: RandomKey) -> Scalar:
    """Return the mean cross-entropy on the training images in nats: train-by-train.

    The key draws `task.sample` of them with replacement, where that is not None.
    """
    return _objective(params, task.inputs, task.labels, task.sample, key)


def validation_objective(task: DigitClassification, params: dict, key: RandomKey) -> Scalar:
    """Return the mean cross-entropy on the validation images in nats: train-by-validation.

    The key draws `task.sample` of them with replacement, where that is not None.
    """
    inputs, labels = task.validation_inputs, task.validation_labels
    return _objective(params, inputs, labels, task.sample, key)


def _objective(
    params: dict, inputs: Array, labels: Array, sample: int | None, key: RandomKey
) -> Scalar:
    if sample is not None:
        # With replacement: a draw without one is a sort of all examples, in every step of a
        # segment.
        rows = jax.random.randint(key, (sample,), 0, len(labels))
        inputs, labels = inputs[rows], labels[rows]
    return cross_entropy(params, inputs, labels)


def predict(
    params: dict, inputs: Float[Array, "examples pixels"]
) -> Float[Array, "examples classes"]:
    """Return the logits of every class, for a network of any depth and flat images."""
    *hidden, last = params.values()
    for layer in hidden:
        inputs = jax.nn.relu(inputs @ layer["weight"] + layer["bias"])
    return inputs @ last["weight"] + last["bias"]


def cross_entropy(
    params: dict, inputs: Float[Array, "examples pixels"], labels: Int[Array, " examples"]
) -> Scalar:
    """Return the mean cross-entropy of a network on flat images, in nats."""
    scores = predict(params, inputs)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def fraction_correct(
    params: dict, inputs: Float[Array, "examples pixels"], labels: Int[Array, " examples"]
) -> Scalar:
    """Return the fraction of images whose largest score is that of their label."""
    return jnp.mean(jnp.argmax(predict(params, inputs), axis=1) == labels)


def epochs(examples: int, batch: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Return batches by reshuffled epochs; what does not fill a batch at their end is dropped.

    Returns:
        Positions of examples, int32 of shape (steps, batch).

    Raises:
        ValueError: if `batch` is not from 1 to `examples`.
    """
    if not 1 <= batch <= examples:
        raise ValueError(f"batch is {batch}; allowed are integers from 1 to {examples}, the data.")
    whole = examples // batch
    rounds: Sequence[np.ndarray] = [
        rng.permutation(examples)[: whole * batch].reshape(whole, batch)
        for _ in range(-(-steps // whole))
    ]
    return np.concatenate(rounds)[:steps].astype(np.int32)
