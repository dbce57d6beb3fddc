"""The interface of a problem, and the functions that run it forward.

A problem is a dynamical system that depends on hyperparameters, with an objective that judges its
final state. `init` returns the state w_0, `step` maps w_t to w_{t+1}, `objective` maps w_T to a
number. The state holds everything that the inner algorithm remembers (parameters, momentum, batch
index, random key). A trajectory can therefore be cut anywhere and continued to the same bits.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from metastep.checks import require, require_count, require_key, scalar
from metastep.trees import as_arrays, same_structure
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


class AbstractProblem(eqx.Module):
    """Inner dynamics and an outer objective. A pytree: batch problems with `jax.vmap`.

    Most users need `TrainingProblem`. If the inner algorithm is not a training loop, write a
    subclass with these three methods and a horizon.

    Attributes:
        horizon: the number T of inner steps, at least 1; a Python int. Declare it
            `horizon: int = eqx.field(static=True)`, so that `jax.vmap` leaves it alone.
    """

    horizon: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the state before the first step, w_0. It may depend on `outer`.

        Args:
            outer: the hyperparameters.
            key: a random key; it does not depend on the estimator.
        """

    @abc.abstractmethod
    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Return the state after one more application of the update rule.

        Args:
            inner: the state after `t` steps.
            outer: the hyperparameters.
            t: the index of this step, 0 for the first.
            key: a random key of this step; it depends on `t` and the key of the estimate only.

        Returns:
            A state with the structure, shapes and dtypes of `inner`.
        """

    @abc.abstractmethod
    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the outer loss of the state at the end of the horizon, a real scalar."""


def require_problem(problem: object, name: str = "problem") -> None:
    """Refuse anything but a problem; a function that draws one is a common mistake."""
    allowed = "instances of problems, such as metastep.TrainingProblem(...)"
    require(isinstance(problem, AbstractProblem), name, problem, allowed)


class Keys(eqx.Module):
    """The random keys of one trajectory, derived from the key of the estimate."""

    init: RandomKey
    steps: RandomKey
    objective: RandomKey

    def step(self, t: StepIndex) -> RandomKey:
        """Return the key of step `t`; it does not depend on where the trajectory was cut."""
        return jax.random.fold_in(self.steps, t)


def split_keys(key: RandomKey) -> Keys:
    """Derive the keys of a trajectory. Every estimator derives them here, so all see the same."""
    require_key(key)
    init, steps, objective = jax.random.split(key, 3)
    return Keys(init, steps, objective)


class Trajectory(eqx.Module):
    """A point on a trajectory: the state, the step count and the first non-finite step.

    Attributes:
        inner: the state after `steps` steps.
        steps: int32 scalar, the number of steps taken.
        first_nonfinite: int32 scalar, the number of steps after which the state was first infinite
            or NaN; -1 if it never was.
        watched: one boolean per floating-point leaf of the state. A leaf that is infinite from the
            beginning (such as the best loss so far) is not watched.
    """

    inner: Inner
    steps: Int[Array, ""]
    first_nonfinite: Int[Array, ""]
    watched: tuple[Bool[Array, ""], ...]


def _float_leaves(inner: Inner) -> list[Array]:
    # Without derivatives: whether a state is finite is a remark about it, and would cost residuals.
    return jax.tree.leaves(jax.lax.stop_gradient(eqx.filter(inner, eqx.is_inexact_array)))


def _is_bad(inner: Inner, watched: tuple[Bool[Array, ""], ...]) -> Bool[Array, ""]:
    """Whether a watched leaf holds NaN or infinity. `0 * x` is NaN for both: one pass suffices."""
    bad = [
        # XLA keeps 0 * x for floating-point x, since it is not 0 for all of them.
        watch & jnp.isnan(jnp.sum(0 * leaf))
        for watch, leaf in zip(watched, _float_leaves(inner), strict=True)
    ]
    return jnp.any(jnp.array(bad))


def start(problem: AbstractProblem, outer: Outer, keys: Keys) -> Trajectory:
    """Return the trajectory before its first step.

    Raises:
        ValueError: if `horizon` is below 1, if `step` changes the structure, a shape or a dtype of
            the state, or if `objective` does not return a real scalar.
    """
    require_count("horizon", problem.horizon)
    inner = initial(problem, outer, keys.init)
    # A wrong objective is refused here, before any loop is traced.
    value = eqx.filter_eval_shape(problem.objective, inner, outer, keys.objective)
    scalar("problem.objective", value)
    steps = jnp.zeros((), jnp.int32)
    watched = tuple(~jnp.any(jnp.isinf(leaf)) for leaf in _float_leaves(inner))
    return Trajectory(inner, steps, jnp.where(_is_bad(inner, watched), steps, -1), watched)


