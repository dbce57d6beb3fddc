"""The figures of `least-squares-sgd`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Axes, Figure, new_figure, style
from metastep_lab.tables import Frame, Record, where
from metastep_lab.theory import least_squares_sgd as theory
from metastep_lab.wang2021.least_squares_sgd.claims import is_long, train, validation


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the two objectives, and the learned step sizes with their errors."""
    return {"objectives": _objective_figure(record), "optimum": _optimum_figure(record)}


def _objective_figure(record: Record) -> tuple[Figure, str]:
    figure, (left, right) = new_figure(columns=2, width=11, height=4.2)
    _draw_train(left, record)
    _draw_validation(right, record)
    text = (
        "What is tuned for, against the step size; stars are the minima. Train-by-train judges a "
        "step size by the training loss, train-by-validation by the squared distance E|w - w*|² of "
        "the weights w from the true ones. d is the number of weights, n of examples, n₁ of those "
        "that are trained on, t of steps. The theorems look at step sizes up to the dotted limits."
    )
    return figure, text


def _curve(record: Record, **cell: object) -> tuple[np.ndarray, np.ndarray, Frame]:
    """Return step sizes and objectives, including the refined minima; and the minima alone."""
    rows, found = (record.rows(name, **cell) for name in ("objective", "optimum"))
    x, y = (np.append(rows[name], found[name]) for name in ("step_size", "objective"))
    return x, y, found


def _draw_train(axes: Axes, record: Record) -> None:
    config, best = record.config, []
    multiple = config.multiples[len(config.multiples) // 2]
    for index, dim in enumerate(config.dims):
        x, y, found = _curve(record, mode="train-by-train", dim=dim, horizon=multiple * dim)
        best.append(where(found, range="wide")["objective"].item())
        _draw_curve(axes, index, dim, x * dim, y, best[-1])
    limit = theory.train_by_train_range(config.dims[0]) * config.dims[0]
    axes.axvline(limit, color="black", linestyle=":", linewidth=1.2, label="limit of Theorem 9")
    start = train(record, "stated")["objective"].max()
    axes.set(xscale="log", yscale="log", ylim=(min(best) / 3, start * 10))
    axes.set(xlabel="step size · d", ylabel="mean training loss (squared target units)")
    axes.set_title(f"Train-by-train, n = d/2, t = {multiple} d")
    axes.legend()


def _draw_validation(axes: Axes, record: Record) -> None:
    first = min(record.config.validation_multiples)
    for index, dim in enumerate(record.config.dims):
        horizon = int(np.ceil(first / theory.train_by_validation_range(dim)))
        cell = {"mode": "train-by-validation", "samples": dim // 4, "horizon": horizon}
        x, y, _ = _curve(record, **cell)
        # The objective is half of |w - w*|^2 plus half the variance of the noise.
        y = 2 * y - record.config.noise**2
        _draw_curve(axes, index, dim, x * horizon, y, np.min(y))
    axes.axvline(first, color="black", linestyle=":", linewidth=1.2, label="limit of Theorem 10")
    axes.axhline(1, color="#777777", linewidth=1, label="|w*|², no training")
    axes.set(xscale="log", xlim=(3e-3, 3 * first), ylim=(0.8, 1.6))
    axes.set(xlabel="step size · t", ylabel="mean of E|w - w*|² over the training tasks")
    times = "" if first == 1 else f"{first} "
    axes.set_title(f"Train-by-validation, n₁ = d/4, t = {times}d² ln² d")
    axes.legend()


def _draw_curve(
    axes: Axes, index: int, dim: int, x: np.ndarray, y: np.ndarray, minimum: float
) -> None:
    """Draw one objective, with a star at the lowest of its minima."""
    order, look = np.argsort(x), style(index, True)
    axes.plot(x[order], y[order], label=f"d = {dim}", **look)
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "black", "zorder": 3}
    axes.plot(x[y == minimum][:1], [minimum], color=look["color"], **star)


def _optimum_figure(record: Record) -> tuple[Figure, str]:
    figure, (left, right) = new_figure(columns=2, width=11, height=4.2)
    modes = {"train-by-train": train(record, "wide"), "train-by-validation": validation(record, 4)}
    for index, dim in enumerate(record.config.dims):
        solid = style(index, True) | {"linestyle": "-"}
        dashed = solid | {"linestyle": "--", "markerfacecolor": "white"}
        for look, (mode, rows) in zip((solid, dashed), modes.items(), strict=True):
            rows = where(rows, dim=dim)
            left.plot(rows["horizon"], rows["step_size"], label=f"{mode}, d = {dim}", **look)
    left.set(xscale="log", yscale="log", xlabel="horizon t (steps)", ylabel="learned step size")
    left.set_title("Learned step sizes")
    left.legend(fontsize=8)
    for index, (label, (rows, column)) in enumerate(_error_lines(record).items()):
        right.plot(rows["dim"], rows[column], label=label, **style(index, True))
    right.axhline(1, color="#777777", linewidth=1, label="|w*|², no training")
    right.set(xlabel="dimension d", ylabel="E|w - w*|² on fresh tasks", ylim=(0, None))
    right.set_xticks(record.config.dims)
    right.set_title("Distance to the truth")
    right.legend(fontsize=8, loc="center")
    text = (
        "The learned step sizes against the number of training steps t, for each dimension d; and "
        "how far from the true weights w* training with them ends on tasks that they were not "
        "tuned on. Below 1 is nearer than without training. The stated range is that of Theorem "
        "9, whose step sizes are so small that they need very many steps."
    )
    return figure, text


def _error_lines(record: Record) -> dict[str, tuple[Frame, str]]:
    """Return the rows of the longest horizon of each case by label, and the column to draw."""
    config, wide, stated = record.config, train(record, "wide"), train(record, "stated")
    multiple, long = max(config.multiples), config.long_multiple
    longest = wide[wide["horizon"] == multiple * wide["dim"]]
    lines = {
        f"train-by-train, every step size, t = {multiple} d (median)": (longest, "median_error"),
        f"train-by-train, stated range, t = {long:,} d (mean)": (
            stated[is_long(record, stated)],
            "error",
        ),
    }
    for parts in (2, 4):
        rows = validation(record, parts)
        last = rows[rows["horizon"] == rows.groupby("dim")["horizon"].transform("max")]
        lines[f"train-by-validation, n₁ = d/{parts} (mean)"] = last, "error"
    return lines
