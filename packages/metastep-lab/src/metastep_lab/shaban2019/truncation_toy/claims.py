"""What the tables of `truncation-toy` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, new_figure, style
from metastep_lab.tables import Record, select
from metastep_lab.theory import truncation as theory

GAMMA_ALPHA = 0.05
NEAR = 1e-3
"""A gradient has vanished below this part of the first one."""


def answer(record: Record) -> str:
    """Say how wrong short windows are, and where descent along them ends."""
    config, bias = record.config, record.tables["bias"]
    short = np.flatnonzero(bias["window"] < config.horizon)
    if not short.size:
        return f"This run cannot tell: no window is shorter than the {config.horizon} steps."
    # |h - d|^2 / |d|^2 from the angle and from h.d / |d|^2.
    length = bias["ratio"] / bias["cosine"]
    off = 100 * np.sqrt(np.maximum(length**2 - 2 * bias["ratio"] + 1, 0))
    wrong = ", ".join(f"with K={bias['window'][i]:g} by {off[i]:.2g} %" for i in _ends(short))
    left = 100 * _remaining(record).max()
    found = "finds the optimum with every window"
    if not np.isfinite(left):
        found = "diverges"
    elif left >= 100 * NEAR:
        found = f"has up to {left:.2g} % of the gradient left after {config.outer_steps} steps"
    tilde = select(record.tables["limit"], objective="f-tilde")
    ends = ", ".join(f"{tilde['distance'][i]:.2g} (K={tilde['window'][i]:g})" for i in _ends(short))
    full = max(config.windows) == config.horizon
    return (
        f"It is off {wrong}. If the loss depends on what is tuned through the trained weights "
        f"alone, descent along it {found}. If it depends on it directly too, descent ends away "
        f"from {'the optimum' if full else 'the end of the longest window'}, by {ends}."
    )


def _ends(places: np.ndarray) -> list[int]:
    """Return the first and the last of several places, once if they are one."""
    return sorted({int(places[0]), int(places[-1])})


def _remaining(record: Record) -> np.ndarray:
    """Return the norm of the exact gradient of f at the end relative to the start, by window."""
    plain = select(record.tables["limit"], objective="f")["gradient_norm"]
    first = select(record.tables["trajectory"], objective="f", step=0)["gradient_norm"]
    return plain / first[: plain.size]


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the paper's statements about the toy problem against the tables."""
    return (
        *_bias_claims(record),
        *_trajectory_claims(record),
        *_limit_claims(record),
        *_theory_claims(record),
    )


def _bias_claims(record: Record) -> tuple[Claim, ...]:
    bias = record.tables["bias"]
    short = bias["window"] < record.config.horizon
    slack = bias["bound"][short] / np.maximum(bias["error"][short], 1e-300)
    middle = (bias["window"] >= 10) & (bias["window"] <= record.config.horizon / 2)
    windows, errors = bias["window"][middle], bias["error"][middle]
    rates = (errors[1:] / errors[:-1]) ** (1 / np.diff(windows))
    decays = bool(np.all(np.abs(rates - 0.95) < 0.01)) if rates.size else None
    return (
        Claim(
            "bias-below-bound",
            "Proposition 3.1: the error of K-RMD stays below the bound of Eq. 10 for every window.",
            bool(np.all(slack >= 1)) if slack.size else None,
            f"bound / error from {slack.min():.3g} to {slack.max():.3g}"
            if slack.size
            else "no window is shorter than the horizon",
        ),
        Claim(
            "bias-decays",
            "Figure 1: the error decays exponentially with the window, by 1 - gamma alpha = 0.95 a "
            "step (here: to within 0.01).",
            decays,
            "factor per step between measured windows: "
            + (", ".join(f"{rate:.4f}" for rate in rates) or "needs two windows from 10 to T/2"),
        ),
    )


