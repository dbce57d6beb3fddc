"""Derivatives of (1/T) log f(w_T) in 80-digit arithmetic, independent of JAX and of eigenbases.

Numbers go in as they are rounded in the precision under test, so that only its arithmetic is
judged. Forward in w, backward in its adjoint, by hand.
"""

import mpmath
import numpy as np

DIGITS = 80


def exact(values):
    """Return an array of mpmath numbers equal to the given floating-point numbers."""
    values = np.asarray(values)
    return np.array([mpmath.mpf(float(x)) for x in values.ravel()], object).reshape(values.shape)


def descent(hessian, start, steps, momentum=0.0):
    """Differentiate heavy-ball descent on w^T H w / 2 by every step size of every coordinate.

    Args:
        hessian: (dim, dim).
        start: (dim,).
        steps: step sizes, (horizon, dim).
        momentum: beta in m <- beta m + H w, w <- w - steps * m.

    Returns:
        F = (1/T) log f(w_T), dF / d steps (horizon, dim) and dF / d beta, as mpmath numbers.
    """
    with mpmath.workdps(DIGITS):
        hessian, steps = exact(hessian), exact(steps)
        momentum, horizon = mpmath.mpf(float(momentum)), len(steps)
        weights, traces = [exact(start)], [exact(np.zeros_like(start))]
        for step in steps:
            traces.append(momentum * traces[-1] + hessian @ weights[-1])
            weights.append(weights[-1] - step * traces[-1])
        force = hessian @ weights[-1]
        loss = weights[-1] @ force / 2
        adjoint, trace_adjoint = force / loss, 0 * force
        by_step, by_momentum = np.empty_like(steps), mpmath.mpf(0)
        for k in reversed(range(horizon)):
            by_step[k] = -adjoint * traces[k + 1] / horizon
            trace_adjoint = trace_adjoint - steps[k] * adjoint
            by_momentum += trace_adjoint @ traces[k] / horizon
            adjoint = adjoint + hessian @ trace_adjoint
            trace_adjoint = momentum * trace_adjoint
        return mpmath.log(loss) / horizon, by_step, by_momentum


class Spectral:
    """The same for one step size, in the eigenbasis: any horizon for the same price."""

    def __init__(self, hessian, start):
        """Diagonalise H, (dim, dim), and project the start, (dim,)."""
        with mpmath.workdps(DIGITS):
            eigenvalues, basis = mpmath.eigsy(mpmath.matrix(exact(hessian).tolist()))
            self.eigenvalues = np.array(list(eigenvalues), object)
            basis = np.array(basis.tolist(), object)
            self.squares = (basis.T @ exact(start)) ** 2

    def derivative(self, step_size, horizon):
        """Return F and F' at one step size."""
        with mpmath.workdps(DIGITS):
            factors = 1 - mpmath.mpf(float(step_size)) * self.eigenvalues
            odd = factors ** (2 * horizon - 1)
            total = np.sum(self.squares * self.eigenvalues * odd * factors)
            slope = -2 * np.sum(self.squares * self.eigenvalues**2 * odd) / total
            return mpmath.log(total / 2) / horizon, slope
