"""Section 3.3: K terms of back-propagation against K steps of conjugate gradients."""

import numpy as np
from numpy.typing import NDArray

from metastep_lab.theory import truncation as theory

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
# Below the dimension, after which conjugate gradients are exact and divide zero by zero.
STEPS = (1, 2, 4, 8, 16)
DIM, EXAMPLES = 20, 40


def compared(horizons: tuple[int, ...], seed: int) -> list[tuple]:
    """Compare both on a random quadratic, after a long training, to the minimum, and a short one.

    Returns:
        Rows of horizon, steps (K), truncated and conjugate (the errors of K-RMD and of K steps of
        conjugate gradients on Eq. 11 at w_T, relative to the exact gradient of the training), and
        condition (kappa).
    """
    rng = np.random.default_rng([seed, DIM])
    factor = rng.standard_normal((DIM, EXAMPLES))
    hessian = factor @ factor.T / EXAMPLES
    coupling, target = rng.standard_normal((DIM, DIM)), rng.standard_normal(DIM)
    eigenvalues = np.linalg.eigvalsh(hessian)
    # Below 1 / beta, as Proposition 3.6 asks for.
    step_size, outer = 0.9 / eigenvalues[-1], np.ones(DIM)
    rows = []
    for horizon in horizons:
        end = theory.final_state(hessian, coupling, np.zeros(DIM), outer, step_size, horizon)
        force = 2 * (end - target)
        back = lambda window, force=force: theory.truncated_gradient(
            hessian, coupling, force, step_size, window
        )
        # w_0 is constant, so that the window T is exact (B_0 = 0 in Eq. 5).
        exact = back(horizon)
        for steps in STEPS:
            # Eq. 11 with d_lambda d_w g = -J^T, at w_T in place of w*, which is not at hand
            # (section 3.3).
            solved = coupling.T @ conjugate_gradients(hessian, force, steps)
            errors = back(min(steps, horizon)) - exact, solved - exact
            relative = [float(np.linalg.norm(e) / np.linalg.norm(exact)) for e in errors]
            rows.append((horizon, steps, *relative, eigenvalues[-1] / eigenvalues[0]))
    return rows


def conjugate_gradients(matrix: Matrix, right: Vector, steps: int) -> Vector:
    """Return the iterate of conjugate gradients after so many steps from 0."""
    solution, residual = np.zeros_like(right), right
    direction = residual
    for _ in range(steps):
        product = matrix @ direction
        length = residual @ residual
        rate = length / (direction @ product)
        solution, residual = solution + rate * direction, residual - rate * product
        direction = residual + residual @ residual / length * direction
    return solution