def _trajectory_claims(record: Record) -> tuple[Claim, ...]:
    config, table = record.config, record.tables["ratio"]
    inside, lowest = [], []
    for window in config.windows:
        ratio = select(table, objective="f", window=window)["ratio"]
        low, high = theory.descent_ratio_bounds(np.diag([1.0, 0.5]), 0.1, window, config.horizon)
        inside.append(ratio.min() > low - 1e-6 and ratio.max() < high + 1e-6)
        lowest.append(f"K={window} {ratio.min():.4f} (theory at least {low:.4f})")
    tilde = {
        window: select(table, objective="f-tilde", window=window)["ratio"].min()
        for window in config.windows
    }
    from_origin = tuple(config.start_tilde) == (0.0, 0.0)
    return (
        Claim(
            "descent-on-f",
            "Figure 2, left: on f every window gives a descent direction; h.d / |d|^2 stays within "
            "the bounds of the commuting case.",
            all(inside),
            "smallest ratio by window " + "; ".join(lowest),
        ),
        Claim(
            "ratio-turns-negative",
            "Figure 2, right: on f-tilde, where f depends on lambda directly, the ratio of short "
            "windows turns negative.",
            bool(tilde[min(tilde)] < 0) if from_origin else None,
            "smallest ratio by window "
            + "; ".join(f"K={window} {value:.3f}" for window, value in tilde.items())
            + ("" if from_origin else "; only a start such as (0, 0) shows it"),
        ),
    )


def _limit_claims(record: Record) -> tuple[Claim, ...]:
    relative, tilde = _remaining(record), select(record.tables["limit"], objective="f-tilde")
    distances = ", ".join(
        f"K={int(window)} {distance:.4f}"
        for window, distance in zip(tilde["window"], tilde["distance"], strict=True)
    )
    shorter = tilde["distance"][:-1]
    return (
        Claim(
            "exact-limit-of-f",
            "Figure 4: on f, K-RMD converges to an exact stationary point for every window (here: "
            f"the exact gradient falls below {NEAR:g} of the first).",
            bool(relative.max() < NEAR),
            f"gradient norm at the end relative to the start: at most {relative.max():.2g}",
        ),
        Claim(
            "biased-limit-of-f-tilde",
            "Figure 3, Theorem 3.3: on f-tilde short windows end away from the optimum, and the "
            "distance shrinks as the window grows (here: the largest is above 0.1).",
            bool(np.all(np.diff(tilde["distance"]) < 0) and shorter.max() > 0.1)
            if shorter.size
            else None,
            "distance to the optimum by window " + distances,
        ),
    )


