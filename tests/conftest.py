"""Strict numerics everywhere, and one key per test."""

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

with install_import_hook("metastep", "beartype.beartype"):
    import metastep  # noqa: F401


@pytest.fixture
def key():
    return jax.random.key(20)


@pytest.fixture
def x64():
    """Float64 for one test; the library itself never changes the precision."""
    with jax.enable_x64(True):
        yield
