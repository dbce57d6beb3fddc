"""Softmax regression with one weight per training example: the task of data hypercleaning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from metastep.checks import require_count
from metastep.tasks.stored_twice import StoredTwice
from metastep.types import Scalar


class WeightedClassification(eqx.Module):
    """Fit a linear classifier to weighted training examples; judge it on validation examples.

    The hyperparameters are one logit lambda_i per training example; its weight is the logistic
    function of lambda_i. Parameters W have shape (classes, features), so that both products of a
    gradient step read the examples row by row.

    Reference:
        Shaban et al. (2019), section 4.2.1, read with the mean over examples (with their sum the
        inner descent diverges at the paper's step size of 1).

    Attributes:
        features: training inputs, given as an array of shape (examples, features) and kept in both
            memory orders; append a column of ones for a bias.
        labels: training labels in 0 .. classes - 1, shape (examples,).
        validation_features: shape (validation examples, features).
        validation_labels: shape (validation examples,).
        classes: the number of classes, at least 2.
        regularization: the factor of |W|^2 in the training loss.

    Raises:
        ValueError: on construction, for shapes that do not match, features that are not finite,
            or labels that are not integers of 0 .. classes - 1.
    """

    features: StoredTwice
    labels: Int[Array, " examples"]
    validation_features: Float[Array, "validation features"]
    validation_labels: Int[Array, " validation"]
    classes: int = eqx.field(static=True)
    regularization: float

    def __init__(
        self,
        features: Float[Array, "examples features"],
        labels: Int[Array, " examples"],
        validation_features: Float[Array, "validation features"],
        validation_labels: Int[Array, " validation"],
        classes: int,
        regularization: float,
    ):
        _check_examples("", features, labels, classes)
        _check_examples("validation_", validation_features, validation_labels, classes)
        if features.shape[1] != validation_features.shape[1]:
            raise ValueError(
                f"validation_features has {validation_features.shape[1]} columns; features has "
                f"{features.shape[1]}, and both need the same."
            )
        self.features = StoredTwice(features)
        self.labels = labels
        self.validation_features = validation_features
        self.validation_labels = validation_labels
        self.classes = classes
        self.regularization = regularization

    def initial_params(self) -> Float[Array, "classes features"]:
        """Return zeros, the uniform classifier."""
        examples = self.features.rows
        return jnp.zeros((self.classes, examples.shape[1]), examples.dtype)

    def loss(
        self,
        params: Float[Array, "classes features"],
        outer: Float[Array, " examples"],
        batch: None = None,
    ) -> Scalar:
        """Return the mean of weight times cross-entropy, plus regularization times |W|^2."""
        del batch
        losses = cross_entropy(params, self.features, self.labels)
        return jnp.mean(jax.nn.sigmoid(outer) * losses) + self.regularization * jnp.sum(params**2)

    def validation_loss(
        self, params: Float[Array, "classes features"], outer: Float[Array, " examples"]
    ) -> Scalar:
        """Return the mean cross-entropy of the validation examples."""
        del outer
        return jnp.mean(cross_entropy(params, self.validation_features, self.validation_labels))


def cross_entropy(
    params: Float[Array, "classes features"],
    features: Float[Array, "examples features"] | StoredTwice,
    labels: Int[Array, " examples"],
) -> Float[Array, " examples"]:
    """Return -log softmax(W x_i)[y_i] for every example, shape (examples,).

    Exact, and stable for large scores. The rule for its derivative keeps the softmax as the only
    residual; with `StoredTwice` features both products read them in memory order.
    """
    # The barrier keeps XLA from transposing the large matrix instead of this small one.
    scores = features @ jax.lax.optimization_barrier(params.T)
    return _losses(scores, jax.nn.one_hot(labels, params.shape[0], dtype=params.dtype))


@jax.custom_jvp
def _losses(scores: Array, targets: Array) -> Array:
    return jax.nn.logsumexp(scores, axis=1) - jnp.sum(scores * targets, axis=1)


@_losses.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    scores, targets = primals
    errors = jax.nn.softmax(scores) - targets
    change = jnp.sum(errors * tangents[0] - scores * tangents[1], axis=1)
    return _losses(scores, targets), change


def accuracy(
    params: Float[Array, "classes features"],
    features: Float[Array, "examples features"],
    labels: Int[Array, " examples"],
) -> Scalar:
    """Return the fraction of examples whose largest score is that of their label."""
    return jnp.mean(jnp.argmax(features @ params.T, axis=1) == labels)


def _check_examples(prefix: str, features: Array, labels: Array, classes: int) -> None:
    require_count("classes", classes, least=2)
    if features.ndim != 2 or labels.shape != (features.shape[0],) or features.shape[0] == 0:
        raise ValueError(
            f"{prefix}features has shape {features.shape} and {prefix}labels {labels.shape}; "
            "allowed are (examples, features) and (examples,) with at least one example."
        )
    # Under a transformation there are shapes alone.
    if isinstance(features, Tracer) or isinstance(labels, Tracer):
        return
    bad_rows = np.flatnonzero(~np.isfinite(np.asarray(features)).all(axis=1))
    if bad_rows.size:
        raise ValueError(
            f"{prefix}features has NaN or infinity in {bad_rows.size} rows, the first of them row "
            f"{bad_rows[0]}; remove or impute them."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{prefix}labels has dtype {labels.dtype}; allowed are integers.")
    values = np.asarray(labels)
    outside = np.flatnonzero((values < 0) | (values >= classes))
    if outside.size:
        raise ValueError(
            f"{prefix}labels[{outside[0]}] is {values[outside[0]]}; allowed are 0 to {classes - 1}."
        )