def _theory_claims(record: Record) -> tuple[Claim, ...]:
    scalar = record.tables["interference"]
    off = np.abs(scalar["limit"] - scalar["closed_form"]).max()
    short = scalar["window"] < record.config.horizon
    biased = np.abs(scalar["limit"] - scalar["truth"])[short]
    counter = record.tables["descent_counterexample"]
    growing = counter["end_norm"] > counter["start_norm"]
    neumann = record.tables["neumann"]
    within = neumann["relative_error"] <= neumann["bound"] + 1e-13
    cases = "; ".join(
        f"step size {gamma:g}, window {int(window)}: |d| {before:.3g} -> {after:.3g}, smallest "
        f"cosine {worst:+.2f}"
        for gamma, window, worst, before, after in zip(*counter.values(), strict=True)
    )
    return (
        Claim(
            "interference",
            "Theorem 3.5: there is a problem with interference on which K-RMD converges, and not "
            "to a stationary point.",
            bool(off < 1e-9 and biased.min() > 1e-4) if biased.size else None,
            f"limits equal the closed form to {off:.1g}; window {int(scalar['window'][0])} ends at "
            f"{scalar['limit'][0]:.4f}, the optimum is {scalar['truth'][0]:.4f}",
        ),
        Claim(
            "descent-lemma-as-stated",
            "Lemma 3.2 and Theorem 3.4: with a strongly convex inner loss, invertible B and "
            "d_lambda f = 0, -h is a descent direction for every window when gamma is small and T "
            "large.",
            not bool(growing.any()),
            f"counter-example (ten outer steps): {cases}",
        ),
        Claim(
            "neumann-series",
            "Proposition 3.6: K-RMD at a fixed point is the K-term Neumann series, and its "
            "relative error is below (1 - gamma alpha)^K.",
            bool(within.all()),
            "relative error by terms "
            + "; ".join(
                f"K={int(window)} {error:.2g} (bound {bound:.2g})"
                for window, error, bound in zip(*neumann.values(), strict=True)
            ),
        ),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figures 1 to 4 of the paper and the counter-example."""
    return {
        "figure-1-bias": _bias_figure(record),
        "figure-2-ratio": _ratio_figure(record),
        "figure-3-biased-limit": _limit_figure(record),
        "figure-4-convergence": _convergence_figure(record),
        "counter-example": _counterexample_figure(record),
    }


def _bias_figure(record: Record) -> tuple[Figure, str]:
    bias, horizon = record.tables["bias"], record.config.horizon
    figure, axes = new_figure(columns=2)
    grid = np.linspace(-3, 3, 400)
    axes[0].plot(grid, grid**2 + 10 * np.sin(grid) ** 2, **style(0))
    axes[0].set(xlabel="one coordinate of w", ylabel="f", title="Outer loss, per coordinate")
    shown = bias["window"] < horizon
    axes[1].plot(bias["window"], bias["bound"], label="bound (Eq. 10)", **style(1))
    axes[1].plot(
        bias["window"][shown], bias["error"][shown], label="measured |h - d|", **style(0, True)
    )
    axes[1].set(xlabel="window K (inner steps)", ylabel="error", yscale="log")
    axes[1].set_title("Bias of truncation at lambda = (1, 1)")
    axes[1].legend()
    text = (
        "The outer loss f as a function of one coordinate of the trained weights w; and the error "
        "of truncated back-propagation, its distance |h - d| from the exact hypergradient d, on a "
        f"log scale, with the paper's bound. At K = {horizon}, all of training, it is zero."
    )
    return figure, text


def _ratio_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    for panel, objective in zip(axes, ("f", "f-tilde"), strict=True):
        for index, window in enumerate(record.config.windows):
            data = select(record.tables["ratio"], objective=objective, window=window)
            panel.plot(1 + data["step"], data["ratio"], label=f"K = {window}", **style(index))
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set(xlabel="outer step along the 1-RMD path", ylabel="h . d / |d|²", title=objective)
        panel.set_xscale("log")
    axes[1].set_ylim(-0.6, 1.1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    text = (
        "How far a step along the truncated hypergradient h goes down, as a part of what one along "
        "the exact d does: 1 is exact, below 0 is uphill. On the path of window 1 (1-RMD), for "
        "two outer losses: f depends on lambda through the trained weights only, f-tilde directly "
        "too."
    )
    return figure, text


def _limit_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=1)
    for index, window in enumerate(record.config.windows):
        path = select(record.tables["trajectory"], objective="f-tilde", window=window)
        axes[0].plot(path["lambda_0"], path["lambda_1"], label=f"K = {window}", **style(index))
        axes[0].plot(path["lambda_0"][-1], path["lambda_1"][-1], "o", color=style(index)["color"])
    best = select(record.tables["limit"], objective="f-tilde")
    axes[0].plot(best["lambda_0"][-1], best["lambda_1"][-1], "rx", markersize=12, label="optimum")
    axes[0].set(xlabel="lambda 0", ylabel="lambda 1", title="Descent on f-tilde: biased limits")
    axes[0].legend(ncols=2)
    text = (
        "Paths of lambda, which is tuned, on the outer loss f-tilde, which depends on it directly "
        "too, for several windows. Dots mark where each ends; a red cross marks the end of the "
        "longest window."
    )
    return figure, text


def _convergence_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    for index, window in enumerate(record.config.windows):
        path = select(record.tables["trajectory"], objective="f", window=window)
        axes[0].plot(path["lambda_0"], path["lambda_1"], label=f"K = {window}", **style(index))
        shown = np.maximum(path["gradient_norm"], 1e-16)
        axes[1].plot(path["step"], shown, label=f"K = {window}", **style(index))
    axes[0].set(xlabel="lambda 0", ylabel="lambda 1", title="Paths on f")
    axes[1].set(xlabel="outer step", ylabel="|d|, exact hypergradient", yscale="log")
    axes[1].set_title("Convergence on f")
    axes[1].legend(ncols=2)
    text = (
        "The paths of lambda, which is tuned, on the outer loss f, which depends on it through the "
        "trained weights only; and the norm of the exact hypergradient on the way, which is zero "
        "at an optimum."
    )
    return figure, text


def _counterexample_figure(record: Record) -> tuple[Figure, str]:
    table = record.tables["descent_counterexample"]
    figure, axes = new_figure(columns=1)
    labels = [
        f"step {gamma:g}\nK = {int(window)}"
        for gamma, window in zip(table["step_size"], table["window"], strict=True)
    ]
    growth = table["end_norm"] / table["start_norm"]
    colors = [style(1 if g > 1 else 0)["color"] for g in growth]
    axes[0].bar(labels, growth, color=colors, hatch=None)
    axes[0].axhline(1, color="black", linewidth=0.8)
    axes[0].set(ylabel="|d| after ten outer steps / before", yscale="log")
    axes[0].set_title("Counter-example to Lemma 3.2: bars above one diverge")
    text = (
        "The norm |d| of the exact hypergradient after ten outer steps, as a multiple of that "
        "before, for several inner step sizes and windows K: above 1 descent moves away from the "
        "optimum."
    )
    return figure, text
