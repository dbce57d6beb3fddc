"""The mean loss over a data set as a function of the parameters, from which curvature is taken."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.types import Scalar

MEAN_TOLERANCE = 1e-3  # a sum differs by a factor of two, rounding in float32 by about 1e-6


def _as_data(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, tree)


def _as_params(tree: PyTree) -> PyTree:
    # Python numbers stay: an array for the eps of a normalization would be a parameter.
    numbers = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return jax.tree.map(numbers, tree)


class AbstractRisk(eqx.Module):
    """A mean over examples, with its data and the parameters at which curvature is taken.

    Attributes:
        params: any pytree; its floating-point leaves are the parameters.
        data: any pytree of arrays with one common leading axis, the examples.
    """

    params: eqx.AbstractVar[PyTree]
    data: eqx.AbstractVar[PyTree]

    @abstractmethod
    def mean(self, params: PyTree, data: PyTree) -> Scalar:
        """Return the mean loss over the examples in `data`, a part of `self.data`."""

    @property
    def examples(self) -> int:
        """The number of examples."""
        return jax.tree.leaves(self.data)[0].shape[0]


class EmpiricalRisk(AbstractRisk):
    """The mean over examples of `loss(model(params, input), target)`.

    The operators that depend on the model's outputs (Gauss-Newton, Fisher, all layer-wise ones)
    need this form. `model` and `loss` take one example each; the library maps them over the data.

    Attributes:
        model: `(params, input) -> output`, for one input without a batch axis. For an equinox
            model: `lambda model, x: model(x)` with the model itself as `params`; for flax:
            `lambda variables, x: module.apply(variables, x[None])[0]`. Statistics of batch
            normalization must be constants or leaves that `model` does not update.
        loss: `(output, target) -> scalar`.
        params: any pytree; its floating-point leaves are the parameters.
        inputs: a pytree of arrays, examples first.
        targets: a pytree of arrays, examples first.

    Raises:
        ValueError: on construction, if a parameter is not finite, the numbers of examples differ
            or are zero, or the loss of one example is not a scalar.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from metastep.curvature import EmpiricalRisk, Hessian
        >>> model = lambda params, x: params["W"] @ x
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> params = {"W": jnp.zeros((2, 3))}
        >>> risk = EmpiricalRisk(model, loss, params, jnp.ones((4, 3)), jnp.array([0, 1, 0, 1]))
        >>> Hessian(risk).as_matrix().shape
        (6, 6)
    """

    model: Callable[..., Any] = eqx.field(static=True)
    loss: Callable[..., Any] = eqx.field(static=True)
    params: PyTree = eqx.field(converter=_as_params)
    inputs: PyTree = eqx.field(converter=_as_data)
    targets: PyTree = eqx.field(converter=_as_data)

    def __check_init__(self):
        # Rebuilt inside of a compiled function, it holds no numbers; they were checked before.
        if _is_traced(self):
            return
        _require_finite(self.params)
        _require_examples(self.data)
        shape = eqx.filter_eval_shape(self.example_loss, self.params, self.example()).shape
        if shape != ():
            raise ValueError(
                f"loss of one example has shape {list(shape)}; allowed is a scalar. The operators "
                "take the mean over the examples themselves, and model and loss see one at a time."
            )

    @property
    def data(self) -> tuple[PyTree, PyTree]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The pair of inputs and targets."""
        return self.inputs, self.targets

    def example(self) -> tuple[PyTree, PyTree]:
        """Return the first example."""
        return jax.tree.map(lambda leaf: leaf[0], self.data)

    def example_loss(self, params: PyTree, example: tuple[PyTree, PyTree]) -> Scalar:
        """Return the loss of one example."""
        return self.loss(self.model(params, example[0]), example[1])

    def mean(self, params: PyTree, data: tuple[PyTree, PyTree]) -> Scalar:
        """Return the mean loss over the examples in `data`."""
        return jnp.mean(jax.vmap(lambda example: self.example_loss(params, example))(data))


