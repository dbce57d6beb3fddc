"""The posterior's variances in the order of the Hessian's eigenvalues, Figure C.27."""

import equinox as eqx
import numpy as np

from metastep.curvature import EmpiricalRisk, kronecker_hessian
from metastep.pac_bayes import Optimized

LAYER = "fc1.weight"
GROUPS = 200  # points of a curve


def log_variances(risk: EmpiricalRisk, optimized: Optimized, ordered: bool) -> list[float]:
    """Return the log variances of the first layer, means over groups of equally many directions.

    These are at most 200 numbers, `ordered` by falling eigenvalue of E[M] (x) E[x x^T] at the
    posterior's mean, in the basis; otherwise in the order of the weights.
    """
    values = 2 * np.asarray(optimized.posterior.log_scale[LAYER], float).reshape(-1)
    if ordered:
        values = values[np.argsort(-_eigenvalues(risk, optimized), kind="stable")]
    groups = np.array_split(values, min(GROUPS, len(values)))
    return [float(np.mean(group)) for group in groups]


def _eigenvalues(risk: EmpiricalRisk, optimized: Optimized) -> np.ndarray:
    """Return the products of the factors' quadratic forms along each direction of the basis."""
    mean = eqx.combine(optimized.posterior.mean, risk.params)
    at_mean = eqx.tree_at(lambda risk: risk.params, risk, mean)
    hessian = kronecker_hessian(at_mean, layers=[LAYER], bias=optimized.layout.bias)
    taus, gammas = (
        # The basis was computed before the last steps, that of APPR before the first: at the
        # posterior's mean its directions have quadratic forms in place of eigenvalues.
        np.einsum("ia,ij,ja->a", basis[LAYER], factor[LAYER], basis[LAYER], optimize=True)
        for basis, factor in zip(optimized.basis, (hessian.output, hessian.input), strict=True)
    )
    return np.outer(taus, gammas).reshape(-1)
