"""The claims of `truncation-toy`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.claims import Numbers, Statement, each, falls
from metastep_lab.shaban2019.truncation_toy.model import HESSIAN, STEP_SIZE
from metastep_lab.tables import Column, Frame, Record
from metastep_lab.theory import truncation as theory

NEAR = 1e-3
"""A gradient has vanished below this part of the first one."""


def of(record: Record, table: str, objective: str) -> Frame:
    """Return the rows of a table that belong to an objective, by window."""
    rows = record.frames[table]
    return rows[rows["objective"] == objective].set_index("window")


def _short(record: Record, table: str = "bias") -> Frame:
    """Return the rows of a table with a window below the horizon."""
    rows = record.frames[table]
    return rows[rows["window"] < record.config.horizon]


def _remaining(record: Record) -> Column:
    """Return the norm of the exact gradient of f at the end relative to the start, by window."""
    end = of(record, "limit", "f")["gradient_norm"].to_numpy()
    path = record.frames["trajectory"].query("objective == 'f' and step == 0")
    return end / path["gradient_norm"].to_numpy()[: end.size]


def answer(record: Record) -> str:
    """Say the error of short windows, and where descent along them ends."""
    config, short = record.config, _short(record)
    if short.empty:
        return f"This run cannot tell: no window is shorter than the {config.horizon} steps."
    # |h - d|^2 / |d|^2 from the angle and from h.d / |d|^2.
    length = short["ratio"] / short["cosine"]
    off = 100 * np.sqrt(np.maximum(length**2 - 2 * short["ratio"] + 1, 0))
    ends = sorted({0, len(short) - 1})
    wrong = ", ".join(f"with K={short['window'].iloc[i]:g} by {off.iloc[i]:.2g} %" for i in ends)
    left = 100 * _remaining(record).max()
    found = "finds the optimum with every window"
    if not np.isfinite(left):
        found = "diverges"
    elif left >= 100 * NEAR:
        found = f"has up to {left:.2g} % of the gradient left after {config.outer_steps} steps"
    tilde = _short(record, "limit").query("objective == 'f-tilde'").iloc[ends]
    apart = ", ".join(f"{row.distance:.2g} (K={row.window:g})" for row in tilde.itertuples())
    full = max(config.windows) == config.horizon
    return (
        f"It is off {wrong}. If the loss depends on what is tuned through the trained weights "
        f"alone, descent along it {found}. If it depends on it directly too, descent ends away "
        f"from {'the optimum' if full else 'the end of the longest window'}, by {apart}."
    )


def _rates(record: Record) -> Column:
    """Return the factor per step between the errors of windows from 10 to half the horizon."""
    # Below 10 the coordinate of G = 1 still counts, whose error falls by 0.9 a step; near T few
    # terms of Eq. 5 are cut off, and the error falls to 0.
    rows = record.frames["bias"].query("10 <= window <= @record.config.horizon / 2")
    windows, errors = rows["window"].to_numpy(), rows["error"].to_numpy()
    return (errors[1:] / errors[:-1]) ** (1 / np.diff(windows))


def _slack(record: Record) -> Column:
    # An error may have underflowed to 0.
    return (_short(record)["bound"] / np.maximum(_short(record)["error"], 1e-300)).to_numpy()


def _descent(record: Record) -> Frame:
    """Return the extreme ratios on f and their bounds, by window."""
    ratios = of(record, "ratio", "f").groupby("window", sort=False)["ratio"]
    rows, steps = ratios.agg(lowest="min", highest="max"), record.config.horizon
    bounds = [
        theory.descent_ratio_bounds(HESSIAN, STEP_SIZE, int(window), steps) for window in rows.index
    ]
    rows["low"], rows["high"] = np.transpose(bounds)
    return rows


def _interference(record: Record) -> Numbers:
    rows, short = record.frames["interference"], _short(record, "interference")
    return {
        **rows.iloc[0],
        "off": (rows["limit"] - rows["closed_form"]).abs().max(),
        "apart": (short["limit"] - short["truth"]).abs().min() if len(short) else None,
    }


def _full(record: Record) -> Frame:
    """Return the averages of the window that is exact, by iterations."""
    rows = record.frames["stochastic"]
    full = rows[rows["window"] == record.config.horizon].sort_values("iterations")
    return full.set_index("iterations")["average"]


def _falls_per(averages: Frame) -> Numbers:
    exponents = np.diff(np.log(averages)) / np.diff(np.log(averages.index))
    return {"exponents": exponents, "averages": averages}


def _by_horizon(record: Record, longest: bool) -> Numbers:
    """Return errors at the long or the short training, and their factors per step."""
    rows = record.frames["conjugate"]
    horizon = rows["horizon"].max() if longest else rows["horizon"].min()
    rows = rows[rows["horizon"] == horizon].sort_values("steps")
    first, last, condition = rows.iloc[0], rows.iloc[-1], rows["condition"].iloc[0]
    per_step = lambda name: (last[name] / first[name]) ** (1 / (last["steps"] - first["steps"]))
    return {
        "rows": rows,
        "truncated": per_step("truncated"),
        "conjugate": per_step("conjugate"),
        "slow": 1 - 1 / condition,
        "fast": 1 - condition**-0.5,
    }


ERRORS = each(
    "K={steps:g} {truncated:.2g} / {conjugate:.2g}", "K-RMD / conjugate gradients: ", ", "
)

CLAIMS = (
    Statement(
        "bias-below-bound",
        "Proposition 3.1: the error of K-RMD stays below the bound of Eq. 10 for every window.",
        lacks=lambda record: (
            "no window is shorter than the horizon" if _short(record).empty else None
        ),
        measure=_slack,
        verdict=lambda slack: np.all(slack >= 1),
        evidence=lambda slack: f"bound / error from {slack.min():.3g} to {slack.max():.3g}",
    ),
    Statement(
        "bias-decays",
        "Figure 1: the error decays exponentially with the window, by 1 - gamma alpha = 0.95 a "
        "step (here: to within 0.01).",
        measure=_rates,
        verdict=lambda rates: np.all(np.abs(rates - 0.95) < 0.01) if rates.size else None,
        evidence=lambda rates: (
            "factor per step between measured windows: "
            + (", ".join(f"{rate:.4f}" for rate in rates) or "needs two windows from 10 to T/2")
        ),
    ),
    Statement(
        "descent-on-f",
        "Figure 2, left: on f every window gives a descent direction (here: h.d / |d|^2 stays "
        "within the bounds of the commuting case, which are positive).",
        measure=_descent,
        verdict=lambda rows: rows.eval("low - 1e-6 < lowest and highest < high + 1e-6").all(),
        evidence=each(
            "K={window:g} {lowest:.4f} (theory at least {low:.4f})", "smallest ratio by window "
        ),
    ),
    Statement(
        "exact-limit-of-f",
        "Figure 4: on f, K-RMD converges to an exact stationary point for every window (here: "
        f"the exact gradient falls below {NEAR:g} of the first).",
        measure=lambda record: _remaining(record).max(),
        verdict=lambda largest: largest < NEAR,
        evidence="gradient norm at the end relative to the start: at most {:.2g}",
    ),
    Statement(
        "biased-limit-of-f-tilde",
        "Figure 3, Theorem 3.3: on f-tilde short windows end away from the optimum, and the "
        "distance shrinks as the window grows (here: the largest is above 0.1).",
        measure=lambda record: of(record, "limit", "f-tilde")["distance"],
        verdict=lambda distances: falls(distances) and distances.iloc[0] > 0.1,
        evidence="distance to the optimum by window {:.4f}",
    ),
    Statement(
        "interference",
        "Theorem 3.5: there is a problem with interference on which K-RMD converges, and not "
        "to a stationary point.",
        measure=_interference,
        verdict=lambda found: (
            None if found["apart"] is None else found["off"] < 1e-9 and found["apart"] > 1e-4
        ),
        evidence="limits equal the closed form to {off:.1g}; window {window:g} ends at "
        "{limit:.4f}, the optimum is {truth:.4f}",
    ),
    Statement(
        "descent-lemma-as-stated",
        "Lemma 3.2 and Theorem 3.4: with a strongly convex inner loss, invertible B and "
        "d_lambda f = 0, -h is a descent direction for every window when gamma is small and T "
        "large.",
        measure=lambda record: record.frames["descent_counterexample"],
        verdict=lambda rows: not rows.eval("end_norm > start_norm").any(),
        evidence=each(
            "step size {step_size:g}, window {window:g}: |d| {start_norm:.3g} -> {end_norm:.3g}, "
            "smallest cosine {worst_cosine:+.2f}",
            "counter-example (ten outer steps): ",
        ),
        reasons={
            False: "It is true where A and B^T B commute, and they do not in the counter-example.",
        },
    ),
    Statement(
        "neumann-series",
        "Proposition 3.6: at a fixed point K-RMD is the first K terms of the Neumann series of "
        "implicit differentiation (here: to 1e-9 of the exact gradient), and what it lacks is "
        "within the bound of Proposition 3.1 (Eq. 10). The coupling does not commute with the "
        "Hessian.",
        measure=lambda record: record.frames["neumann"],
        # If the series has converged, only rounding errors are left.
        verdict=lambda rows: rows.eval(
            "difference < 1e-9 and error <= bound + 1e-12 * exact_norm"
        ).all(),
        evidence=lambda rows: (
            f"K-RMD and the series differ by at most {rows['difference'].max(skipna=False):.1g}; "
            + each("K={window:g} {error:.2g} (bound {bound:.2g})", "error ")(rows)
        ),
    ),
    Statement(
        "theorem-3.3",
        "Theorem 3.3: in stochastic descent along K-RMD the mean of |d|^2, weighted by step sizes, "
        "is at most of order epsilon + (epsilon^2 + 1) / sqrt(R) (here: below the bound of the "
        "proof for every window and number of iterations R).",
        measure=lambda record: record.frames["stochastic"],
        verdict=lambda rows: rows.eval("average + 3 * standard_error <= bound").all(),
        evidence=each(
            "K={window:g} R={iterations:g} {average:.3g} ({bound:.3g})", "mean (bound): ", ", "
        ),
    ),
    Statement(
        "theorem-3.3-rate",
        "Theorem 3.3: without bias the mean of |d|^2 falls like 1 / sqrt(R) up to a logarithm "
        "(here: the exponent is at most -0.4 between consecutive R).",
        lacks=lambda record: (
            None if len(_full(record)) > 1 else "needs the full window and two numbers R"
        ),
        measure=lambda record: _falls_per(_full(record)),
        verdict=lambda found: np.all(found["exponents"] <= -0.4),
        evidence=lambda found: (
            "; ".join(f"R = {count:g}: {value:.3g}" for count, value in found["averages"].items())
            + "; exponents "
            + ", ".join(f"{one:.3f}" for one in found["exponents"])
        ),
    ),
    Statement(
        "conjugate-gradients-at-the-minimum",
        "Section 3.3: where the training has converged, K-RMD has a bias of order (1 - 1/kappa)^K, "
        "and Eq. 11 with K steps of conjugate gradients one of order (1 - 1/sqrt(kappa))^K, which "
        "is preferable (here: for every K, and both factors per step at most these, times 1.01).",
        measure=lambda record: _by_horizon(record, True),
        verdict=lambda found: (
            found["rows"].eval("conjugate < truncated").all()
            and found["truncated"] <= 1.01 * found["slow"]
            and found["conjugate"] <= 1.01 * found["fast"]
        ),
        evidence=lambda found: (
            f"{ERRORS(found['rows'])}; factor per step {found['truncated']:.3f} / "
            f"{found['conjugate']:.3f} (at most {found['slow']:.3f} / {found['fast']:.3f})"
        ),
    ),
    Statement(
        "conjugate-gradients-before-it",
        "Section 3.3: where it has not, Eq. 11 has no control on its error, while K-RMD has (here: "
        "after a short training the error of Eq. 11 stays above a half with the most steps, where "
        "K-RMD spans the training and is exact).",
        measure=lambda record: _by_horizon(record, False)["rows"],
        verdict=lambda rows: rows["conjugate"].iloc[-1] > 0.5 and rows["truncated"].iloc[-1] < 1e-9,
        evidence=ERRORS,
    ),
)
