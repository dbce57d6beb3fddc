"""Aliases used in signatures. `Outer` and `Inner` are any pytrees of arrays."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

Outer = PyTree[Any]
"""Hyperparameters (lambda, eta, theta, omega in the papers): a pytree of floating-point arrays."""

Inner = PyTree[Any]
"""The state of the inner algorithm: the parameters w and whatever else it carries."""

RandomKey = Key[Array, ""] | UInt32[Array, "2"]
"""A JAX random key: `jax.random.key(0)`, or an old-style `jax.random.PRNGKey(0)`."""

RandomKeys = Key[Array, "_"] | UInt32[Array, "_ 2"]
"""One random key for each of several tasks."""

Scalar = Float[Array, ""]
StepIndex = Int[Array, ""] | int

Number = float | np.floating | Array
"""A real number that may be tuned: a Python or NumPy number, or a scalar array."""
