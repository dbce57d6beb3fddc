"""The figures of `step-size-quadratic`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import (
    COLORS,
    Figure,
    Lines,
    line_figure,
    new_figure,
    style,
    to_rgb,
)
from metastep_lab.tables import Record, where
from metastep_lab.wang2021.step_size_quadratic.measures import PAPER, shown_cell

PAPER_ROWS = ("paper: ours", "paper: TensorFlow GD", "paper: TensorFlow RMSProp")
# Distinguishable without color: status to background, text color and word.
LOOKS = {
    "converged": ("#56B4E9", "black", "converged"),
    "oscillating": ("#F0E442", "black", "moving"),
    "stuck": ("#8C3300", "white", "stuck"),
    "nan": ("#000000", "white", "NaN"),
    "paper yes": ("#DDDDDD", "black", "✓"),
    "paper no": ("#666666", "white", "✗"),
    "": ("#FFFFFF", "black", ""),
}
# In the order of drawing: the last ones are on top.
SHOWN = ("reverse-constant", "reverse-rmsprop", "reverse-float32", "log-domain", "reverse-float64")
# Stands for no number: the error of a gradient of zero, at 1, stays apart from it.
FAILED = 10.0
# Below the rounding of float64, 1e-16: an error of zero has a place on a logarithmic axis.
SMALLEST = 1e-17


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 1, Tables 1-2, eta* against t, and the accuracy of meta-gradients."""
    return {
        "figure-1-trajectory": _trajectory_figure(record),
        "tables-1-2": _status_figure(record),
        "optimum": _optimum_figure(record),
        "accuracy": _accuracy_figure(record),
    }


def _trajectory_figure(record: Record) -> tuple[Figure, str]:
    horizon, start = shown_cell(record)
    best = record.rows("optimum", horizon=horizon)["optimal_step_size"].item()
    figure, axes = new_figure(columns=2, width=11, height=4.4)
    shown = [name for name in SHOWN if name in record.config.methods]
    for index, name in enumerate(shown):
        path = record.rows("trajectory", method=name, horizon=horizon, start=start)
        steps, sizes = path["step"], path["step_size"]
        # Dots for values that jump: a line would fill the panel.
        jumps = np.ptp(sizes) > 0
        look = style(index, markers=True) | {"linestyle": "none", "markersize": 6 - index}
        look = look if jumps else style(index)
        axes[0].plot(steps, sizes, label=name, **look)
        axes[1].plot(steps, np.maximum(np.abs(sizes - best) / best, SMALLEST), **look)
    axes[0].axhline(best, color="black", linewidth=1, label=f"optimum η* = {best:.4f}")
    axes[0].set(xlabel="update of the step size", ylabel="step size η")
    axes[0].set_title(f"t = {horizon}, start at {start:g}")
    axes[1].axhline(0.1, color="#777777", linewidth=1, label="10%")
    axes[1].set(xlabel="update of the step size", ylabel="|η - η*| / η*", yscale="log")
    axes[1].set_title("Relative error")
    figure.legend(loc="outside lower center", ncols=3)
    text = (
        f"The step size η while it is tuned, with t = {horizon} inner steps, from {start:g}; and "
        "how far it is from the optimum η*. log-domain is the exact gradient in rescaled numbers, "
        "reverse back-propagation. constant and rmsprop take other steps: of constant length, and "
        "those of RMSProp. A level line is a step size that no longer moves."
    )
    return figure, text


def _status_figure(record: Record) -> tuple[Figure, str]:
    config = record.config
    cells = [(t, start) for t in config.horizons for start in config.start_step_sizes]
    grid = [[_cell(record, name, cell) for cell in cells] for name in config.methods]
    if any(cell in PAPER for cell in cells):
        grid += [[_paper(cell, row) for cell in cells] for row in range(len(PAPER_ROWS))]
    names = (*config.methods, *PAPER_ROWS)[: len(grid)]
    height = 1.5 + 0.5 * len(grid)
    figure, (axes,) = new_figure(width=max(7.4, 2.4 + 0.85 * len(cells)), height=height)
    colors = [[to_rgb(LOOKS[kind][0]) for kind, _ in row] for row in grid]
    axes.imshow(np.array(colors), aspect="auto")
    axes.grid(False)
    for row, column in np.ndindex(len(grid), len(cells)):
        kind, number = grid[row][column]
        _, color, word = LOOKS[kind]
        text = f"{word}\n{number}" if number else word
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    for edge in range(1, len(config.horizons)):
        axes.axvline(edge * len(config.start_step_sizes) - 0.5, color="black", linewidth=1.5)
    if len(grid) > len(config.methods):
        axes.axhline(len(config.methods) - 0.5, color="black", linewidth=1.5)
    axes.set_xticks(range(len(cells)), [f"t = {t}\n{start:g}" for t, start in cells])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="inner steps t, and the step size at the start")
    axes.set_title("How it ends, and the largest\n|η - η*| / η* of the last 100 updates")
    text = (
        "For each method and each pair of inner steps t and start: converged to within 10%, stuck "
        "where it was, or still moving, and how far from the optimum η*; x is a multiple of η*. "
        "The last three rows are the check marks and crosses of the paper's tables. stop-gradient "
        "is back-propagation without second derivatives."
    )
    return figure, text


