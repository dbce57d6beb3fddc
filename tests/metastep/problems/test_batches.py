"""Batches from outside: every kind of source gives the same ones, to every estimator."""

from concurrent.futures import ThreadPoolExecutor

import datasets
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import metastep as ms
from tests.helpers import relative_distance

X = np.random.default_rng(0).normal(size=(10, 3))
Y = np.arange(10)
ROWS = [8, 9, 0, 1]  # of batch 2, four examples each


class Batched:
    """A data set that makes its batches itself."""

    def __getitem__(self, t):
        rows = [(4 * t + i) % 10 for i in range(4)]
        return {"x": X[rows], "y": Y[rows]}


def grain_rows(transform):
    """Return batches of four of a data set of Grain, shuffled or not."""
    rows = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    return ms.Batches(transform(grain.MapDataset.source(rows)).repeat().batch(4))


def hugging_face_rows(form):
    """Return batches of four of a data set of Hugging Face, as lists or as arrays."""
    return ms.Batches(datasets.Dataset.from_dict({"x": X, "y": Y}).with_format(form), size=4)


# Its labels are the positions backwards.
FRAME = pd.DataFrame(X, columns=["a", "b", "c"], index=Y[::-1]).assign(y=Y)

SOURCES = {
    "arrays": lambda: ms.Batches({"x": X, "y": Y}, size=np.int64(4)),
    "arrays of JAX": lambda: ms.Batches({"x": jnp.asarray(X), "y": jnp.asarray(Y)}, size=4),
    "pandas": lambda: ms.Batches({"x": FRAME[["a", "b", "c"]], "y": FRAME["y"]}, size=4),
    "grain": lambda: grain_rows(lambda rows: rows),
    "hugging face": lambda: hugging_face_rows(None),
    "hugging face, arrays": lambda: hugging_face_rows("numpy"),
    "batched": lambda: ms.Batches(Batched()),
    "list": lambda: ms.Batches([Batched()[t] for t in range(3)]),
    "function": lambda: ms.Batches(Batched().__getitem__),
    "stacked": lambda: ms.Batches({k: np.stack([Batched()[t][k] for t in range(3)]) for k in "xy"}),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_batch_t(make):
    batch = make().at(2)
    assert batch.keys() == {"x", "y"}
    assert np.allclose(batch["x"], X[ROWS]) and np.array_equal(batch["y"], Y[ROWS])


def test_pandas_is_read_by_position():
    assert [ms.Batches(FRAME["y"]).at(t) for t in range(10)] == Y.tolist()
    assert np.array_equal(ms.Batches(FRAME[["a", "b", "c"]], size=4).at(2), X[ROWS])


@pytest.mark.parametrize("arrays", [X, jnp.asarray(X)], ids=["NumPy", "JAX"])
def test_arrays_have_no_batch_beyond_their_end(arrays):
    """JAX itself returns the last entry there."""
    with pytest.raises(ValueError, match=r"batch 10 is missing.*the arrays have 10 entries"):
        ms.Batches({"x": arrays}).at(10)


def test_examples_without_rows_by_list():
    with pytest.raises(ValueError, match=r"does not take a list of rows .*repeat\(\)\.batch\(4\)"):
        ms.Batches([{"x": x} for x in X], size=4).at(0)


def test_a_shuffled_data_set_of_grain_gives_a_batch_again():
    batches = grain_rows(lambda rows: rows.shuffle(seed=0))
    assert np.array_equal(batches.at(5)["x"], batches.at(5)["x"])
    assert not np.array_equal(batches.at(0)["y"], Y[:4])


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128", "complex64", "bfloat16", "?"])
def test_a_batch_of_64_bits_that_xla_asks_for_in_a_thread_of_its_own(dtype, x64):
    """`jax.enable_x64()` holds for the thread of the caller only."""
    source = (3 * X + 1j * X[::-1] if "complex" in dtype else 3 * X).astype(dtype)
    batches = ms.Batches((source, source[:, 0]))
    at = lambda t: batches(t, jax.random.key(0))
    program = jax.jit(at).lower(jnp.int32(0)).compile()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(program, np.int32(4)).result()
    for array, expected in zip(found, (source[4], source[4, 0]), strict=True):
        assert array.dtype == dtype and np.array_equal(array, expected)


def problem(batch):
    return ms.TrainingProblem(
        loss=lambda w, outer, batch: jnp.mean(jnp.tanh(batch["x"] @ w - outer * batch["y"]) ** 2),
        objective=lambda w, outer: jnp.sum(jnp.sin(w)),
        init_params=jnp.ones(3),
        optimizer=optax.sgd(0.1),
        horizon=3,
        batch=batch,
    )


ESTIMATORS = [ms.Reverse("sqrt", mixed=True), ms.Forward(), ms.TruncatedReverse(2)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_other_estimators_ask_from_within_their_program(estimator, x64, key):
    outer = jnp.array(0.3)
    rows = lambda t, key: (4 * t + jnp.arange(4)) % 10
    inside = lambda t, key: {"x": jnp.asarray(X)[rows(t, key)], "y": jnp.asarray(Y)[rows(t, key)]}
    expected = ms.hypergradient(problem(inside), outer, estimator, key=key)
    found = ms.hypergradient(problem(SOURCES["hugging face"]()), outer, estimator, key=key)
    assert relative_distance(found.grad, expected.grad) < 1e-12


def test_data_are_no_part_of_the_program(key):
    """The program with a million numbers to draw batches from is that with ten."""

    def length(data):
        call = lambda outer: ms.Reverse().estimate(problem(data), outer, None, key)[0].grad
        return len(jax.jit(call).lower(jnp.array(0.3)).as_text())

    small, large = ({"x": np.zeros((n, 3)), "y": np.zeros(n)} for n in (10, 300_000))
    assert abs(length(ms.Batches(large, size=4)) - length(ms.Batches(small, size=4))) < 100


REFUSED = {
    "iterator": (iter([X]), None, "can only be iterated over"),
    "lengths": ((X, Y[:3]), None, "arrays of one length"),
    "numbers": ({}, None, "arrays of one length"),
    "size": (X, 0, "size is 0"),
    "function": (lambda t: X, 4, "a function returns whole batches"),
}


@pytest.mark.parametrize(("source", "size", "message"), REFUSED.values(), ids=REFUSED)
def test_sources_that_cannot_be_used(source, size, message):
    with pytest.raises(ValueError, match=message):
        ms.Batches(source, size)


def test_two_sources_are_too_many(key):
    two = ms.TrainingProblem(
        lambda params, outer, batch: jnp.sum(outer * params[0] ** 2),
        lambda params, outer: jnp.sum(params[0]),
        [jnp.ones(3), ms.Batches(X, 4)],
        optax.sgd(0.1),
        3,
        ms.Batches(X, 4),
    )
    with pytest.raises(ValueError, match="has 2 Batches; allowed is one"):
        ms.driven_hypergradient(two, 0.1, ms.Reverse(), key=key)
