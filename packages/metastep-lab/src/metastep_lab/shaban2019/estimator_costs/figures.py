"""The figures of `estimator-costs`."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, curves, where

LABELS = {"T": "training steps T", "K": "window K", "N": "hyperparameters N"}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw memory and time of every estimator against T, K and N."""
    costs = record.frames["costs"]
    shown = costs.assign(
        memory=costs["memory"] / 2**20, operations=costs["operations"] / record.config.parameters
    )
    panels = [
        Lines(
            curves(where(shown, varied=varied), "estimator", "value", column),
            label,
            name,
            x_log=True,
            y_log=True,
        )
        for column, name in (
            ("memory", "memory (MiB)"),
            ("operations", "operations per parameter"),
            ("seconds", "processor time (s)"),
        )
        for varied, label in LABELS.items()
        if varied == "T" or column != "seconds"
    ]
    text = (
        "What a hypergradient costs against the number of training steps T, the window K and the "
        "number of hyperparameters N: memory beyond arguments and results, arithmetic operations "
        "beyond those of a plain run, and the processor time of a whole call. FMD is forward mode, "
        "RMD reverse mode, K-RMD reverse mode through the last K steps. A line that is level does "
        "not depend on what is varied."
    )
    return {"costs": (line_figure(*panels, shared_legend=True), text)}
