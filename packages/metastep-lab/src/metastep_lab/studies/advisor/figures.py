"""The figures of `advisor`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import COLORS, Figure, Lines, line_figure, new_figure
from metastep_lab.studies.advisor.claims import COST, DIGITS, SHARE, costs, shares
from metastep_lab.tables import Frame, Record

LONG = 1000  # inner steps: truncation pays from here on
ROUNDING = 1e-7


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw digits lost, regret and cost, and the bias of truncation against its window."""
    found = {
        "digits": (
            _digits(record.frames["advice"]),
            "For each diagnosis the decimal digits that it says rounding costs against those that "
            f"float32 loses against float64; dashed, {DIGITS:g} digit apart.",
        ),
        "worth": (
            _worth(record),
            "For each problem the part of the best estimator's improvement that the recommended "
            "one reaches in equal time, and the processor time of the first diagnosis in first "
            "exact gradients; dashed, what is asked.",
        ),
    }
    windows = record.frames["windows"]
    if windows["window"].max() >= LONG:
        found["windows"] = (
            _windows(windows),
            "Relative error of truncated back-propagation against the window for the problems of "
            "at least a thousand steps, with bound (10) of the paper dashed. Errors below rounding "
            "are not drawn.",
        )
    return found


def _digits(rows: Frame) -> Figure:
    figure, (axes,) = new_figure()
    ends = np.array([0.0, 7.0])
    for shift in (-DIGITS, 0.0, DIGITS):
        axes.plot(
            ends, ends + shift, color="black", linewidth=0.8, linestyle="--" if shift else "-"
        )
    for truly, label in ((0, "meaningful"), (1, "chaotic")):
        those = rows[rows["truly_chaotic"] == truly]
        axes.plot(
            those["true_digits_lost"],
            those["digits_lost"],
            "os"[truly],
            color=COLORS[truly],
            label=label,
        )
    axes.set(
        xlabel="digits lost against float64", ylabel="digits lost, diagnosed", ylim=(-0.2, 7.2)
    )
    axes.legend()
    return figure


def _worth(record: Record) -> Figure:
    reached, cost = shares(record), costs(record)
    height = 1.2 + 0.22 * max(len(reached), len(cost))
    figure, axes = new_figure(columns=2, width=10, height=height)
    labels = ("part of the best improvement", "first exact gradients")
    panels = zip(axes, (reached, cost), labels, (SHARE, COST), strict=True)
    for panel, values, label, asked in panels:
        places = np.arange(len(values))
        panel.barh(places, values, color=COLORS[0])
        panel.set_yticks(places, values.index)
        panel.invert_yaxis()
        panel.axvline(asked, color="black", linestyle="--")
        panel.set_xlabel(label)
    return figure


def _windows(table: Frame) -> Figure:
    measured, bounds = {}, {}
    first = table[table["seed"] == table["seed"].min()]
    for problem, rows in first.groupby("problem", sort=False):
        if rows["window"].max() >= LONG:
            above = lambda name, rows=rows: rows[name].where(rows[name] > ROUNDING)
            measured[problem] = rows["window"], above("relative_error")
            bounds[problem] = rows["window"], above("bound")
    return line_figure(
        Lines(
            measured,
            "window K (inner steps)",
            "relative error of the hypergradient",
            x_log=True,
            y_log=True,
            dashed=bounds,
            dashed_label="bound (10)",
        )
    )
