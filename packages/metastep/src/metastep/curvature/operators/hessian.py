"""Hessian, Gauss-Newton and empirical Fisher matrices by their products."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from metastep.curvature.operators.base import AbstractOperator
from metastep.curvature.operators.risk import (
    AbstractRisk,
    EmpiricalRisk,
    batched,
    require_batch_size,
)

Linear = Callable[[PyTree], PyTree]
Where = Callable[[Any], PyTree]


class _Linearized(AbstractOperator):
    """The products of a linear function whose intermediate results are stored."""

    linear: Linear
    like: PyTree = eqx.field(static=True)

    def structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.like

    def mv(self, vector: PyTree) -> PyTree:
        return self.linear(vector)


class _AbstractRiskOperator(AbstractOperator):
    """A mean over examples of matrices that act on all or some of the parameters."""

    risk: eqx.AbstractVar[Any]  # an AbstractRisk; each operator narrows the type
    where: Where | None = eqx.field(static=True, default=None, kw_only=True)
    batch_size: int | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self):
        require_batch_size(self.batch_size)

    @abstractmethod
    def linear(self, data: PyTree) -> Linear:
        """Return the linear map for a batch, computed except for its vector argument."""

    def point(self) -> PyTree:
        """Return the parameters on which the operator acts, at which curvature is taken."""
        params = self.risk.params if self.where is None else self.where(self.risk.params)
        return eqx.filter(params, eqx.is_inexact_array)

    def rebuild(self, point: PyTree) -> PyTree:
        """Return all parameters, with `point` in place of those on which the operator acts."""
        params = self.risk.params
        if self.where is None:
            return eqx.combine(point, params)
        return eqx.tree_at(self.where, params, eqx.combine(point, self.where(params)))

    def structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Return the shapes of the parameters on which the operator acts."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.point())

    def mv(self, vector: PyTree) -> PyTree:
        """Return the mean over all examples of the product, `batch_size` examples at a time."""
        product = lambda data: self.linear(data)(vector)
        return batched(product, self.risk.data, self.risk.examples, self.batch_size)

    def prepare(self) -> AbstractOperator:
        """Linearize once if all examples are one batch: products are two to three times cheaper."""
        # Linearized, all batches would keep their intermediate values, which it bounds.
        if self.batch_size is not None and self.batch_size < self.risk.examples:
            return self
        return _Linearized(self.linear(self.risk.data), self.structure())


class Hessian(_AbstractRiskOperator):
    """The Hessian of a mean loss with respect to the parameters, exact.

    One product costs about as much as two gradients.

    Attributes:
        risk: the mean loss, its parameters and data.
        where: the parameters to use, as in `equinox.tree_at`: `lambda params: params["fc1"]`. None
            for all. The operator acts on the result of `where`.
        batch_size: examples at a time, from 1, which bounds the memory; None for all at once.

    Reference:
        Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """

    risk: AbstractRisk

    def linear(self, data: PyTree) -> Linear:
        """Linearize the gradient."""
        mean = lambda point: self.risk.mean(self.rebuild(point), data)
        # Forward over reverse mode: linearized once, a product costs one tangent of the gradient.
        return jax.linearize(jax.grad(mean), self.point())[1]


class GaussNewton(_AbstractRiskOperator):
    """The generalized Gauss-Newton matrix E[J^T A J], A the loss's Hessian at the outputs.

    It equals the Hessian if the model is linear in the parameters, and is positive semidefinite
    for a convex loss. For the cross-entropy it is the Fisher matrix.

    The attributes are those of `Hessian`.

    Reference:
        Schraudolph (2002), Fast curvature matrix-vector products.
    """

    risk: EmpiricalRisk

    def linear(self, data: tuple[PyTree, PyTree]) -> Linear:
        """Linearize the model, and the gradient of the loss at its outputs."""
        inputs, targets = data
        model = lambda point: jax.vmap(lambda x: self.risk.model(self.rebuild(point), x))(inputs)
        loss = lambda outputs: jnp.mean(jax.vmap(self.risk.loss)(outputs, targets))
        # J v, then A (J v), then J^T of that: no matrix is formed, not even that of the outputs.
        outputs, push = jax.linearize(model, self.point())
        _, curve = jax.linearize(jax.grad(loss), outputs)
        pull = jax.linear_transpose(push, self.point())
        return jax.tree_util.Partial(lambda vector: pull(curve(push(vector)))[0])


class EmpiricalFisher(_AbstractRiskOperator):
    """The mean over examples of g g^T, g the gradient of one example's loss.

    Not the Fisher matrix, since the labels are those of the data. Positive semidefinite.

    The attributes are those of `Hessian`.

    Reference:
        Kunstner, Balles, Hennig (2019), Limitations of the empirical Fisher approximation.
    """

    risk: EmpiricalRisk

    def linear(self, data: tuple[PyTree, PyTree]) -> Linear:
        """Linearize the losses of all examples."""

        def losses(point: PyTree) -> Array:
            params = self.rebuild(point)
            return jax.vmap(lambda example: self.risk.example_loss(params, example))(data)

        # E[g g^T] = J^T J / n with J the Jacobian of all losses, which is never formed.
        values, push = jax.linearize(losses, self.point())
        pull = jax.linear_transpose(push, self.point())
        return jax.tree_util.Partial(lambda vector: pull(push(vector) / len(values))[0])
