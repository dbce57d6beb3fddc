"""Checkpoints: every array comes back with its dtype, its shape and its bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.saving import CheckpointError, load, save

REALS = ["float16", "bfloat16", "float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = [*REALS, *INTEGERS, "bool", "complex64", "complex128"]
# What rounding to fewer digits, a sign, or a detour through another type would change.
EDGES = [1 / 3, -0.0, np.pi * 1e4, -1e-7, np.inf, np.nan]


def numbers(dtype):
    if jnp.issubdtype(dtype, jnp.bool_):
        return jnp.array([True, False, True, True, False, False])
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return jnp.array([limits.min, limits.max, 0, 1, limits.max - 1, limits.min + 1], dtype)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.lax.complex(
            *(jnp.array(x, jnp.finfo(dtype).dtype) for x in (EDGES, EDGES[::-1]))
        )
    return jnp.array(EDGES, dtype)


def bits(array):
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_comes_back_to_the_bit(dtype, tmp_path, x64):
    vector = numbers(dtype)
    tree = {"vector": vector, "matrix": vector.reshape(2, 3), "scalar": vector[0], "": vector[:0]}
    save(tmp_path / "one", tree, {})
    like = jax.tree.map(jnp.zeros_like, tree)
    found, _ = load(tmp_path / "one", like)
    for name, leaf in tree.items():
        assert (found[name].dtype, found[name].shape) == (jnp.dtype(dtype), leaf.shape)
        assert bits(found[name]) == bits(leaf)


KEYS = {
    "key": lambda: jax.random.key(7),
    "several": lambda: jax.random.split(jax.random.key(7), (2, 3)),
    "old": lambda: jax.random.PRNGKey(7),
    "rbg": lambda: jax.random.key(7, impl="rbg"),
}


@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
def test_keys_draw_the_same_numbers_again(make, tmp_path):
    key = make()
    save(tmp_path / "one", key, {})
    found, _ = load(tmp_path / "one", jax.tree.map(lambda x: x, jnp.roll(key, 0)))
    assert (found.dtype, found.shape, bits(found)) == (key.dtype, key.shape, bits(key))


@pytest.mark.parametrize("other", REALS[:3])
def test_another_dtype_is_another_run(other, tmp_path):
    dtypes = [name for name in REALS[:3] if name != other]
    for dtype in dtypes:
        save(tmp_path / "one", jnp.zeros(3, dtype), {})
        with pytest.raises(CheckpointError, match="other names, shapes or dtypes"):
            load(tmp_path / "one", jnp.zeros(3, other))


def test_the_first_array_that_differs_is_named(tmp_path):
    save(tmp_path / "one", {"same": jnp.zeros(2), "steps": jnp.zeros(3, "float32")}, {})
    words = r"\(\['steps'\] float32\[3\], and not \['steps'\] float32\[5\]\)"
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "one", {"same": jnp.zeros(2), "steps": jnp.zeros(5, "float32")})


def test_notes_come_back(tmp_path):
    notes = {"float": 1 / 3, "small": 5e-324, "large": 2**60, "text": "ä\n", "list": [1, [None]]}
    save(tmp_path / "one", jnp.zeros(1), notes)
    assert load(tmp_path / "one", jnp.ones(1))[1] == notes
