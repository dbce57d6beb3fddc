"""The figures of `least-squares`."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, where
from metastep_lab.wang2021.least_squares.claims import SHORT


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figures 2 and 3 of the paper, the objectives, and the descent."""
    drawn = {
        "figure-2-noise": _rmse_figure(record, "noise", "samples"),
        "figure-3-samples": _rmse_figure(record, "samples", "noise"),
        "objectives": _objective_figure(record),
    }
    if len(record.frames["descent"]):
        drawn["descent"] = _descent_figure(record)
    return drawn


def _rmse_figure(record: Record, along: str, fixed: str) -> tuple[Figure, str]:
    value, panels = getattr(record.config, fixed)[0], []
    rows = where(record.frames["rmse"].sort_values(along), **{fixed: value})
    for split in ("training", "test"):
        modes = {mode: where(rows, split=split, mode=mode) for mode in SHORT}
        panel = Lines(
            series={mode: (part[along], part["mean"]) for mode, part in modes.items()},
            x_label="noise level sigma" if along == "noise" else "examples n",
            y_label=f"{split} RMSE",
            title=f"{split} error",
            x_log=along == "samples",
            bands={mode: (part["minimum"], part["maximum"]) for mode, part in modes.items()},
            dashed={mode: (part[along], part["prediction"]) for mode, part in modes.items()},
            dashed_label="closed form",
        )
        panels.append(panel)
    text = (
        "Training and test error (root mean square, RMSE) of the two tuned step sizes against "
        f"{'the noise level' if along == 'noise' else 'the number of examples'}, with {fixed} = "
        f"{value:g} and d = {record.config.dim} unknowns: mean over new tasks, their range shaded, "
        "the closed form dashed. A test error far above the training error is overfitting."
    )
    return line_figure(*panels, shared_legend=True), text


def _objective_figure(record: Record) -> tuple[Figure, str]:
    samples, panels = record.config.samples[0], []
    levels = min(record.config.noise), max(record.config.noise)
    for mode in SHORT:
        series, expected = {}, {}
        for noise in levels:
            at = {"noise": noise, "samples": samples, "mode": mode}
            shown = record.rows("objective", stopped=0, **at)
            beside = record.rows("population", **at)
            label = f"sigma = {noise:g}"
            series[label] = shown["step_size"], shown["objective"] / noise**2
            expected[label] = beside["step_size"], beside["population"] / noise**2
        panel = Lines(
            series=series,
            x_label="step size",
            y_label="objective / sigma²",
            title=mode,
            x_log=True,
            dashed=expected,
            dashed_label="closed form",
        )
        panels.append(panel)
    text = (
        "What is tuned for, in units of sigma² (sigma is the noise level): the loss after training "
        f"on the training examples and on the held-out ones, against the step size at n = "
        f"{samples} examples, up to where runs begin to diverge. The minimum of a curve is the "
        "tuned step size."
    )
    return line_figure(*panels, shared_legend=True), text


def _descent_figure(record: Record) -> tuple[Figure, str]:
    panels = []
    for noise, rows in record.frames["descent"].groupby("noise"):
        ends = record.rows("descent_end", noise=noise).set_index("mode")
        best = ends["grid_step_size"]
        paths = dict(list(rows.groupby("mode")))
        panel = Lines(
            series={mode: (paths[mode]["step"], paths[mode]["step_size"]) for mode in SHORT},
            x_label="meta-gradient step",
            y_label="step size",
            title=f"sigma = {noise:g}",
            y_log=True,
            dashed={mode: (paths[mode]["step"].iloc[[0, -1]], [best[mode]] * 2) for mode in SHORT},
            dashed_label="best of a grid",
        )
        panels.append(panel)
    text = (
        "The step size during meta-gradient descent from 0.003, tuned on training loss and on "
        "validation loss, for two noise levels sigma; the dashed lines are the best of a fine grid "
        "on the same tasks."
    )
    return line_figure(*panels, shared_legend=True), text
