"""Errors of JAX and optax, translated into the terms of this library."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import optax
from jaxtyping import PyTree

# `if` on a tracer raises a subclass of the first.
_ASKED_FOR_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
# JAX raises a plain ValueError for this, among many others: only its text tells.
_NOT_REVERSIBLE = "Reverse-mode differentiation does not work for lax.while_loop"


@contextmanager
def traced(what: str, advice: str) -> Iterator[None]:
    """Explain by a ValueError that a function needs the concrete value of a traced array.

    `what` names the user's function, `advice` says what to write instead.
    """
    try:
        yield
    except _ASKED_FOR_VALUES as error:
        raise ValueError(
            f"{what} asks in Python for the value of an array, but training is traced as a whole: "
            f"compiled, and differentiated. {advice}"
        ) from error


@contextmanager
def reversible(what: str, advice: str) -> Iterator[None]:
    """Explain by a ValueError that reverse mode cannot differentiate a loop of unknown length.

    `what` names the place of the loop, `advice` says what to do instead.
    """
    try:
        yield
    except ValueError as error:
        if _NOT_REVERSIBLE not in str(error):
            raise
        raise ValueError(
            f"{what} contains a loop of unknown length (lax.while_loop, or lax.fori_loop with "
            f"traced bounds), which reverse mode cannot go back through. {advice}"
        ) from error


@contextmanager
def sharded() -> Iterator[None]:
    """Explain by a ValueError that one program cannot use arrays on these devices together."""
    try:
        yield
    except Exception as error:
        # By its name, since the class is not public.
        if type(error).__name__ == "ShardingTypeError":
            advice = (
                "an array lies on a mesh with explicit axes, the default of jax.make_mesh, where "
                "every operation must say where its result lies. Make the mesh with "
                "jax.sharding.Mesh(devices, names), and JAX finds that out."
            )
        elif "incompatible devices" in str(error):
            advice = (
                "parameters, hyperparameters and batches lie on different devices. Put all that is "
                "spread on one mesh; what is not, leave it where it is, or give it PartitionSpec()."
            )
        else:
            raise
        raise ValueError(f"a sharding does not fit: {advice} JAX says: {error}") from error


def require_arguments(
    name: str, function: Callable[..., Any], arguments: str, advice: str = ""
) -> None:
    """Refuse a function with another number of arguments.

    `arguments` is how it is called, such as "t, key"; `advice` is a sentence on a frequent mistake.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions have none
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        said = f"{name} is a function of {signature}, but it is called with ({arguments}). {advice}"
        raise ValueError(said.rstrip()) from error


def require_no_model(name: str, model: object) -> None:
    """Refuse a model of flax or PyTorch, whose parameters have to be taken out of it first."""
    origins = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    for library, advice in MODELS.items():
        if library in origins and callable(model):
            raise ValueError(f"{name} is a {type(model).__name__}, a model of {library}. {advice}")


BATCH = (
    "`int(t)`, `if t > 3`, and NumPy arrays or lists that are indexed by t are such. Hold the data "
    "as JAX arrays: `data = jnp.asarray(data)` before, and in `batch` for example "
    "`data[(8 * t + jnp.arange(8)) % len(data)]`. Or leave them where they are, and give "
    "`metastep.Batches(source)` as `batch`."
)
OPTIMIZER = (
    "Of optax, warmup_cosine_decay_schedule asks whether its peak is 0, exponential_decay whether "
    "its rate is, piecewise_constant_schedule whether its scales are negative: take those of "
    "`metastep.step_sizes`, whose numbers may be tuned. Lengths, such as warmup_steps, are "
    "integers there; to tune one, write the schedule with jnp.minimum (see the page Tune a "
    "schedule). In functions of your own, write jnp.where for `if`."
)
FUNCTION = (
    "Write jax.numpy for numpy, jnp.where for `if`, and no float(x) or int(x). Hold data that is "
    "indexed by a traced number as JAX arrays: `data = jnp.asarray(data)` before."
)
LOSS_LOOP = (
    "The gradient of a loss is taken in reverse, whatever the estimator. Use lax.scan, or "
    "lax.fori_loop with Python integers as bounds, and jnp.where to stop early."
)
STEP_LOOP = (
    "Line searches have one, such as that of optax.lbfgs. Forward() goes through it; so do "
    "RandomDirections, EvolutionStrategies and CentralDifferences. Give "
    "optax.lbfgs(scale_init_precond=False): the scale of its first step has no derivative in optax."
)

BUFFERS = "If there are `buffers=`, they are its last argument."
BATCH_SOURCE = (
    "Give arrays, data sets and functions of a Python integer as `metastep.Batches(source)`."
)
MODELS = {
    "flax": (
        "Give its parameters: `structure, params, rest = nnx.split(model, nnx.Param, ...)`, or "
        '`model.init(key, x)["params"]` of linen (see the page Bring a model of flax).'
    ),
    "torch": "Convert it by `params, buffers, apply = metastep.interop.from_torch(model)`.",
}


TRANSFORMATIONS = "optax transformations, such as optax.sgd(0.1)"


def is_transformation(optimizer: object) -> bool:
    """Whether this is an optax transformation or, like `optax.MultiSteps`, can be used as one."""
    return hasattr(optimizer, "init") and hasattr(optimizer, "update")


def check_optimizer_state(state: PyTree, trained: PyTree) -> None:
    """Refuse optax optimizer states that do not fit the `trained` parameters.

    Raises:
        ValueError: for `optax.lookahead` without its pair of parameters, and for
            `optax.MultiSteps` that would accumulate gradients in a lower precision than theirs.
    """
    kinds = (optax.LookaheadState, optax.MultiStepsState)
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(node, optax.LookaheadState) and not isinstance(
            trained, optax.LookaheadParams
        ):
            raise ValueError(
                "optimizer is optax.lookahead, which trains a pair: give "
                "`init_params=optax.LookaheadParams.init_synced(params)`, and let the loss use "
                "`params.fast` and the objective `params.slow`."
            )
        if isinstance(node, optax.MultiStepsState):
            # Sums are matched by path, since under a mask they are those of some of the parameters
            # only.
            params = dict(jax.tree_util.tree_leaves_with_path(trained))
            for path, sums in jax.tree_util.tree_leaves_with_path(node.acc_grads):
                param = params.get(path, sums)
                if jax.numpy.finfo(sums.dtype).eps > jax.numpy.finfo(param.dtype).eps:
                    raise ValueError(
                        f"optimizer is optax.MultiSteps, which adds up gradients of {param.dtype} "
                        f"in {sums.dtype}: give `accumulator_dtype=jnp.{param.dtype}`."
                    )
