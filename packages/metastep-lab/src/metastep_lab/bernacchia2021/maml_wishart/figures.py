"""The figures of `maml-wishart`."""

from collections.abc import Mapping

from metastep_lab.bernacchia2021.maml_wishart.claims import optima
from metastep_lab.bernacchia2021.measures import banded, gain_panel, loss_panel
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 4, the gain over train rate 0, and the optima of all draws."""
    a, b = (record.rows("loss", panel=panel) for panel in "ab")
    along_test = loss_panel(a, "test_rate", "4a: test rate")
    along_train = loss_panel(b, "train_rate", "4b: train rate")
    text = (
        "Expected test loss of MAML with inputs and tasks whose correlations were drawn at random "
        "(Wishart covariances), against both inner learning rates, that of use (alpha_r) and that "
        "of meta-training (alpha_t): exact simulation, with two standard errors shaded, and the "
        "theory, Theorem 3."
    )
    figure = line_figure(along_test, along_train, shared_legend=True)
    return {"figure-4": (figure, text), "gain": _gain_figure(record)}


def _gain_figure(record: Record) -> tuple[Figure, str]:
    losses = record.rows("loss", panel="b")
    gain = gain_panel(record.frames["paired"], losses, "first draw")
    rows = optima(record, "best_train_rate")
    simulation, band = banded(rows, "draw")
    best = Lines(
        series={"simulation": simulation, "theory": (rows["draw"], rows["theory"])},
        x_label="draw of the covariances",
        y_label="best train rate",
        title="all draws",
        bands={"simulation": band},
    )
    text = (
        "Difference of the test loss to that without an inner step in training (alpha_t = 0), "
        "taken run by run, in percent, two standard errors shaded, with the theory. And the best "
        "train rate for each draw of the covariances of inputs and tasks."
    )
    figure = line_figure(gain, best, shared_legend=True)
    figure.axes[1].set_xticks(rows["draw"][:: max(1, len(rows) // 5)])
    return figure, text
