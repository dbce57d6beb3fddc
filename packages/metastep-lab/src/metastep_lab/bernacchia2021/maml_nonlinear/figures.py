"""The figures of `maml-nonlinear`."""

import math
from collections.abc import Mapping

import pandas as pd

from metastep_lab.bernacchia2021.maml_nonlinear.claims import PAPER, finest
from metastep_lab.bernacchia2021.measures import banded
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Frame, Record, where


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the test loss as the paper does, and the paired differences."""
    return {"figure-5": _loss_figure(record), "differences": _difference_figure(record)}


def _panel(parts: Mapping[str, Frame], value: str, y_label: str, test_rate: float) -> Lines:
    curves = {}
    for label, rows in parts.items():
        rows = rows.assign(shown=1000 * rows["train_rate"]).sort_values("shown")
        curves[label] = banded(rows, "shown", value, errors=1)
    return Lines(
        series={label: curve for label, (curve, _) in curves.items()},
        x_label="1000 x train rate",
        y_label=y_label,
        title=f"test rate {test_rate:g}",
        bands={label: band for label, (_, band) in curves.items()},
    )


def _loss_figure(record: Record) -> tuple[Figure, str]:
    config = record.config
    rows = record.rows("loss", reading=PAPER, test_rate=config.paper_test_rate)
    parts = {
        limit: where(rows, limit=limit, epochs=epochs)
        for limit, epochs in (("linearized", math.inf), ("trained", max(config.epochs)))
    }
    shown = {limit: part for limit, part in parts.items() if len(part)}
    text = (
        f"Loss of a network of width {config.width} on new tasks against the inner step size in "
        "training, mean over runs with one standard error shaded: the axes of the paper's Figure "
        "5. The errors are those of the level, which all rates of a run share; what differs "
        "between rates is in the other figure. Linearized: the network replaced by its tangent at "
        "the start."
    )
    panel = _panel(shown, "mean", "loss on new tasks", config.paper_test_rate)
    return line_figure(panel), text


def _difference_figure(record: Record) -> tuple[Figure, str]:
    rows, panels = finest(record), []
    best = "controlled" if "controlled" in set(rows["limit"]) else "trained"
    zero = pd.DataFrame({"train_rate": [0.0], "difference": [0.0], "standard_error": [0.0]})
    for test_rate in record.config.test_rates:
        at = where(rows, test_rate=test_rate)
        parts = {"linearized": where(at, limit="linearized"), "trained": where(at, limit=best)}
        shown = {
            label: pd.concat([part[[*zero]], zero]) for label, part in parts.items() if len(part)
        }
        panels.append(_panel(shown, "difference", "loss minus that of rate 0", test_rate))
    text = (
        "Paired difference of the loss on new tasks to that of train rate 0, with one standard "
        "error shaded, for each test rate. Below zero a train rate is better than none. The errors "
        "of the trained network are reduced by what the linearized one, its tangent at the start, "
        "shows in many more runs, where there are enough."
    )
    return line_figure(*panels, shared_legend=True), text
