"""Compilation without incorrect processor kernels.

In jaxlib 0.10.2 XLA may replace chains of element-wise operations and sums by library kernels. On
processors with AVX-512 some of these are incorrect: second derivatives of a float32 log-sum-exp
have a relative error above 1, without a NaN or a warning. Everything that metastep compiles
excludes these kernels, and keeps the library's matrix products.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_PRODUCTS_ONLY = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

FLAG = "XLA_FLAGS=" + "".join(f"--{name}={value}" for name, value in _PRODUCTS_ONLY.items())
"""The environment setting that protects functions compiled elsewhere."""


@cache
def compiler_options() -> dict[str, str]:
    """Return the value of `jax.jit(..., compiler_options=...)` for correct kernels.

    JAX accepts options on the outermost `jit` only. Other processors and accelerators are not
    affected.

    Example:
        >>> import jax, jax.numpy as jnp, metastep as ms
        >>> double = jax.jit(lambda x: 2 * x, compiler_options=ms.compiler_options())
        >>> float(double(jnp.array(3.0)))
        6.0

    Returns:
        Names and values of XLA options; empty if this version of XLA does not support them.
    """
    try:
        # XLA names its options nowhere; an unknown one is an error of the compilation, even of a
        # constant.
        jax.jit(lambda: jnp.zeros(()), compiler_options=_PRODUCTS_ONLY).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(_PRODUCTS_ONLY)


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a function of pytrees as `equinox.filter_jit` does, with correct kernels.

    JAX accepts no options inside a function that its caller compiles, or that is differentiated
    without compilation. The outermost compilation then determines the kernels.
    """
    nested = eqx.filter_jit(function)

    # This waits for the first call: asking XLA for its options starts the backend, which an import
    # must not do.
    @cache
    def outermost() -> Callable[Arguments, Result]:
        options: dict[str, Any] = {"compiler_options": compiler_options()}
        return eqx.filter_jit(function, **options)

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # Inside of a `jit` every new array is a tracer, and JAX accepts no options there.
        if isinstance(jnp.zeros(()), Tracer):
            return nested(*args, **kwargs)
        try:
            return outermost()(*args, **kwargs)
        except ValueError as error:
            # Where a function is differentiated without compilation, the arguments are tracers, and
            # a new array is not.
            if "compiler_options" not in str(error):
                raise
            return nested(*args, **kwargs)

    return call


def error_of_default_kernels() -> float:
    """Measure the error of a plain `jax.jit` on this machine.

    Returns:
        The relative error of a second derivative of a float32 log-sum-exp, forward over forward
        with JAX's default kernels, against its closed form in float64: about 1e-7 if the kernels
        are correct, above 0.01 if not.
    """
    examples, classes = np.random.default_rng(0).standard_normal((60, 23)), 10
    loss = lambda weights: jnp.sum(
        jnp.log(jnp.sum(jnp.exp(examples.astype(np.float32) @ weights.T), axis=1))
    )
    weights = np.zeros((classes, 23), np.float32)
    suspect = np.asarray(jax.jit(jax.jacfwd(jax.jacfwd(loss)))(weights), np.float64)
    # At zero all probabilities p are equal, and the Hessian is (diag(p) - p p^T) x (X^T X).
    softmax = (np.eye(classes) - 1 / classes) / classes
    exact = np.einsum("ab,ij->aibj", softmax, examples.T @ examples)
    return float(np.linalg.norm(suspect - exact) / np.linalg.norm(exact))
