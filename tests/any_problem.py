"""Whole problems drawn by hypothesis: what compiles is a recipe, what does not are its values.

One recipe is one set of programs; `values` gives as many problems for them as are asked for.
"""

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

import metastep as ms
from metastep import step_sizes
from tests import any_optimizer


class Node(eqx.Module):
    """A module with a static field, as layers have them."""

    child: Any
    units: int = eqx.field(static=True)


@dataclass(frozen=True)
class Recipe:
    """All of a problem that is compiled into its programs.

    Attributes:
        optimizer: a name of `any_optimizer.ROWS`.
        params: shapes and dtypes of what is trained, from two arrays.
        holder: how they are held, and what is held beside them.
        network: whether they are the factors of a product with tanh, or stand for themselves.
        outer: dtypes of the hyperparameters, by turns.
        schedule: what becomes of the step size.
        start: "given", "tuned" or "drawn".
        batch: where batches come from.
        buffers: "none", "mean" or "key".
        wrap: "none", "bounded" or "averaged".
        horizon: the number of steps.
    """

    optimizer: str
    params: tuple[tuple[tuple[int, ...], str], ...]
    holder: str
    network: bool
    outer: tuple[str, ...]
    schedule: str
    start: str
    batch: str
    buffers: str
    wrap: str
    horizon: int

    @property
    def dtypes(self):
        return {dtype for _, dtype in self.params} | set(self.outer)

    @property
    def in_double(self):
        """The same recipe, all in double precision."""
        kind = lambda dtype: "complex128" if "complex" in dtype else "float64"
        params = tuple((shape, kind(dtype)) for shape, dtype in self.params)
        return replace(self, params=params, outer=("float64",) * len(self.outer))

    @property
    def digits(self):
        """The smallest number of decimal digits of a dtype."""
        return min(int(jnp.finfo(dtype).precision) for dtype in self.dtypes)


SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (1, 2, 1)])
DOUBLE = {True: ["float64", "float64", "complex128"], False: ["float64"]}
SINGLE = {True: ["float32", "complex64"], False: ["float32"]}
OUTER = {"double": ["float64"], "single": ["float32"], "half": ["bfloat16", "float32"]}


@st.composite
def recipes(draw, optimizer, precisions=("double", "double", "double", "single", "mixed", "half")):
    """Draw a recipe with one of the optimizers."""
    row = any_optimizer.ROWS[optimizer]
    precision = draw(st.sampled_from(precisions if row.single else ("double",)))
    network = draw(st.booleans())
    with_complex = row.complex and not network
    kinds = {
        "double": DOUBLE[with_complex],
        "single": SINGLE[with_complex],
        "mixed": SINGLE[with_complex] + DOUBLE[with_complex],
        "half": ["bfloat16", "float32"],
    }[precision]
    outer_kinds = OUTER.get(precision, ["float32", "float64"])
    shapes = [(3, 2), (2,)] if network else draw(st.lists(SHAPES, min_size=2, max_size=4))
    pick = lambda *names: draw(st.sampled_from(names))
    wrap = pick("none", "none", "bounded", "averaged")
    start = "given" if wrap == "averaged" else pick("given", "given", "tuned", "drawn")
    return Recipe(
        optimizer,
        tuple((shape, pick(*kinds)) for shape in shapes),
        pick("list", "dictionary", "module", "functions"),
        network,
        tuple(pick(*outer_kinds) for _ in range(3)),
        pick("constant", "cosine", "exponential", "pieces", "optax"),
        start,
        pick("none", "random", "rows", "loaded"),
        pick("none", "none", "mean", "key"),
        wrap,
        pick(5, 4, 6, 3, 6, 4, 5, 2, 1),
    )


def held(recipe, arrays):
    """Put the arrays into a pytree."""
    first, *rest = arrays
    return {
        "list": [first, tuple(rest)],
        "dictionary": {"b": first, "a": {"c": rest, "none": None}},
        "module": Node([Node(first, 2), *rest], 3),
        "functions": {"w": [first, *rest], "f": jnp.tanh, "p": 0.5, "index": jnp.arange(2)},
    }[recipe.holder]


def outer_of(recipe, rng):
    """Draw hyperparameters: a step size, a second number of the optimizer, and of the loss."""
    numbers = [rng.uniform(0.05, 0.2), rng.uniform(0.3, 0.7), rng.normal(size=2), rng.normal()]
    dtypes = [*recipe.outer, recipe.outer[0]]
    rate, beta, aim, decay = map(jnp.asarray, numbers, dtypes)
    return {"rates": (rate, [beta]), "loss": {"aim": aim, "decay": decay}}


def drawn(recipe, rng):
    """Draw the initial parameters, none of them near zero."""

    def one(shape, dtype):
        draw = lambda: rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.2, shape)
        number = draw() + 1j * draw() if "complex" in dtype else draw()
        return jnp.asarray(number, dtype)

    return held(recipe, [one(*row) for row in recipe.params])


INPUTS = np.array([[0.5, -1.0, 0.3], [1.2, 0.4, -0.7], [-0.6, 0.8, 1.1]])
TABLE = np.sin(np.arange(21.0)).reshape(7, 3)


def numbers(recipe, params):
    """Return what the losses look at: all parts of all parameters, or outputs of a network."""
    arrays = [x for x in jax.tree.leaves(params) if eqx.is_inexact_array(x)]
    if recipe.network:
        first, second = sorted(arrays, key=lambda x: -x.ndim)
        return jnp.tanh(INPUTS.astype(first.dtype) @ first) @ second
    parts = lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    return jnp.concatenate([part.ravel() for x in arrays for part in parts(x)])


