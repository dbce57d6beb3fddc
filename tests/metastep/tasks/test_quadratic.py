"""The paper's recipe and bad input."""

import jax.numpy as jnp
import numpy as np
import pytest

from metastep.tasks import Quadratic, random_quadratic

BAD = [
    (np.ones((2, 3)), np.ones(2), "hessian has shape"),
    (np.array([[1.0, 0.5], [0.0, 2.0]]), np.ones(2), "symmetric"),
    (np.diag([1.0, np.nan]), np.ones(2), "symmetric"),
    (np.diag([1.0, -1.0]), np.ones(2), "positive definite"),
    (np.diag([1.0, 2.0]), np.zeros(2), "start has shape"),
    (np.diag([1.0, 2.0]), np.ones(3), "start has shape"),
]


@pytest.mark.parametrize(("hessian", "start", "message"), BAD)
def test_bad_input(hessian, start, message):
    with pytest.raises(ValueError, match=message):
        Quadratic(hessian, start)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_checked_too(dtype):
    """LAPACK refused its type before its values were looked at."""
    good = Quadratic(jnp.diag(jnp.array([1, 2], dtype)), jnp.ones(2, dtype))
    assert good.hessian.dtype == dtype and good.loss(good.start) == 1.5
    with pytest.raises(ValueError, match="positive definite"):
        Quadratic(jnp.diag(jnp.array([1, -2], dtype)), jnp.ones(2, dtype))


@pytest.mark.parametrize(("dim", "rows"), [(0, None), (3, 2)])
def test_bad_sizes(dim, rows):
    with pytest.raises(ValueError, match="rows is"):
        random_quadratic(0, dim, rows)


def test_problem_0_has_the_eigenvalues_of_the_reference(x64):
    eigenvalues = np.linalg.eigvalsh(random_quadratic(0).hessian)
    assert round(eigenvalues[-1], 3) == 62.562 and round(eigenvalues[0], 5) == 0.00508
    eigenvalues = np.linalg.eigvalsh(random_quadratic(5, rows=40).hessian)
    assert round(eigenvalues[-1], 2) == 105.98 and round(eigenvalues[0], 4) == 4.2776


def test_loss_and_objective_are_one():
    task = Quadratic(np.diag([2.0, 1.0]), np.ones(2))
    assert (
        float(task.loss(jnp.array([1.0, 2.0]))) == 3 == float(task.objective(jnp.array([1.0, 2])))
    )
