"""Models of other frameworks as JAX functions. Flax models need no conversion."""

from metastep.interop.pytorch import from_torch as from_torch
