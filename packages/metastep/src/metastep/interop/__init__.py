"""Models of other frameworks as functions of JAX. Those of flax are such functions already."""

from metastep.interop.pytorch import from_torch as from_torch