def schedule(recipe, rate, beta):
    steps = recipe.horizon
    return {
        "constant": lambda: rate,
        "cosine": lambda: step_sizes.warmup_cosine_decay_schedule(0.02, rate, 2, 2 + steps),
        "exponential": lambda: step_sizes.exponential_decay(rate, 3, beta),
        "pieces": lambda: step_sizes.piecewise_constant_schedule(rate, {1: beta, 4: 0.7}),
        "optax": lambda: optax.linear_schedule(rate, beta * rate, steps),
    }[recipe.schedule]()


def optimizer_of(recipe):
    """Return outer -> transformation; a schedule multiplies the updates of a unit step size."""
    row = any_optimizer.ROWS[recipe.optimizer]
    lowest = min((jnp.finfo(dtype).dtype for _, dtype in recipe.params), key=lambda x: x.itemsize)

    def optimizer(outer):
        rate, (beta,) = outer["rates"]
        if not row.casts:  # optax gives its state the dtype of the numbers, where that is wider
            rate, beta = rate.astype(lowest), beta.astype(lowest)
        made = row.make(rate, beta)
        if recipe.schedule == "constant":
            return made
        if isinstance(made, optax.MultiSteps):
            made = made.gradient_transformation()
        factor = schedule(recipe, 1.0 + rate, beta)
        return optax.chain(made, optax.scale_by_schedule(factor))

    return optimizer


def batch_of(recipe):
    return {
        "none": None,
        "random": lambda t, key: jax.random.normal(key, (3,)) / (1.0 + t),
        "rows": lambda t, key: jnp.asarray(TABLE)[jax.random.randint(key, (), 0, 7)],
        "loaded": ms.Batches(TABLE),
    }[recipe.batch]


def losses(recipe):
    """Return loss and objective: smooth, with every hyperparameter and every part coupled."""
    wide = jnp.float32 if recipe.digits < 6 else None

    def pulled(params, outer, batch, shift):
        z = numbers(recipe, params)
        z = z if wide is None else z.astype(jnp.promote_types(z.dtype, wide))
        aim, decay = outer["loss"]["aim"], outer["loss"]["decay"]
        bent = jnp.cos(z + (0.0 if batch is None else jnp.sum(batch)) + shift)
        apart = z - jnp.resize(aim, z.shape)
        pull = jnp.sum(apart**2) / 2 + 0.3 * jnp.sum(bent) + 0.2 * jnp.sum(z) ** 2
        return pull + 0.1 * jnp.exp(decay / 2) * jnp.sum(jnp.sqrt(1 + z**2))

    def loss(params, outer, batch, buffers=None):
        if buffers is None:
            return pulled(params, outer, batch, 0.0)
        if "mean" in buffers:
            mean = buffers["mean"]
            now = 0.5 * mean + 0.5 * jnp.mean(numbers(recipe, params)).astype(mean.dtype)
            return pulled(params, outer, batch, mean), {"mean": now, "count": buffers["count"] + 1}
        key, use = jax.random.split(buffers["key"])
        return pulled(params, outer, batch, jax.random.uniform(use)), {"key": key}

    def objective(params, outer, buffers=None):
        z = numbers(recipe, params)
        direct = sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(outer))
        more = 0.0 if buffers is None or "mean" not in buffers else buffers["mean"] ** 2
        return jnp.sum((z - 0.3) ** 2) + 0.1 * jnp.sin(jnp.sum(z)) + 0.01 * direct + more

    return loss, objective


BUFFERS = {
    "none": lambda: None,
    "mean": lambda: {"mean": jnp.array(0.1), "count": jnp.array(0)},
    "key": lambda: {"key": jax.random.key(5)},
}


def start_of(recipe, params):
    """Return the initial parameters, or the function that makes them of `outer` and a key."""
    if recipe.start == "given":
        return params

    def start(outer, key):
        aim = jnp.sum(outer["loss"]["aim"])
        noise = 0.1 * jax.random.normal(key) if recipe.start == "drawn" else 0.0
        shifted = lambda x: (x + 0.1 * aim + noise).astype(x.dtype)
        return jax.tree.map(lambda x: shifted(x) if eqx.is_inexact_array(x) else x, params)

    return start


def tuned_start(recipe):
    """Whether the state before the first step depends on the hyperparameters."""
    return recipe.start != "given" or any_optimizer.ROWS[recipe.optimizer].tuned_start


def maker(recipe):
    """Return rng -> (problem, outer); its problems share their compiled programs."""
    loss, objective = losses(recipe)
    optimizer, batch, buffers = optimizer_of(recipe), batch_of(recipe), BUFFERS[recipe.buffers]()
    fixed = start_of(recipe, drawn(recipe, np.random.default_rng(0)))

    def one(params):
        return ms.TrainingProblem(
            loss,
            objective,
            params if recipe.start == "given" else fixed,
            optimizer,
            recipe.horizon,
            batch,
            buffers,
        )

    def make(rng):
        outer = outer_of(recipe, rng)
        problem = one(drawn(recipe, rng))
        if recipe.wrap == "bounded":
            problem = ms.Bounded(problem, jnp.array(1e3), of_params)
        if recipe.wrap == "averaged":
            stack = lambda *xs: jnp.stack(xs) if eqx.is_array(xs[0]) else xs[0]
            problem = ms.Averaged(jax.tree.map(stack, problem, one(drawn(recipe, rng))))
        return problem, outer

    return make


def of_params(inner):
    return inner.params
