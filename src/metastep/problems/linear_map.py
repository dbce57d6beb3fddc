"""Linear maps that say themselves how they are transposed.

JAX transposes a Jacobian-vector product by storing what the product was made of. Where the
transpose is known, as for a symmetric Hessian, it can be computed from the arguments alone, and
only a primitive can tell JAX so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, unmapped_aval
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from metastep.types import Scalar

Product = Callable[[list[Array], list[Array]], list[Array]]


def linear_map(
    forward: Callable[[PyTree, PyTree], PyTree],
    backward: Callable[[PyTree, PyTree], PyTree],
    at: PyTree,
    vector: PyTree,
    like: PyTree,
) -> PyTree:
    """Return `forward(at, vector)`, to be transposed by `backward`.

    Reverse mode stores `at` and nothing else. Derivatives in both modes and of every order are
    right, those with respect to `at` those of JAX for `forward` and `backward`; so is `vmap`.

    Args:
        forward: `(at, vector) -> result`, linear in `vector`. What it closes over is a constant.
        backward: `(at, cotangent) -> vector`, the transpose of `forward` for the same `at`.
        at: where the map is taken, a pytree of arrays.
        vector: what is multiplied, a pytree of floating-point arrays.
        like: has the structure, shapes and dtypes of the result.

    Returns:
        The product.
    """
    constants, constants_tree = jax.tree.flatten(at)
    vectors, domain_tree = jax.tree.flatten(vector)
    codomain, codomain_tree = jax.tree.flatten(like)
    unflatten = lambda tree, leaves: jax.tree.unflatten(tree, leaves)

    def flat(product: Callable, tree: Any) -> Product:
        return lambda constants, vectors: jax.tree.leaves(
            product(unflatten(constants_tree, constants), unflatten(tree, vectors))
        )

    types = lambda leaves: tuple(jax.typeof(x).strip_weak_type() for x in leaves)
    pair = _Pair(flat(forward, domain_tree), flat(backward, codomain_tree), types(vectors), types(codomain))
    found = _linear_map.bind(*constants, *vectors, pair=pair)
    return unflatten(codomain_tree, found)


@dataclass(frozen=True, eq=False)
class _Pair:
    """A linear map and its transpose, from `domain` to `codomain`, both tuples of array types."""

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
    """Differentiate as a product: the vectors by the map itself, the constants as JAX does."""
    found = _linear_map.bind(*primals, pair=pair)
    constants, vectors = pair.split(primals)
    moved, turned = pair.split(tangents)
    changes = []
    if not all(isinstance(x, ad.Zero) for x in turned):
        turned = [ad.instantiate_zeros(x) for x in turned]
        changes.append(_linear_map.bind(*constants, *turned, pair=pair))
    moving = [not isinstance(x, ad.Zero) for x in moved]
    if any(moving):
        active = [x for x, moves in zip(constants, moving, strict=True) if moves]
        directions = [x for x, moves in zip(moved, moving, strict=True) if moves]

        def of_constants(active: list[Array]) -> list[Array]:
            rest = iter(active)
            pairs = zip(constants, moving, strict=True)
            return pair.forward([next(rest) if moves else x for x, moves in pairs], vectors)

        changes.append(jax.jvp(of_constants, (active,), (directions,))[1])
    return found, [ad.add_tangents(*x) if len(x) > 1 else x[0] for x in zip(*changes, strict=True)]


def _transpose(cotangents: Sequence[Any], *arguments: Any, pair: _Pair) -> list[Any]:
    constants, vectors = pair.split(arguments)
    cotangents = [ad.instantiate_zeros(x) for x in cotangents]
    found = _linear_map.bind(*constants, *cotangents, pair=pair.transposed)
    kept = [x if ad.is_undefined_primal(v) else None for x, v in zip(found, vectors, strict=True)]
    return [None] * len(constants) + kept


def _batch(axis: Any, arguments: Sequence[Any], axes: Sequence[int | None], pair: _Pair) -> tuple:
    if all(x is None for x in axes):
        found = _linear_map.bind(*arguments, pair=pair)
        return found, [None] * len(found)
    constants, vectors = pair.split(arguments)
    constant_axes, vector_axes = pair.split(axes)
    first = lambda x, axis_of: (
        jnp.broadcast_to(x, (axis.size, *x.shape)) if axis_of is None else jnp.moveaxis(x, axis_of, 0)
    )
    vectors = [first(x, axis_of) for x, axis_of in zip(vectors, vector_axes, strict=True)]
    options = {"axis_size": axis.size, "axis_name": axis.name, "spmd_axis_name": axis.spmd_name}
    many = lambda product: jax.vmap(product, in_axes=(constant_axes, 0), **options)
    larger = lambda types: tuple(unmapped_aval(axis.size, 0, x) for x in types)
    batched = _Pair(many(pair.forward), many(pair.backward), larger(pair.domain), larger(pair.codomain))
    found = _linear_map.bind(*constants, *vectors, pair=batched)
    return found, [0] * len(found)


_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True
_linear_map.def_impl(_run)
_linear_map.def_abstract_eval(lambda *_, pair: pair.codomain)
mlir.register_lowering(_linear_map, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[_linear_map] = _differentiate
ad.primitive_transposes[_linear_map] = _transpose
batching.fancy_primitive_batchers[_linear_map] = _batch
