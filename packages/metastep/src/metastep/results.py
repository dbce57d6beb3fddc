"""Numerical failures: an enumeration whose messages say what to do.

Wrong use raises `ValueError` when a function is traced. Numerical failures (a diverged inner loop,
an unconverged linear solve) are values: `Estimate.result` holds one of the items below, and
`RESULTS[result]` is its message.
"""

import equinox as eqx


class RESULTS(eqx.Enumeration):
    """Outcome of one hypergradient estimate.

    `RESULTS[item]` is the message. Items survive `jit`, `vmap` and `scan`.
    """

    successful = ""
    nonfinite_inner = (
        "The inner state became infinite or NaN; stats['first_nonfinite_step'] says after how many "
        "inner steps (0: it was so from the start). Reduce the inner step size, clip the inner "
        "gradients, or check the data for NaN."
    )
    nonfinite_value = (
        "The objective is infinite or NaN although the inner state is finite. Check the objective "
        "for logarithms, divisions and square roots at zero."
    )
    nonfinite_gradient = (
        "The hypergradient is infinite or NaN; inner states and objective are finite. Either a "
        "derivative does not exist: that of optax.adam and adamw where the second moment is zero "
        "(a dead unit); use adam or adamw of metastep.optimizers, or eps_root=1e-8, which "
        "optax.contrib.muon calls adam_eps_root. Or the product of the step's Jacobians "
        "overflowed: shorten the horizon, or reduce the inner step size. Or `sigma` or `step` of "
        "the estimator is lost in the rounding of `outer`: enlarge it."
    )
    not_stationary = (
        "Implicit differentiation needs the inner loop to have converged, and it has not: "
        "stats['stationarity'] (the size of the next step relative to the first ones) is above "
        "stationarity_tolerance. Lengthen the horizon, or use Reverse or TruncatedReverse, which "
        "need no convergence."
    )
    linear_solve_failed = (
        "The linear system of implicit differentiation was not solved: stats['linear_residual'] is "
        "above linear_tolerance. Allow more iterations or Neumann terms. If the step's Jacobian is "
        "not symmetric (momentum, Adam), use a lineax solver for general matrices such as "
        "lineax.GMRES in place of CG. A Neumann series diverges when the step does not contract."
    )
    unseen_by_implicit = (
        "Implicit differentiation cannot see at least one hyperparameter, and its gradient is "
        "returned as NaN: the leaf changes how the inner loop gets to its fixed point, not where "
        "the fixed point is (a step size, a momentum). stats['unseen'] marks it. Use Reverse, "
        "TruncatedReverse or Forward, or take the leaf out of `outer`."
    )
    not_homogeneous = (
        "LogDomain rescales the inner state, which needs dynamics that scale with it, and these do "
        "not: stats['homogeneity_error'] (of the step) or stats['degree_error'] (of the objective) "
        "is above rounding, and value and gradient are returned as NaN. Write the state relative "
        "to the minimiser (for least squares: residuals), leave out Adam, clipping and truncation, "
        "keep constants out of the state; or use Reverse or Forward with log_transformed."
    )
    not_positive = (
        "LogDomain takes the logarithm of the objective, which is zero, negative or NaN at the end "
        "of the horizon. Value and gradient are returned as NaN. Give an objective that is "
        "positive, or use another estimator."
    )
    chaotic = (
        "The hypergradient is representable and not meaningful: fewer than one of its decimal "
        "digits is left where states are rounded differently (`digits_lost`). Another compiler or "
        "another order of summation gives another sign. Shorten the horizon, reduce the inner step "
        "size, or smooth the objective."
    )
    underflowed = (
        "The inner state became too small for its precision, and the hypergradient hangs on it: "
        "fewer than one of its decimal digits is left where the smallest numbers are halved "
        "(`digits_lost`). Use float64, shorten the horizon, or LogDomain if the dynamics scale "
        "with the state."
    )
    unmoved = (
        "The inner state stood still: the steps that were differentiated returned it unchanged, as "
        "those of a loop that stopped early do. They tell nothing about the hyperparameters, and "
        "more of them, of terms or of iterations do not help. Use Reverse or Forward, which see "
        "the steps that moved; or end the horizon where the loop stops; or let it run on."
    )
