"""Linear maps that carry their own transpose.

JAX transposes a Jacobian-vector product by reversing its operations, and stores their residuals.
If a formula for the transpose is known, as for the symmetric second derivatives of a function, the
point alone suffices. Only a primitive can declare this: `jax.custom_vjp` forbids forward mode, and
`jax.custom_jvp` cannot state a transpose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, unmapped_aval
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

Product = Callable[[list[Array], list[Array]], list[Array]]


def linear_map(
    forward: Callable[[Any, Any], PyTree],
    backward: Callable[[Any, Any], PyTree],
    at: PyTree,
    vector: PyTree,
    like: PyTree,
) -> PyTree:
    """Return `forward(at, vector)`; its transpose is `backward(at, cotangent)`.

    Reverse mode stores `at` only. Works under `vmap`, both modes of differentiation and
    derivatives of every order. Derivatives with respect to `at` are JAX's derivatives of
    `forward` and `backward`.

    Args:
        forward: `(at, vector) -> result`, linear in `vector`. Must not close over traced values.
        backward: `(at, cotangent) -> vector`, the transpose of `forward` for the same `at`.
        at: the point of the map, a pytree of arrays of any type.
        vector: the vector to multiply, a pytree of floating-point arrays.
        like: a pytree with the structure, shapes and dtypes of the result.

    Returns:
        The product, like `like`.
    """
    constants, constants_tree = jax.tree.flatten(at)
    vectors, domain_tree = jax.tree.flatten(vector)
    results, codomain_tree = jax.tree.flatten(like)

    def flat(product: Callable[[Any, Any], PyTree], tree: Any) -> Product:
        return lambda constants, vectors: jax.tree.leaves(
            product(
                jax.tree.unflatten(constants_tree, constants), jax.tree.unflatten(tree, vectors)
            )
        )

    # Weak types do not survive a transposition, and a map and its transpose must fit together.
    types = lambda leaves: tuple(jax.typeof(x).strip_weak_type() for x in leaves)
    pair = _Pair(
        flat(forward, domain_tree), flat(backward, codomain_tree), types(vectors), types(results)
    )
    return jax.tree.unflatten(codomain_tree, _product.bind(*constants, *vectors, pair=pair))


# Compared by identity, as its functions are: JAX hashes the parameters of primitives.
@dataclass(frozen=True, eq=False)
class _Pair:
    """A linear map from `domain` to `codomain`, both tuples of array types, and its transpose."""

    forward: Product
    backward: Product
    domain: tuple[Any, ...]
    codomain: tuple[Any, ...]

    @property
    def transposed(self) -> "_Pair":
        return _Pair(self.backward, self.forward, self.codomain, self.domain)

    def split(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return the constants and the vectors of a list of arguments."""
        count = len(arguments) - len(self.domain)
        return list(arguments[:count]), list(arguments[count:])


def _run(*arguments: Array, pair: _Pair) -> list[Array]:
    return pair.forward(*pair.split(arguments))


def _differentiate(primals: Sequence[Array], tangents: Sequence[Any], pair: _Pair) -> tuple:
    """Apply the product rule: the map itself to vector tangents, JAX's rules to constants."""
    constants, vectors = pair.split(primals)
    constant_changes, vector_changes = pair.split(tangents)
    changes = []
    # The map is linear in its vectors, so it is its own derivative.
    if not all(isinstance(x, ad.Zero) for x in vector_changes):
        vector_changes = [ad.instantiate_zeros(x) for x in vector_changes]
        changes.append(_product.bind(*constants, *vector_changes, pair=pair))
    moving = [i for i, x in enumerate(constant_changes) if not isinstance(x, ad.Zero)]
    if moving:

        def of_moving(values: list[Any]) -> list[Array]:
            replaced = dict(zip(moving, values, strict=True))
            at = [replaced[i] if i in replaced else x for i, x in enumerate(constants)]
            return pair.forward(at, vectors)

        values, directions = ([tree[i] for i in moving] for tree in (constants, constant_changes))
        changes.append(jax.jvp(of_moving, (values,), (directions,))[1])
    # `changes` is not empty: JAX asks for derivatives only if an input moves.
    total = changes[0]
    if len(changes) == 2:
        total = [ad.add_tangents(a, b) for a, b in zip(*changes, strict=True)]
    return _product.bind(*primals, pair=pair), total


def _transpose(cotangents: Sequence[Any], *arguments: Any, pair: _Pair) -> list[Any]:
    constants, vectors = pair.split(arguments)
    cotangents = [ad.instantiate_zeros(x) for x in cotangents]
    found = _product.bind(*constants, *cotangents, pair=pair.transposed)
    # JAX expects a cotangent for exactly those inputs that it left undefined.
    asked = [ad.is_undefined_primal(x) for x in vectors]
    return [None] * len(constants) + [
        x if ask else None for x, ask in zip(found, asked, strict=True)
    ]


def _batch(axis: Any, arguments: Sequence[Any], axes: Sequence[int | None], pair: _Pair) -> tuple:
    if all(position is None for position in axes):
        found = _product.bind(*arguments, pair=pair)
        return found, [None] * len(found)

    def first(x: Array, position: int | None) -> Array:
        if position is None:
            return jnp.broadcast_to(x, (axis.size, *x.shape))
        return jnp.moveaxis(x, position, 0)

    def many(product: Product) -> Product:
        options = dict(axis_size=axis.size, axis_name=axis.name, spmd_axis_name=axis.spmd_name)
        return jax.vmap(product, in_axes=(constant_axes, 0), **options)

    constants, vectors = pair.split(arguments)
    constant_axes, vector_axes = pair.split(axes)
    vectors = [first(x, position) for x, position in zip(vectors, vector_axes, strict=True)]
    # Vectors get the axis even if only the point is batched: the transpose must return it.
    larger = lambda types: tuple(unmapped_aval(axis.size, 0, x) for x in types)
    batched = _Pair(
        many(pair.forward), many(pair.backward), larger(pair.domain), larger(pair.codomain)
    )
    found = _product.bind(*constants, *vectors, pair=batched)
    return found, [0] * len(found)


_product = Primitive("linear_map")
_product.multiple_results = True
_product.def_impl(_run)
_product.def_abstract_eval(lambda *_, pair: pair.codomain)
mlir.register_lowering(_product, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[_product] = _differentiate
ad.primitive_transposes[_product] = _transpose
# The "fancy" rules are given the size and the name of the axis.
batching.fancy_primitive_batchers[_product] = _batch
