"""The claims of `truncation-toy`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.claims import Numbers, Statement, each, falls
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
    rows = record.frames["bias"].query("10 <= window <= @record.config.horizon / 2")
    windows, errors = rows["window"].to_numpy(), rows["error"].to_numpy()
    return (errors[1:] / errors[:-1]) ** (1 / np.diff(windows))


def _slack(record: Record) -> Column:
    """Return bound / error for windows below the horizon."""
    return (_short(record)["bound"] / np.maximum(_short(record)["error"], 1e-300)).to_numpy()


def _descent(record: Record) -> Frame:
    """Return the extreme ratios on f and their bounds, by window."""
    ratios = of(record, "ratio", "f").groupby("window", sort=False)["ratio"]
    rows, steps = ratios.agg(lowest="min", highest="max"), record.config.horizon
    bounds = [
        theory.descent_ratio_bounds(np.diag([1.0, 0.5]), 0.1, int(window), steps)
        for window in rows.index
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
        "Figure 2, left: on f every window gives a descent direction; h.d / |d|^2 stays within "
        "the bounds of the commuting case.",
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
        verdict=lambda distances: falls(distances) and distances.iloc[:-1].max() > 0.1,
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
            + each("K={window:g} {error:.2g} (bound {bound:.2g})", "error by K ")(rows)
        ),
    ),
)
