"""Wrong use is named: counts of any kind, keys, what a loss returns, what an optimizer asks for."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.bilevel import F2SA, AmIGO, BilevelProblem
from metastep.checks import integer, is_count, require_count

LOSS = lambda w, outer, batch: (w - outer) ** 2 / 2


def problem(horizon=4, **options):
    given = {"loss": LOSS, "objective": lambda w, outer: w**2, "init_params": jnp.array(0.0)}
    return ms.TrainingProblem(**(given | options), optimizer=optax.sgd(0.1), horizon=horizon)


INTEGERS = [np.int64(2), np.uint8(2), np.array(2), jnp.array(2)]


@pytest.mark.parametrize("two", INTEGERS, ids=lambda x: f"{type(x).__name__}-{x.dtype}")
def test_every_kind_of_integer_counts(two, key):
    """Where a problem or an estimator is compiled the count is static: a Python int."""
    made = [
        problem(two).horizon,
        BilevelProblem(LOSS, LOSS, jnp.array(0.0), optax.sgd(0.1), two).horizon,
        ms.MAMLProblem(LOSS, 0.0, 0.0, horizon=two, rate=0.1).horizon,
        ms.ResidualProblem(jnp.eye(2), jnp.ones(2), two).horizon,
        ms.TruncatedReverse(two).window,
        ms.TruncatedReverse(1, two).checkpoint,
        ms.Reverse(two).checkpoint,
        ms.Binomial(two).states,
        ms.Forward(two).chunk,
        ms.RandomDirections(two, two).directions,
        ms.CentralDifferences(two).directions,
        ms.EvolutionStrategies(0.1, two, two).pairs,
        ms.PersistentEvolutionStrategies(two, 0.1, two).window,
        ms.Neumann(two).terms,
        AmIGO(optax.sgd(0.1), two, two).linear_steps,
        F2SA(1.0, two).inner_steps,
    ]
    assert all(type(count) is int and count == 2 for count in made)
    assert ms.log_transformed(lambda: jnp.array(1.0), two)() == 0


def test_integers_of_numpy_where_functions_take_them(key):
    two = np.int64(2)
    options = {"optimizer": optax.sgd(0.1), "steps": two, "every": two, "key": key}
    run = ms.minimize(
        lambda key: problem(), 1.0, ms.Forward(), meta_batch=two, tasks_at_once=two, **options
    )
    assert run.history.value.shape == (2,) and run.tasks_at_once == 2
    assert ms.scaled_hypergradient(problem(), 1.0, key=key, chunk=two).sign == 1
    windowed = ms.hypergradient(problem(two), 1.0, ms.TruncatedReverse(two), key=key)
    assert np.isclose(windowed.grad, 2 * (1 - 0.9**2) ** 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0, -1, True, np.True_, np.int64(0), 2.0, np.float64(2), "2"])
def test_what_is_no_count(value):
    assert not is_count(value)
    with pytest.raises(ValueError, match=r"^size is .*; allowed are None \(all\) and the integers"):
        require_count("size", value, none="all")
    counted = isinstance(value, int | np.integer) and not isinstance(value, bool)
    assert type(integer(value)) is (int if counted else type(value))


# Arguments are checked against annotations in this process; a user's process does not do that.
KEYS = """
import jax, jax.numpy as jnp, optax, metastep as ms
loss = lambda w, outer, batch: (w - outer) ** 2
problem = ms.TrainingProblem(
    loss, lambda w, outer: w**2, jnp.array(0.0), optax.sgd(0.1), 3
)
optimizer, estimator = optax.sgd(0.1), ms.Reverse()
calls = [
    lambda key: ms.hypergradient(problem, 1.0, estimator, key=key),
    lambda key: ms.minimize(problem, 1.0, estimator, optimizer=optimizer, steps=2, key=key),
    lambda key: ms.compare(problem, 1.0, [estimator], key=key),
    lambda key: ms.diagnose(problem, 1.0, key=key),
    lambda key: ms.scaled_hypergradient(problem, 1.0, key=key),
    lambda key: ms.unroll(problem, 1.0, key),
    lambda key: estimator.estimate(problem, jnp.array(1.0), None, key),
]
keys = {
    "0": 0,
    "None": None,
    "of key<fry>[3]": jax.random.split(jax.random.key(0), 3),
    "of float32[2]": jnp.zeros(2),
}
for call in calls:
    for text, key in keys.items():
        try:
            call(key)
        except ValueError as error:
            assert str(error).startswith(f"key is {text}; allowed is one random key"), error
        else:
            raise AssertionError(text)
"""


def test_keys_that_are_none():
    done = subprocess.run([sys.executable, "-c", KEYS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


RETURNED = {
    "auxiliary": (lambda w: (w**2, {"w": w}), r"a tuple of 2; .*`lambda \*arguments: {}\(\*arg"),
    "complex": (lambda w: w**2 + 0j, r"complex64\[\]; .*the squared modulus or the real part"),
    "vector": (lambda w: w * jnp.ones(3), r"float32\[3\]; .*Take a mean or a sum"),
    "integer": (lambda w: w.astype(int), r"int32\[\]; .*Make it a floating-point number"),
    "nothing": (lambda w: None, r"a NoneType; it must return a real scalar"),
}


@pytest.mark.parametrize("name", ["loss", "objective"])
@pytest.mark.parametrize("kind", RETURNED)
def test_what_a_loss_returned_is_named(kind, name, key):
    function, message = RETURNED[kind]
    wrong = {
        "loss": lambda w, outer, batch: function(w),
        "objective": lambda w, outer: function(w),
    }
    with pytest.raises(ValueError, match=f"^{name} returned " + message.format(name)):
        ms.unroll(problem(**{name: wrong[name]}), 1.0, key)
    task = ms.MAMLProblem(wrong["loss"], 0.0, 0.0, horizon=1, rate=0.1)
    with pytest.raises(ValueError, match=r"^loss returned "):
        ms.hypergradient(task, 1.0, ms.Reverse(), key=key)


def test_an_outer_optimizer_is_told_the_objective(key):
    """Polyak's step on (a outer)^2 halves outer, and its objective falls by four."""
    run = ms.minimize(
        problem(), 1.0, ms.Reverse(), optimizer=optax.polyak_sgd(10.0), steps=5, key=key
    )
    assert np.allclose(run.history.value[1:] / run.history.value[:-1], 1 / 4, rtol=1e-5, atol=0)


SEARCHES = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(3)),
}


@pytest.mark.parametrize("optimizer", SEARCHES.values(), ids=SEARCHES)
def test_a_line_search_is_refused_in_words(optimizer, key):
    with pytest.raises(ValueError, match=r"^optimizer evaluates the objective .*linesearch=None"):
        ms.minimize(problem(), 1.0, ms.Reverse(), optimizer=optimizer, steps=2, key=key)
    unsearched = optax.lbfgs(learning_rate=0.5, linesearch=None)
    run = ms.minimize(problem(), 1.0, ms.Reverse(), optimizer=unsearched, steps=9, key=key)
    assert run.history.value[-1] < 0.1 * run.history.value[0]
