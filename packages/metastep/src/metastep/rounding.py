"""Simulated rounding errors: a perturbation of every number of an inner state.

The resulting change of a hypergradient measures its rounding error. Numbers are perturbed relative
to themselves and to their update, so that small and large coordinates count alike. Errors common to
all steps, such as those of a constant, are not simulated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep.types import Inner

EXACT_INTEGERS = 2.0**20
"""Smaller integers are stored exactly and not perturbed: counters, zeros, ones."""

OPERATIONS = 4
"""Assumed number of operations in a step on a number of the state, each of which rounds."""


def _bits(leaves: Sequence[Array], seed: Array, t: Array) -> list[Array]:
    """Return random integers for every number by a hash (that of MurmurHash3).

    JAX's generators would dominate the compilation time.
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
    """Return each number's perturbation as fractions of itself and of its update."""
    eps = jnp.finfo(leaf.dtype).eps
    # The lowest bit gives the sign, the others whether the number moves: the two are independent.
    sign = jnp.where(bits % 2 == 0, eps, -eps).astype(leaf.dtype)
    stored = (bits >> 1) % 12 < OPERATIONS
    # Half of eps times a number is between half a unit and a unit of its last place: the addition
    # rounds it to the unit.
    return jnp.where(stored, sign / 2, 0), sign * OPERATIONS


# A rule of its own, since JAX would store the random factors of every step for the backward pass.
@jax.custom_vjp
def rounded(variables: Inner, before: Inner, seed: Array, t: Array) -> Inner:
    """Perturb a state by simulated rounding errors; a `seed` of 0 leaves it unchanged.

    A number moves one unit in the last place, up or down, with probability `OPERATIONS` / 12. This
    has the variance of `OPERATIONS` roundings to the nearest. It also moves by `OPERATIONS` units
    in the last place of its update.
    """
    leaves, treedef = jax.tree.flatten(variables)

    def move(leaf: Array, previous: Array, bits: Array) -> Array:
        stored, updated = _units(leaf, bits)
        # An eighth of the size from which on all numbers are integers, and do round: 1024 in
        # float16, 128 in bfloat16. In float32 it is 2^20, too.
        largest = min(EXACT_INTEGERS, 0.125 / float(jnp.finfo(leaf.dtype).eps))
        exact = (leaf == jnp.round(leaf)) & (jnp.abs(leaf) < largest)
        return leaf + jnp.where(exact, 0, stored * leaf + updated * (leaf - previous))

    def moved() -> list[Array]:
        return list(map(move, leaves, jax.tree.leaves(before), _bits(leaves, seed, t)))

    # `cond`, so that a run with a seed of 0 costs no random numbers.
    return jax.tree.unflatten(treedef, jax.lax.cond(seed == 0, lambda: leaves, moved))


def _rounded_back(at: tuple[Array, Array], grad: Inner) -> tuple[Inner, Inner, None, None]:
    """Return the derivatives of `rounded`; its factors are drawn again instead of stored."""
    leaves, treedef = jax.tree.flatten(grad)

    def moved() -> tuple[list[Array], list[Array]]:
        units = [_units(x, bits) for x, bits in zip(leaves, _bits(leaves, *at), strict=True)]
        pairs = list(zip(leaves, units, strict=True))
        # Exact numbers are perturbed here, too: which they are is not stored, and a factor of 1 +
        # eps is rounding.
        here = [x + x * (stored + updated) for x, (stored, updated) in pairs]
        return here, [-x * updated for x, (_, updated) in pairs]

    still = lambda: (leaves, [jnp.zeros_like(x) for x in leaves])
    here, before = jax.lax.cond(at[0] == 0, still, moved)
    return jax.tree.unflatten(treedef, here), jax.tree.unflatten(treedef, before), None, None


rounded.defvjp(lambda variables, before, *at: (rounded(variables, before, *at), at), _rounded_back)
