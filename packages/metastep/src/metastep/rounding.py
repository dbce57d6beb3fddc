"""Other rounding errors: move every number of an inner state by as much as rounding would.

How much a hypergradient differs then is what rounding costs it. Numbers move relative to themselves
and to their update, so that small and large coordinates count alike. What is not seen are errors
that all steps share, such as those of a constant.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep.types import Inner

EXACT_INTEGERS = 2.0**20
"""Integers below are stored exactly and stay as they are: counters, zeros, ones."""

OPERATIONS = 4
"""Operations that a number of the state goes through in a step, each of which rounds: a guess."""


def _bits(leaves: Sequence[Array], seed: Array, t: Array) -> list[Array]:
    """Return random integers for every number, by a hash (that of MurmurHash3).

    A generator of JAX would dominate the time to compile.
    """
    mixed = seed.astype(jnp.uint32) * np.uint32(0x9E3779B9) + t.astype(jnp.uint32)

    def of(place: int, leaf: Array) -> Array:
        x = jnp.arange(place, place + leaf.size, dtype=jnp.uint32) * np.uint32(0x85EBCA77)
        x = x ^ (mixed * np.uint32(0xC2B2AE3D))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ (x >> shift)) * np.uint32(factor)
        return (x ^ (x >> 16)).reshape(leaf.shape)

    places = np.cumsum([0, *(leaf.size for leaf in leaves)])[:-1]
    return [of(int(place), leaf) for place, leaf in zip(places, leaves, strict=True)]


def _units(leaf: Array, bits: Array) -> tuple[Array, Array]:
    """Return by which parts of itself and of its update each number moves."""
    eps = jnp.finfo(leaf.dtype).eps
    sign = jnp.where(bits % 2 == 0, eps, -eps).astype(leaf.dtype)
    stored = (bits >> 1) % 12 < OPERATIONS
    return jnp.where(stored, sign / 2, 0), sign * OPERATIONS


@jax.custom_vjp
def rounded(variables: Inner, before: Inner, seed: Array, t: Array) -> Inner:
    """Move a state as other rounding errors would; not at all if `seed` is 0.

    One unit in the last place up or down in `OPERATIONS` of twelve cases, whose variance is that of
    so many roundings to the nearest; and as many units in the last place of the update.
    """
    leaves, treedef = jax.tree.flatten(variables)

    def move(leaf: Array, previous: Array, bits: Array) -> Array:
        stored, updated = _units(leaf, bits)
        exact = (leaf == jnp.round(leaf)) & (jnp.abs(leaf) < EXACT_INTEGERS)
        return leaf + jnp.where(exact, 0, stored * leaf + updated * (leaf - previous))

    def moved() -> list[Array]:
        return list(map(move, leaves, jax.tree.leaves(before), _bits(leaves, seed, t)))

    return jax.tree.unflatten(treedef, jax.lax.cond(seed == 0, lambda: leaves, moved))


def _rounded_back(at: tuple[Array, Array], grad: Inner) -> tuple[Inner, Inner, None, None]:
    """Return the derivatives of `rounded`, whose factors are drawn again and not stored."""
    leaves, treedef = jax.tree.flatten(grad)

    def moved() -> tuple[list[Array], list[Array]]:
        units = [_units(x, bits) for x, bits in zip(leaves, _bits(leaves, *at), strict=True)]
        pairs = list(zip(leaves, units, strict=True))
        here = [x + x * (stored + updated) for x, (stored, updated) in pairs]
        return here, [-x * updated for x, (_, updated) in pairs]

    still = lambda: (leaves, [jnp.zeros_like(x) for x in leaves])
    here, before = jax.lax.cond(at[0] == 0, still, moved)
    return jax.tree.unflatten(treedef, here), jax.tree.unflatten(treedef, before), None, None


rounded.defvjp(lambda variables, before, *at: (rounded(variables, before, *at), at), _rounded_back)