def initial(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Inner:
    """Return the state before the first step, with an array for every leaf that a step changes.

    A Python number that a step returns unchanged is a constant of the problem (such as the rate of
    a dropout layer) and is left as it is. A number that a step changes becomes an array, and NumPy
    arrays become JAX arrays.

    Raises:
        ValueError: if `step` changes the structure, a shape, a dtype, or a leaf that is neither an
            array nor a number.
    """
    inner = as_arrays(problem.init(outer, key))
    # The index is abstract, as in the loop: a step that needs a Python integer fails here, not
    # later.
    index = jax.ShapeDtypeStruct((), jnp.int32)
    # Repeated, since a number that became an array may turn another one into an array.
    while True:
        # Only shapes are traced, so any valid key will do.
        after = eqx.filter_eval_shape(problem.step, inner, outer, index, key)
        inner, changed = _with_arrays(inner, after)
        if not changed:
            break
    # What was only traced is no array to equinox, but has a shape.
    arrays = lambda tree: eqx.filter(tree, lambda x: hasattr(x, "shape"))
    same_structure("problem.step", arrays(inner), arrays(after))
    return inner


def _with_arrays(inner: Inner, after: Inner) -> tuple[Inner, bool]:
    """Turn the numbers that differ in `after` into arrays; return whether there are any."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(inner)
    if jax.tree.structure(after) != treedef:
        return inner, False
    kept = []
    for (path, leaf), new in zip(leaves, jax.tree.leaves(after), strict=True):
        # The types are compared as well, since 1, 1.0 and True are equal.
        constant = eqx.is_array(leaf) or leaf is new or (type(leaf) is type(new) and leaf == new)
        if not constant and not eqx.is_array_like(leaf):
            raise ValueError(
                f"problem.step changed the leaf {jax.tree_util.keystr(path) or 'itself'} from "
                f"{leaf!r} to {new!r}; a leaf that is no array must stay what it is."
            )
        kept.append(leaf if constant else jnp.asarray(leaf))
    changed = any(leaf is not new for (_, leaf), new in zip(leaves, kept, strict=True))
    return jax.tree.unflatten(treedef, kept), changed


def take_step(problem: AbstractProblem, outer: Outer, point: Trajectory, keys: Keys) -> Trajectory:
    """Take one further inner step."""
    inner = problem.step(point.inner, outer, point.steps, keys.step(point.steps))
    taken = point.steps + 1
    bad = (point.first_nonfinite < 0) & _is_bad(inner, point.watched)
    first = jnp.where(bad, taken, point.first_nonfinite)
    return Trajectory(inner, taken, first, point.watched)


def advance(
    problem: AbstractProblem, outer: Outer, trajectory: Trajectory, keys: Keys, steps: int
) -> Trajectory:
    """Take `steps` further inner steps by one `lax.scan`.

    Reverse mode stores the residuals of every step; `advance_checkpointed` needs less memory.
    """
    # `scan` carries arrays only; a state may hold functions, such as those of a model.
    arrays, static = eqx.partition(trajectory, eqx.is_array)

    def body(carry: Trajectory, _: None) -> tuple[Trajectory, None]:
        point = take_step(problem, outer, eqx.combine(carry, static), keys)
        return eqx.filter(point, eqx.is_array), None

    arrays, _ = jax.lax.scan(body, arrays, None, length=steps)
    return eqx.combine(arrays, static)


def advance_checkpointed(
    problem: AbstractProblem,
    outer: Outer,
    trajectory: Trajectory,
    keys: Keys,
    steps: int,
    segment: int,
) -> Trajectory:
    """Take `steps` further steps so that reverse mode stores one state per segment.

    The backward pass runs the `segment` steps between two stored states again. Memory falls from
    the residuals of `steps` steps to `steps / segment` states and the residuals of `segment`
    steps, at the cost of one more forward run. A remainder is run first, as its own segment.
    """
    run = lambda point, length: advance(problem, outer, point, keys, length)
    # The remainder comes first, so that the segments of the loop have one length and one program.
    segments, remainder = divmod(steps, segment)
    if remainder:
        trajectory = eqx.filter_checkpoint(run)(trajectory, remainder)
    arrays, static = eqx.partition(trajectory, eqx.is_array)

    @jax.checkpoint
    def body(carry: Trajectory) -> Trajectory:
        return eqx.filter(run(eqx.combine(carry, static), segment), eqx.is_array)

    arrays, _ = jax.lax.scan(lambda carry, _: (body(carry), None), arrays, None, length=segments)
    return eqx.combine(arrays, static)


def evaluate(problem: AbstractProblem, outer: Outer, keys: Keys) -> tuple[Scalar, Int[Array, ""]]:
    """Return the objective at the end of the horizon, and `Trajectory.first_nonfinite`.

    Differentiable in both modes; reverse mode stores the residuals of every step.
    """
    end = advance(problem, outer, start(problem, outer, keys), keys, problem.horizon)
    return problem.objective(end.inner, outer, keys.objective), end.first_nonfinite


def unroll(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Inner:
    """Run a problem over its whole horizon.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: w**2 / 2,
        ...     objective=lambda w, outer: w,
        ...     init_params=jnp.array(1.0),
        ...     optimizer=lambda outer: optax.sgd(outer["step_size"]),
        ...     horizon=3,
        ... )
        >>> float(ms.unroll(problem, {"step_size": 0.5}, jax.random.key(0)).params)
        0.125

    Args:
        problem: the inner dynamics.
        outer: the hyperparameters.
        key: a random key; an estimator with the same key runs the same trajectory.

    Returns:
        The state after `problem.horizon` steps. Differentiable in both modes; reverse mode stores
        the residuals of every step.

    Raises:
        ValueError: if the problem breaks its interface (see `AbstractProblem`).
    """
    require_problem(problem)
    keys = split_keys(key)
    return advance(problem, outer, start(problem, outer, keys), keys, problem.horizon).inner
