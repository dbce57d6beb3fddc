"""The figures of `truncation-toy`: Figures 1 to 4 of the paper and the counter-example."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, new_figure, style
from metastep_lab.shaban2019.truncation_toy.claims import of
from metastep_lab.tables import Record


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
    bias, horizon = record.frames["bias"], record.config.horizon
    figure, axes = new_figure(columns=2)
    grid = np.linspace(-3, 3, 400)
    axes[0].plot(grid, grid**2 + 10 * np.sin(grid) ** 2, **style(0))
    axes[0].set(xlabel="one coordinate of w", ylabel="f", title="Outer loss, per coordinate")
    # The full window has error 0, for which a logarithmic axis has no place.
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
            data = of(record, "ratio", objective).loc[window]
            # From 1, since the axis is logarithmic.
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
        path = of(record, "trajectory", "f-tilde").loc[window]
        axes[0].plot(path["lambda_0"], path["lambda_1"], label=f"K = {window}", **style(index))
        axes[0].plot(*path[["lambda_0", "lambda_1"]].iloc[-1], "o", color=style(index)["color"])
    best = of(record, "limit", "f-tilde").iloc[-1]
    axes[0].plot(best["lambda_0"], best["lambda_1"], "rx", markersize=12, label="optimum")
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
        path = of(record, "trajectory", "f").loc[window]
        axes[0].plot(path["lambda_0"], path["lambda_1"], label=f"K = {window}", **style(index))
        # What is below rounding may be 0, which would leave gaps.
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
    table = record.frames["descent_counterexample"]
    figure, axes = new_figure(columns=1)
    labels = [f"step {row.step_size:g}\nK = {row.window:g}" for row in table.itertuples()]
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
