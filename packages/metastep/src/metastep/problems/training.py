"""Training with an optax optimizer as a problem."""

from collections.abc import Callable
from typing import Any, SupportsIndex, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from metastep import explained
from metastep.checks import integer, require, require_count, scalar
from metastep.problems.base import AbstractProblem
from metastep.problems.mixed import InnerGradient
from metastep.trees import as_arrays, ascent, differentiable, same_structure
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex

Transformation = optax.GradientTransformation | optax.MultiSteps
Optimizer = Transformation | Callable[[Outer], Transformation]


class TrainingState(eqx.Module):
    """The inner state of a training run: everything needed to continue it to the same bits.

    Attributes:
        params: the parameters, any pytree; its floating-point arrays are trained.
        optimizer_state: the state of the optax optimizer.
        buffers: arrays that training changes but the optimizer does not; None without buffers.
        step: int32 scalar, the number of steps taken; it selects the batch.
        key: the random key of the run; batch `t` is drawn with `fold_in(key, t)`.
    """

    params: PyTree
    optimizer_state: Any
    buffers: PyTree
    step: Int[Array, ""]
    key: RandomKey


class TrainingProblem(AbstractProblem):
    """Train parameters on an inner loss with an optax optimizer for a fixed number of steps.

    Example:
        Which weight decay trains a ridge regression best, as judged by two validation points?

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, -1.0])
        >>> def loss(params, outer, batch):
        ...     return jnp.sum((x @ params - y) ** 2) + outer["decay"] * jnp.sum(params**2)
        >>> problem = ms.TrainingProblem(
        ...     loss=loss,
        ...     objective=lambda params, outer: jnp.sum((params - jnp.array([0.8, -0.4])) ** 2),
        ...     init_params=jnp.zeros(2),
        ...     optimizer=optax.sgd(0.1),
        ...     horizon=100,
        ... )
        >>> estimate = ms.hypergradient(
        ...     problem, {"decay": 0.5}, ms.Reverse(), key=jax.random.key(0)
        ... )
        >>> round(float(estimate.grad["decay"]), 4)
        0.1097

    Attributes:
        loss: `loss(params, outer, batch) -> scalar`, the inner loss that the optimizer descends.
        objective: `objective(params, outer) -> scalar`, the outer loss of the trained parameters.
        init_params: a pytree, or a function `(outer, key) -> pytree` for an initialisation that is
            tuned or random. Floating-point and complex arrays are trained, NumPy's included, as in
            `equinox.filter_grad`. Everything else is left as it is: integer arrays, keys,
            functions and Python numbers, such as the rate of a dropout layer. Write
            `jnp.array(0.5)` for a scalar parameter.
        optimizer: an optax transformation, or a function `outer -> transformation` whose
            hyperparameters are entries of `outer`. Its state is part of the inner state and is
            differentiated through.
        horizon: the number T of steps, at least 1.
        batch: None for full-batch training (`loss` then receives None), or a function
            `(t, key) -> batch`; `t` is an int32 scalar that may be traced, `key` belongs to step
            `t`. Every estimator sees the same batches.
        buffers: the initial values of what training changes beside the parameters, a pytree of
            arrays: running statistics of batch normalization, counters, a key. None without
            buffers. With buffers both functions take them as their last argument, and the loss
            also returns their next values: `loss(params, outer, batch, buffers) -> (scalar,
            buffers)`, `objective(params, outer, buffers) -> scalar`. They are differentiated
            through like the parameters.

    Raises:
        ValueError: on construction, for a horizon below 1; when used, for parameters without a
            floating-point array, a loss or objective that is not one real number, or a loss that
            changes the structure of the buffers.
    """

    loss: Callable[..., Any]
    objective_of_params: Callable[..., Scalar]
    init_params: PyTree | Callable[[Outer, RandomKey], PyTree]
    optimizer: Optimizer
    horizon: int = eqx.field(static=True)
    batch: Callable[[StepIndex, RandomKey], Any] | None
    buffers: PyTree
    gradient: InnerGradient

    def __init__(
        self,
        loss: Callable[..., Any],
        objective: Callable[..., Scalar],
        init_params: PyTree | Callable[[Outer, RandomKey], PyTree],
        optimizer: Optimizer,
        horizon: SupportsIndex,
        batch: Callable[[StepIndex, RandomKey], Any] | None = None,
        buffers: PyTree = None,
    ):
        require_count("horizon", horizon)
        explained.require_no_model("init_params", init_params)
        also = "" if buffers is None else ", buffers"
        advice = explained.BUFFERS if buffers is None else ""
        allowed = "functions (params, outer, batch) -> scalar"
        _require_function("loss", loss, f"params, outer, batch{also}", allowed, advice)
        allowed = "functions (params, outer) -> scalar"
        _require_function("objective", objective, f"params, outer{also}", allowed, advice)
        if _is_function(init_params):
            explained.require_arguments("init_params", init_params, "outer, key")
        if not explained.is_transformation(optimizer):
            allowed = f"{explained.TRANSFORMATIONS}, and functions outer -> transformation"
            _require_function("optimizer", optimizer, "outer", allowed)
        if batch is not None:
            allowed = "None, functions (t, key) -> batch, and metastep.Batches(source)"
            _require_function("batch", batch, "t, key", allowed, explained.BATCH_SOURCE)
        self.loss = loss
        self.objective_of_params = objective
        self.init_params = init_params
        self.optimizer = optimizer
        self.horizon = integer(horizon)
        self.batch = batch
        self.buffers = buffers
        self.gradient = InnerGradient()

    def _optimizer(self, outer: Outer) -> optax.GradientTransformationExtraArgs:
        given = self.optimizer
        if not isinstance(given, optax.GradientTransformation | optax.MultiSteps):
            with explained.traced("optimizer", explained.OPTIMIZER):
                given = given(outer)
            usable = explained.is_transformation(given)
            require(usable, "optimizer(outer)", given, explained.TRANSFORMATIONS)
        if isinstance(given, optax.MultiSteps):
            given = given.gradient_transformation()
        # Some transformations (Polyak steps, line searches) ask for the loss itself.
        return optax.with_extra_args_support(given)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the initial parameters, a fresh optimizer state, step 0 and the run's key."""
        params_key, run_key = jax.random.split(key)
        params = self.init_params
        if _is_function(params):
            with explained.traced("init_params", explained.FUNCTION):
                params = params(outer, params_key)
        params = as_arrays(params)
        trained, _ = differentiable(params)
        if not jax.tree.leaves(trained):
            raise ValueError(
                f"init_params gives {params!r}, which has no array of floating-point numbers; only "
                "such arrays are trained. Write jnp.array(1.0) for 1.0."
            )
        # The optimizer sees arrays only, as with `equinox.filter_grad`: models hold functions too.
        state = self._optimizer(outer).init(trained)
        explained.check_optimizer_state(state, trained)
        buffers = as_arrays(self.buffers)
        return TrainingState(params, state, buffers, jnp.zeros((), jnp.int32), run_key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Draw the batch by the step index and key in the state; apply one optimizer update."""
        del t, key  # the state holds both, so a trajectory that was cut continues unchanged
        trained, fixed = differentiable(inner.params)

        def loss_and_buffers(trained: PyTree) -> tuple[Scalar, PyTree]:
            # Drawn inside the loss, so that a backward pass draws it again instead of storing it.
            batch = None
            if self.batch is not None:
                with explained.traced("batch", explained.BATCH):
                    batch = self.batch(inner.step, jax.random.fold_in(inner.key, inner.step))
            with explained.traced("loss", explained.FUNCTION):
                return self.loss_at(eqx.combine(trained, fixed), outer, batch, inner.buffers)

        loss = lambda trained: loss_and_buffers(trained)[0]
        with explained.reversible("loss", explained.LOSS_LOOP):
            value, gradients = self.gradient(loss, trained)
        buffers = inner.buffers
        if buffers is not None:
            # In the forward pass the compiler merges this with the loss; the backward pass repeats.
            after_loss = lambda trained: loss_and_buffers(trained)[1]
            buffers = eqx.filter_checkpoint(after_loss, prevent_cse=False)(trained)
        gradients = ascent(gradients)
        if isinstance(gradients, optax.LookaheadParams):
            # Lookahead trains a pair, and its update takes the gradient of the fast ones alone.
            gradients = gradients.fast
        optimizer = self._optimizer(outer)

        def update(gradients: PyTree, state: Any, value: Scalar) -> tuple[PyTree, Any]:
            extra = {"value": value, "grad": gradients, "value_fn": loss}
            with explained.traced("optimizer", explained.OPTIMIZER):
                updates, state = optimizer.update(gradients, state, trained, **extra)
            return optax.apply_updates(trained, updates), state

        # A few operations per parameter: recomputing them costs less than storing their results.
        # Inside of a `scan` XLA cannot merge the two passes, and needs no barrier against it.
        repeated = eqx.filter_checkpoint(update, prevent_cse=False)
        after, state = repeated(gradients, inner.optimizer_state, value)
        params = eqx.combine(after, fixed)
        return TrainingState(params, state, buffers, inner.step + 1, inner.key)

    def loss_at(
        self, params: PyTree, outer: Outer, batch: Any, buffers: PyTree = None
    ) -> tuple[Scalar, PyTree]:
        """Return the inner loss, and the buffers after it."""
        if self.buffers is None:
            return scalar("loss", self.loss(params, outer, batch)), None
        # A copy of the containers, since an equinox State may be used only once.
        given = jax.tree.map(lambda x: x, buffers)
        found = self.loss(params, outer, batch, given)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise ValueError(
                f"loss returned a {type(found).__name__}; with buffers it must return the pair "
                "(scalar, buffers): the loss, and what the buffers are after this step."
            )
        same_structure("loss", buffers, after := as_arrays(found[1]))
        return scalar("loss", found[0]), after

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the outer loss of the trained parameters."""
        del key
        with explained.traced("objective", explained.FUNCTION):
            buffers = () if self.buffers is None else (inner.buffers,)
            return scalar("objective", self.objective_of_params(inner.params, outer, *buffers))


def _require_function(
    name: str, function: object, arguments: str, allowed: str, advice: str = ""
) -> None:
    require(callable(function), name, function, allowed)
    explained.require_arguments(name, cast(Callable[..., Any], function), arguments, advice)


def _is_function(init_params: Any) -> bool:
    """Tell an initialiser from parameters: a callable equinox model counts as parameters."""
    # A bound method of an equinox module is a module itself, with `__func__`.
    is_model = isinstance(init_params, eqx.Module) and not hasattr(init_params, "__func__")
    return callable(init_params) and not is_model