def _cell(record: Record, method: str, cell: tuple[int, float]) -> tuple[str, str]:
    table = record.frames["convergence"]
    found = where(table, method=method, horizon=cell[0], start=cell[1])
    error = found["relative_error_last"].item()
    return str(found["status"].item()), f"{100 * error:.2g}%" if error < 1 else f"{error:.3g}x"


def _paper(cell: tuple[int, float], row: int) -> tuple[str, str]:
    if cell not in PAPER:
        return "", ""
    return "paper yes" if PAPER[cell][row] else "paper no", ""


def _optimum_figure(record: Record) -> tuple[Figure, str]:
    table, optimum = record.frames["limit"], record.frames["optimum"]
    figure, (left, right) = new_figure(columns=2, width=11, height=4.2)
    left.plot(table["horizon"], table["optimal_step_size"], label="optimum η*", **style(0, True))
    limit = table["limit"][0]
    left.axhline(limit, color=COLORS[1], linestyle="--", label=f"2 / (L + alpha) = {limit:.5f}")
    left.set(xscale="log", xlabel="inner steps t", ylabel="optimal step size η*")
    left.set_title("The optimum depends on t")
    left.legend(loc="lower right")
    right.plot(optimum["horizon"], optimum["predicted_steps"], **style(0, True))
    steps = record.config.meta_steps
    right.axhline(steps, color=COLORS[1], linestyle="--", label=f"updates in this run: {steps}")
    both = np.append(optimum["predicted_steps"], steps)
    right.set(xscale="log", yscale="log", xlabel="inner steps t")
    right.set_ylim(np.min(both) / 4, np.max(both) * 4)
    right.set_xticks(optimum["horizon"], [f"{t:g}" for t in optimum["horizon"]])
    right.set_xticks([], minor=True)
    right.set_ylabel("updates until it can settle, (s F''(η*) / 2)²")
    right.set_title(f"Meta step size s / √k with s = {record.config.meta_step_scale:g}")
    right.legend()
    text = (
        "The optimal step size η* against the number of inner steps, with the limit that theory "
        "gives it: L and alpha are the largest and the smallest eigenvalue of the Hessian. And the "
        "number of updates after which the meta step is small enough for η to come to rest at η*, "
        "beside the number that the run took; F'' is the second derivative of what is tuned for."
    )
    return figure, text


def _accuracy_figure(record: Record) -> tuple[Figure, str]:
    table, horizons = record.frames["accuracy"], record.config.horizons
    panels = []
    for horizon in dict.fromkeys((min(horizons), max(horizons))):
        series = {}
        for name in dict.fromkeys(table["method"]):
            found = where(table, method=name, horizon=horizon)
            off = np.clip(found["relative_error"], SMALLEST, FAILED)
            series[str(name)] = found["step_size"], off
        panels.append(
            Lines(
                series,
                x_label="step size η",
                y_label="relative error of F'  (1: zero, 10: NaN)",
                title=f"Meta-gradient, t = {horizon}",
                x_log=True,
                y_log=True,
            )
        )
    left = record.rows("stop_gradient", horizon=max(horizons))
    names = {"true": "true", "stop_gradient": "without second\nderivatives"}
    panels.append(
        Lines(
            {label: (left["step_size"], left[name]) for name, label in names.items()},
            x_label="step size η",
            y_label="d log f / dη  (per unit of η)",
            title=f"Second derivatives off, t = {max(horizons)}",
            x_log=True,
        )
    )
    figure = line_figure(*panels, columns=3)
    *errors, compared = figure.axes
    ends = 5 * np.max(np.abs([left["true"], left["stop_gradient"]]))
    # The derivative changes its sign at eta*.
    compared.set_yscale("symlog", linthresh=1)
    compared.set_ylim(-ends, ends)
    compared.legend(loc="upper left")
    compared.axhline(0, color="black", linewidth=0.8)
    handles = errors[0].get_legend_handles_labels()
    for axes in errors:
        axes.legend_ = None
    figure.legend(*handles, loc="outside lower center", ncols=4)
    text = (
        "Relative error of the meta-gradient F' against the closed form, for the fewest and the "
        "most inner steps t: log-domain is rescaled, reverse is plain back-propagation. An error "
        "of 1 is a gradient of zero, one of 10 is no number. The last panel shows the derivative "
        "of the log of the final loss f with second derivatives and without."
    )
    return figure, text
