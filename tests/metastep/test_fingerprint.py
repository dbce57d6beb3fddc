"""What changes the digest of a computation, and what does not."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.fingerprint import digest, fingerprint

MATRIX = jnp.arange(9.0).reshape(3, 3)
OTHER = MATRIX + 1
PAIRS = {
    "axes": [
        lambda w, outer: jnp.sum(jnp.sum(w, axis=0) ** 2),
        lambda w, outer: jnp.sum(jnp.sum(w, axis=1) ** 2),
    ],
    "order": [
        lambda w, outer: jnp.sum((w - MATRIX) * jnp.sin(w)),
        lambda w, outer: jnp.sum((MATRIX - w) * jnp.sin(w)),
    ],
    "wiring": [
        lambda w, outer: jnp.sum(jnp.sin(w) * jnp.cos(MATRIX)),
        lambda w, outer: jnp.sum(jnp.sin(MATRIX) * jnp.cos(w)),
    ],
    "derivative": [
        lambda w, outer: outer * jnp.sum(w**2),
        lambda w, outer: jax.lax.stop_gradient(outer) * jnp.sum(w**2),
    ],
    "captured data": [
        lambda w, outer: jnp.sum((w - MATRIX) ** 2),
        lambda w, outer: jnp.sum((w - OTHER) ** 2),
    ],
    "data of a compiled function": [
        jax.jit(lambda w, outer: jnp.sum((w - MATRIX) ** 2)),
        jax.jit(lambda w, outer: jnp.sum((w - OTHER) ** 2)),
    ],
    "a number": [lambda w, outer: jnp.sum(w) / 3, lambda w, outer: jnp.sum(w) / 4],
}


def identified(loss):
    """Return the digest of a value and its derivatives."""
    return fingerprint(jax.value_and_grad(loss, (0, 1)), jnp.ones((3, 3)), jnp.array(0.1))


@pytest.mark.parametrize(("first", "second"), PAIRS.values(), ids=PAIRS)
def test_the_same_operations_in_another_way_or_on_other_data_are_another_run(first, second):
    renamed = lambda weights, *rest: first(weights, *rest)
    assert identified(first) == identified(renamed) != identified(second)


ARGUMENTS = {
    "value": (jnp.array(2.0),),
    "dtype": (jnp.array(1.0, jnp.bfloat16),),
    "shape": (jnp.ones(1),),
    "key": (jnp.array(1.0), jax.random.key(1)),
    "static": (1.5,),
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_other_arguments_are_another_run(arguments):
    found = lambda *given: fingerprint(lambda x, *rest: 2 * x, *given)
    assert found(jnp.array(1.0)) == found(jnp.array(1.0)) != found(*arguments)


@pytest.mark.parametrize(("one", "other"), [(np.zeros(2), np.ones(2)), (1.5, 2.5), (1, 2)])
def test_numbers_count_that_the_function_does_not_use(one, other):
    found = lambda unused: fingerprint(lambda x, unused: 2 * x, jnp.array(1.0), unused)
    assert found(one) == found(one) != found(other)


def test_of_a_shape_the_values_do_not_matter_and_of_more_the_text_does():
    twice = lambda x: 2 * x
    shape = lambda size: jax.ShapeDtypeStruct((size,), jnp.float32)
    assert fingerprint(twice, shape(2)) == fingerprint(twice, shape(2))
    assert fingerprint(twice, shape(2)) != fingerprint(twice, shape(3))
    assert fingerprint(twice, shape(2), more=1) != fingerprint(twice, shape(2), more=2)


def test_a_digest_sees_every_bit_shape_and_dtype():
    negative = jnp.array([0.0, -0.0])
    trees = [jnp.zeros(2), negative, jnp.zeros((1, 2)), jnp.zeros(2, int), [jnp.zeros(1)] * 2]
    assert len({digest(tree).tobytes() for tree in trees}) == len(trees)
    assert np.array_equal(digest(jax.random.key(3)), digest(jax.random.key(3)))


ELSEWHERE = """
import jax, jax.numpy as jnp, optax, metastep as ms
from metastep.fingerprint import fingerprint
jax.make_jaxpr(lambda x: jnp.cos(x) + 1)(1.0)  # names that were taken before
problem = ms.TrainingProblem(
    jax.checkpoint(lambda w, outer, batch: jnp.sum(jnp.linalg.solve(w, w - outer) ** 2)),
    lambda w, outer: jnp.sum(w**2), jnp.eye(3), lambda outer: optax.adamw(outer), 4,
)
estimate = lambda outer, key: ms.hypergradient(problem, outer, ms.Reverse(ms.Binomial(2)), key=key)
print(fingerprint(estimate, jnp.array(0.1), jax.random.key(0)))
"""


def test_another_process_finds_the_same(capsys):
    """Programs hold functions, whose addresses differ: solving, recomputing, custom derivatives."""
    here = {}
    exec(ELSEWHERE, here)
    command = [sys.executable, "-c", ELSEWHERE]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert capsys.readouterr().out == there
