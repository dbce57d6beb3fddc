"""Softmax regression with a tuned matrix that pulls the weights of similar classes together."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metastep.tasks.classification import cross_entropy
from metastep.tasks.stored_twice import StoredTwice
from metastep.types import Scalar


class Interaction(NamedTuple):
    """Hyperparameters before the softplus that makes C and rho positive.

    Attributes:
        coupling: B with C = A + A^T, A = softplus(B), shape (classes, classes).
        regularization: nu with rho = softplus(nu), scalar.
    """

    coupling: Float[Array, "classes classes"]
    regularization: Scalar

    def strengths(self) -> tuple[Float[Array, "classes classes"], Scalar]:
        """Return C, symmetric and positive, and rho."""
        half = jax.nn.softplus(self.coupling)
        return half + half.T, jax.nn.softplus(self.regularization)

    def smoothness(self) -> Scalar:
        """Return the largest eigenvalue of the Hessian of the two penalties.

        It is 4 lmax(L) + 2 rho with the graph Laplacian L = diag(C 1) - C: the double sum counts
        every pair twice, so that one pair alone gives 8 C_ij.
        """
        strengths, rho = self.strengths()
        laplacian = jnp.diag(jnp.sum(strengths, axis=1)) - strengths
        return 4 * jnp.linalg.eigvalsh(laplacian)[-1] + 2 * rho

    def scaled(self, factor: Scalar) -> "Interaction":
        """Return the hyperparameters whose C and rho are `factor` times these."""
        return Interaction(*(_inverse_softplus(factor * jax.nn.softplus(x)) for x in self))


def _inverse_softplus(value: Array) -> Array:
    # log(exp(v) - 1), which would overflow in float32 from v = 89, and lose all digits of a small
    # v.
    return value + jnp.log(-jnp.expm1(-value))


def interaction(classes: int, coupling: float, regularization: float) -> Interaction:
    """Return hyperparameters with every C_ij = coupling and rho = regularization, both positive.

    Raises:
        ValueError: for a number out of range, or fewer than two classes.
    """
    for name, value in (("coupling", coupling), ("regularization", regularization)):
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; allowed are positive numbers")
    if classes < 2:
        raise ValueError(f"classes is {classes!r}; allowed are integers from 2")
    # With weakly typed numbers the outer loop would be compiled twice.
    halves = jnp.full((classes, classes), coupling / 2, float)
    rho = jnp.array(regularization, float)
    return Interaction(_inverse_softplus(halves), _inverse_softplus(rho))


class InteractingClasses(eqx.Module):
    """One linear model per class, pulled together by C_ij |w_i - w_j|^2 and to 0 by rho |w_i|^2.

    The inner loss is mean cross-entropy + sum_ij C_ij |w_i - w_j|^2 + rho sum_i |w_i|^2, the double
    sum over all ordered pairs; the outer loss is the mean cross-entropy of validation examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from metastep_lab.shaban2019.task_interaction.interaction import InteractingClasses
        >>> from metastep_lab.shaban2019.task_interaction.interaction import interaction
        >>> task = InteractingClasses(jnp.eye(3), jnp.arange(3), jnp.eye(3), jnp.arange(3))
        >>> outer = interaction(3, coupling=0.5, regularization=1.0)
        >>> round(float(task.loss(jnp.eye(3), outer) - task.loss(jnp.eye(3), None)), 4)
        9.0

    Reference:
        Shaban et al. (2019), section 4.2.2, whose double sum runs to K where it means the number
        of classes, and whose outer loss is called that of linear regression.

    Attributes:
        features: training inputs, given as an array of shape (examples, features); append a column
            of ones for a bias.
        labels: shape (examples,), integers from 0.
        validation_features: shape (validation examples, features).
        validation_labels: shape (validation examples,).
        smoothness: half the largest eigenvalue of X^T X / n, an upper bound on the curvature of
            the cross-entropy.
    """

    features: StoredTwice
    labels: Int[Array, " examples"]
    validation_features: Float[Array, "validation features"]
    validation_labels: Int[Array, " validation"]
    smoothness: Scalar

    def __init__(
        self,
        features: Float[Array, "examples features"],
        labels: Int[Array, " examples"],
        validation_features: Float[Array, "validation features"],
        validation_labels: Int[Array, " validation"],
    ):
        self.features = StoredTwice(features)
        self.labels = labels
        self.validation_features = validation_features
        self.validation_labels = validation_labels
        self.smoothness = jnp.linalg.norm(features, 2) ** 2 / (2 * features.shape[0])

    def loss(
        self,
        params: Float[Array, "classes features"],
        outer: Interaction | None,
        batch: None = None,
    ) -> Scalar:
        """Return the inner loss; without hyperparameters the cross-entropy alone."""
        del batch
        fit = jnp.mean(cross_entropy(params, self.features, self.labels))
        if outer is None:
            return fit
        strengths, rho = outer.strengths()
        # sum_ij C_ij |w_i - w_j|^2 = 2 (sum_i d_i |w_i|^2 - sum_ij C_ij w_i.w_j) with row sums d:
        # no array of all differences.
        gram = params @ params.T
        degrees = jnp.sum(strengths, axis=1)
        apart = 2 * (jnp.sum(degrees * jnp.diag(gram)) - jnp.sum(strengths * gram))
        return fit + apart + rho * jnp.trace(gram)

    def validation_loss(
        self, params: Float[Array, "classes features"], outer: Interaction
    ) -> Scalar:
        """Return the mean cross-entropy of the validation examples."""
        del outer
        return jnp.mean(cross_entropy(params, self.validation_features, self.validation_labels))


class Guard(eqx.Module):
    """Keeps gradient descent stable: shrinks C and rho together when they become too large.

    Descent with step size gamma on a loss of curvature up to beta cannot diverge while
    `stability` = gamma beta / 2 is at most 1. Here beta <= 4 lmax(L) + 2 rho + `data_smoothness`;
    with gamma = 0.1 and one pair alone the limit is at C_ij = 2.5, which tuning does reach. As
    `project` of `minimize`, it leaves hyperparameters below the limit bitwise unchanged.

    Attributes:
        step_size: gamma.
        data_smoothness: of the cross-entropy.
        limit: the largest `stability` allowed, or None for no guard: then a diverging inner loop
            shows as a `stability` above 1, as a growing loss, and, once a number overflows, as a
            failed result.
    """

    step_size: Scalar
    data_smoothness: Scalar
    limit: Scalar | None

    def stability(self, outer: Interaction) -> Scalar:
        """Return an upper bound on gamma beta / 2."""
        return self.step_size / 2 * (outer.smoothness() + self.data_smoothness)

    def __call__(self, outer: Interaction) -> Interaction:
        """Return the hyperparameters, scaled down to the limit if they are above it."""
        if self.limit is None:
            return outer
        # The penalties' smoothness is linear in C and rho: one factor for both brings it to the
        # limit.
        allowed = 2 * self.limit / self.step_size - self.data_smoothness
        factor = allowed / outer.smoothness()
        keep = lambda scaled, old: jnp.where(factor < 1, scaled, old)
        return jax.tree.map(keep, outer.scaled(factor), outer)