class BatchRisk(AbstractRisk):
    """A loss for a whole batch that is the mean over its examples.

    Attributes:
        loss: `(params, batch) -> scalar`, the mean over the examples of the batch.
        params: any pytree; its floating-point leaves are the parameters.
        data: a pytree of arrays, examples first.

    Raises:
        ValueError: on construction, if a parameter is not finite, the numbers of examples differ
            or are zero, or the loss of two examples is not the mean of their losses. This is the
            case for sums and for models that mix examples (batch normalization in training mode).
    """

    loss: Callable[..., Any] = eqx.field(static=True)
    params: PyTree = eqx.field(converter=_as_params)
    data: PyTree = eqx.field(converter=_as_data)

    def __check_init__(self):
        if _is_traced(self):
            return
        _require_finite(self.params)
        _require_examples(self.data)
        if self.examples > 1:
            # Two examples tell a mean from a sum, and mixing shows as a gap of any other size.
            both, first, second = map(float, _losses(self))
            gap = abs(both - (first + second) / 2)
            if gap > MEAN_TOLERANCE * (abs(first) + abs(second)) / 2:
                raise ValueError(
                    f"loss of two examples is {both:.6g}, and their mean is "
                    f"{(first + second) / 2:.6g}; allowed is a loss that is the mean over the "
                    "examples of its batch. Divide a sum by the number of examples; take fixed "
                    "statistics in batch normalization."
                )

    def mean(self, params: PyTree, data: PyTree) -> Scalar:
        """Return the mean loss over the examples in `data`."""
        return self.loss(params, data)


@compiled
def _losses(risk: BatchRisk) -> Float[Array, "3"]:
    part = lambda rows: jax.tree.map(lambda leaf: leaf[rows], risk.data)
    rows = (slice(0, 2), slice(0, 1), slice(1, 2))
    return jnp.stack([risk.mean(risk.params, part(one)) for one in rows])


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _require_finite(params: PyTree) -> None:
    parameters = eqx.filter(params, eqx.is_inexact_array)
    if not jax.tree.leaves(parameters):
        raise ValueError("params has no floating-point leaf; put at least one parameter into it.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        wrong = int(np.sum(~np.isfinite(np.asarray(leaf))))
        if wrong:
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has {wrong} entries that are infinite or NaN; "
                "allowed are finite parameters: their curvature does not exist elsewhere."
            )


def _require_examples(data: PyTree) -> None:
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            f"the leaves of the data have leading axes {sorted(counts)}; allowed is one common "
            "number of examples, from 1."
        )


def batched(
    function: Callable[[PyTree], PyTree], data: PyTree, examples: int, batch_size: int | None
) -> PyTree:
    """Return the mean over all examples of a function that returns means over a batch.

    Full batches go through a `lax.scan`, so memory holds one of them at a time; the remaining
    examples form a last, smaller batch.
    """
    if batch_size is None or batch_size >= examples:
        return function(data)
    count, rest = divmod(examples, batch_size)
    weigh = lambda weight, tree: jax.tree.map(lambda leaf: (weight / examples) * leaf, tree)
    full = jax.tree.map(
        lambda leaf: leaf[: count * batch_size].reshape(count, batch_size, *leaf.shape[1:]), data
    )
    add = lambda total, batch: (jax.tree.map(jnp.add, total, weigh(batch_size, function(batch))), 0)
    # From shapes: with the first batch as the start, `function` would be compiled once more.
    shapes = eqx.filter_eval_shape(function, jax.tree.map(lambda leaf: leaf[0], full))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, full)
    # Not padded: a padded example would need a weight inside of the user's loss.
    if rest:
        last = function(jax.tree.map(lambda leaf: leaf[count * batch_size :], data))
        total = jax.tree.map(jnp.add, total, weigh(rest, last))
    return total


def require_batch_size(batch_size: int | None) -> None:
    """Raise a `ValueError` unless `batch_size` is None or a positive integer."""
    require_count("batch_size", batch_size, none="all examples at once")
