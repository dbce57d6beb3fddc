"""The figures of `one-shot`: Figure 7 and the study of full reverse mode."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.shaban2019.one_shot.claims import cosines, depth
from metastep_lab.tables import Column, Frame, Record


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 7 and, where it was run, the study of full reverse mode."""
    names = list(record.frames["summary"]["method"].unique())
    study = [name for name in names if "," in name]
    found = {"figure-7": _main_figure(record, [name for name in names if name not in study])}
    if study:
        shown = [f"{record.config.middle}-RMD", "full", *study]
        found["study"] = _study_figure(record, [name for name in shown if name in names])
    return found


def _curve(record: Record, names: list[str], column: str, split: str, **labels: str) -> Lines:
    """Return a panel of means over repetitions with bands from the smallest to the largest."""
    series, bands = {}, {}
    for name in names:
        rows = record.frames["curve"].query("method == @name and split == @split")
        values = rows.groupby("step")[column].agg(["mean", "min", "max"])
        series[name] = values.index, values["mean"]
        bands[name] = values["min"], values["max"]
    return Lines(series, "outer step", labels["y"], labels["title"], bands=bands)


def _series(columns: Mapping[str, Frame]) -> dict[str, tuple[Column, Column]]:
    return {name: (column.index, column) for name, column in columns.items()}


def _main_figure(record: Record, names: list[str]) -> tuple[Figure, str]:
    means = {
        f"{window}-RMD": cosines(record, window, window).groupby("step")["cosine"].mean()
        for window in record.config.windows
    }
    labels = {"as tuned": "tuned", "none": "none", "strong": "strong"}
    errors = {label: depth(record, kind) for label, kind in labels.items()}
    figure = line_figure(
        _curve(record, names, "accuracy", "test", y="accuracy", title="Held-out characters"),
        _curve(record, names, "loss", "validation", y="cross-entropy (nats)", title="Validation"),
        Lines(_series(means), "outer step", "cosine", "Truncated and exact gradient"),
        Lines(
            _series(errors),
            "window K",
            "relative error",
            "Truncation error after tuning",
            y_log=True,
            legend_title="regularization",
        ),
    )
    text = (
        "Accuracy on held-out characters and loss on validation characters against the outer step, "
        "mean and range over repetitions, for a window of K inner steps (K-RMD), all of them "
        "(full) and training of one step (short horizon); cosine of the truncated and the exact "
        "gradient on the way; and relative error of the truncated gradient against the window at "
        "tuned hyperparameters, with the regularization as tuned, none, and strong."
    )
    return figure, text


def _study_figure(record: Record, names: list[str]) -> tuple[Figure, str]:
    rows = record.frames["training"].query("step <= @record.config.study_steps")
    medians = rows.groupby(["method", "step"])["gradient_norm"].median()
    norms = _series({name: medians[name] for name in names})
    curve = _curve(record, names, "accuracy", "test", y="accuracy", title="Held-out characters")
    figure = line_figure(
        curve,
        Lines(norms, "outer step", "norm of the estimate", "Gradient (median)", y_log=True),
        shared_legend=True,
    )
    text = (
        "What changes full reverse mode, one thing at a time: accuracy on held-out characters, "
        "mean and range over repetitions, and the norm of the estimated gradient. Start detached "
        "leaves out how the gradient depends on the start, clipped limits its norm, plain head "
        "has no normalization in the last layers."
    )
    return figure, text
