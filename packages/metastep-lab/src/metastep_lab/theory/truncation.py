r"""Closed forms for truncated back-propagation through gradient descent on a quadratic.

Setting: inner loss g(w, lambda) = w^T H w / 2 - w^T J lambda with H symmetric positive definite,
T steps of gradient descent with step size gamma from w_0, so that A = I - gamma H and
d step / d lambda = gamma J are constant. The arguments `hessian`, `coupling`, `step_size`,
`horizon`, `window`, `start` and `outer` are H, J, gamma, T, K, w_0 and lambda. Everything is NumPy
in float64.

Reference:
    Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


def _array(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


def _spectral(hessian: ArrayLike) -> tuple[Vector, Matrix]:
    eigenvalues, eigenvectors = np.linalg.eigh(_array(hessian))
    if eigenvalues[0] <= 0:
        raise ValueError(
            f"hessian has the eigenvalue {eigenvalues[0]:.3g}; all must be positive (strong "
            "convexity)."
        )
    return eigenvalues, eigenvectors


def power_of_step(hessian: ArrayLike, step_size: float, exponent: int) -> Matrix:
    """Return (I - gamma H)^exponent, shape (dim, dim).

    Raises:
        ValueError: if an eigenvalue of H is not positive.
    """
    eigenvalues, eigenvectors = _spectral(hessian)
    return (eigenvectors * (1 - step_size * eigenvalues) ** exponent) @ eigenvectors.T


def final_state(
    hessian: ArrayLike,
    coupling: ArrayLike,
    start: ArrayLike,
    outer: ArrayLike,
    step_size: float,
    horizon: int,
) -> Vector:
    """Return w_T = C w_0 + (I - C) H^{-1} J lambda with C = (I - gamma H)^T.

    The T in this C is the power; the paper prints it like a transpose. J has the shape (dim,
    hyperparameters). Exact.
    """
    contraction = power_of_step(hessian, step_size, horizon)
    minimizer = np.linalg.solve(_array(hessian), _array(coupling) @ _array(outer))
    return contraction @ _array(start) + minimizer - contraction @ minimizer


def truncated_gradient(
    hessian: ArrayLike,
    coupling: ArrayLike,
    final_gradient: ArrayLike,
    step_size: float,
    window: int,
) -> Vector:
    """Return the back-propagated part of h_{T-K}: J^T H^{-1} (I - (I - gamma H)^K) d_w f.

    The final gradient d_w f is that at w_T, and K is the window. Add d_lambda f for the whole
    estimate (Eq. 8). With K = T it is exact, since w_0 is constant.
    """
    final_gradient = _array(final_gradient)
    # The sum of gamma (I - gamma H)^k over the window's steps k, a geometric series.
    kept = final_gradient - power_of_step(hessian, step_size, window) @ final_gradient
    return _array(coupling).T @ np.linalg.solve(_array(hessian), kept)


def bias_bound(
    window: ArrayLike,
    *,
    step_size: float,
    strong_convexity: float,
    final_gradient_norm: float,
    largest_response: float,
) -> Vector:
    """Bound |h_{T-K} - d_lambda f| by (1 - gamma alpha)^K / (gamma alpha) |d_w f| M_B (Eq. 10).

    Holds for gradient descent with gamma at most 1 / smoothness on a globally alpha-strongly convex
    inner loss. The window K may be an array. M_B, `largest_response`, is the largest spectral norm
    of d step / d lambda on the path. (Eq. 9, for the nonconvex case, grows as 2^{T-K+1} and is
    trivial.)
    """
    rate = step_size * strong_convexity
    return (1 - rate) ** _array(window) / rate * final_gradient_norm * largest_response


def descent_ratio_bounds(
    hessian: ArrayLike, step_size: float, window: int, horizon: int
) -> tuple[float, float]:
    """Return the least and the largest h^T d / |d|^2 where J commutes with H and d_lambda f = 0.

    In the eigenbasis of H the ratio is a weighted mean of (1 - a^K) / (1 - a^T) over the
    eigenvalues a of I - gamma H. This is the case in which the paper's Lemma 3.2 is true.
    """
    rates = 1 - step_size * _spectral(hessian)[0]
    # Along each eigenvector d is 1 - a^T, and h is 1 - a^K, times the same number.
    ratios = (1 - rates**window) / (1 - rates**horizon)
    return float(ratios.min()), float(ratios.max())


def interference_limits(
    window: ArrayLike, *, step_size: float, horizon: int, start: float, target: float
) -> tuple[Vector, float]:
    """Return the limit of K-RMD in the scalar counter-example of Theorem 3.5, and the true minimum.

    g = (w - lambda)^2 / 2 and f = w_T^2 / 2 + (lambda - target)^2 / 2, from w_0 = `start`: the
    direct derivative of f interferes with the back-propagated one, and truncation moves the
    stationary point. The windows K may be an array. (The paper's Eq. 19 counts one step too many
    and is corrected here.)
    """
    # w_T = forgotten * w_0 + (1 - forgotten) * lambda; K-RMD settles where
    # lambda - target + seen * w_T = 0, the true gradient where the factor is 1 - forgotten.
    forgotten = (1 - step_size) ** horizon
    seen = 1 - (1 - step_size) ** _array(window)
    limit = (target - seen * forgotten * start) / (1 + seen * (1 - forgotten))
    truth = (target - (1 - forgotten) * forgotten * start) / (1 + (1 - forgotten) ** 2)
    return limit, float(truth)


def worst_cosine(
    hessian: ArrayLike, coupling: ArrayLike, curvature: ArrayLike, step_size: float, window: int
) -> float:
    """Return the smallest cosine between h_{T-K} and d_lambda f over all lambda, as T grows.

    For f = w^T Q w / 2, with `curvature` Q, and w_T at the minimiser, both are linear in lambda: h
    = P lambda and d = S lambda. The minimum over two hyperparameters is taken on a fine grid of
    directions. It is negative where truncated back-propagation is an ascent direction.
    """
    # Half a circle: the cosine is the same for lambda and -lambda.
    directions = np.linspace(0, np.pi, 20001)
    outer = np.stack([np.cos(directions), np.sin(directions)])
    minimizer = np.linalg.solve(_array(hessian), _array(coupling) @ outer)
    final_gradient = _array(curvature) @ minimizer
    truncated = truncated_gradient(hessian, coupling, final_gradient, step_size, window)
    exact = _array(coupling).T @ np.linalg.solve(_array(hessian), final_gradient)
    products = np.sum(truncated * exact, axis=0)
    return float(
        np.min(products / np.linalg.norm(truncated, axis=0) / np.linalg.norm(exact, axis=0))
    )
