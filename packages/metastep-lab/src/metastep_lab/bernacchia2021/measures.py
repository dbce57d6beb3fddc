"""Claims and panels that the experiments on mixed linear regression share."""

import numpy as np

from metastep_lab.claims import Statement
from metastep_lab.figures.style import Lines
from metastep_lab.tables import Column, Frame, Record

MORE_RUNS = "More runs would decide: the standard errors are too large for that."
LEADING_ORDER = "The theorem is leading order; at these sizes what it neglects is above the bar."


def decided(off: Column, error: Column, bar: Column | float) -> bool | None:
    """Whether deviations are within bars: None where three standard errors leave it open.

    None for no deviations, too.
    """
    if np.any(np.abs(off) - 3 * error > bar):
        return False
    # `all` of no deviations is true.
    return bool(len(off) and np.all(np.abs(off) + 3 * error <= bar)) or None


def theory_errors(rows: Frame) -> Frame:
    """Return the theory minus the simulation in rows of `loss`, in percent of the simulation."""
    return 100 * (rows["theory"] / rows["simulated"] - 1)


def _scores(record: Record) -> Frame:
    rows = record.frames["test_data"]
    return rows.assign(z=(rows["difference"] / rows["standard_error"]).abs())


def analytic_test_loss(equation: int, counted: str) -> Statement:
    """Return the claim that the loss on drawn tasks is the analytic one of an equation."""
    return Statement(
        "analytic-test-loss",
        f"Eq. {equation}: the loss on drawn test tasks is the analytic one, within four standard "
        "errors.",
        lacks=lambda record: (
            "no run was tested on drawn tasks" if record.frames["test_data"].empty else None
        ),
        measure=_scores,
        verdict=lambda rows: (rows["z"] <= 4).all(),
        evidence=lambda rows: (
            f"{len(rows)} (correlated) {counted}: largest |z| {rows['z'].max():.2f}, largest "
            f"difference {rows['difference'].abs().max():.2g}"
        ),
        reasons={
            False: "With a handful of runs the standard error is itself far off; with many, this "
            "is an error of the program."
        },
    )


def banded(rows: Frame, along: str, value: str = "simulated", errors: float = 2) -> tuple:
    """Return a curve and its band of some standard errors, as `Lines` takes them."""
    mean, error = rows[value], errors * rows["standard_error"]
    return (rows[along], mean), (mean - error, mean + error)


def loss_panel(rows: Frame, along: str, title: str) -> Lines:
    """Return a panel of rows of `loss` along `train_rate` or `test_rate`."""
    simulation, band = banded(rows, along)
    symbol = {"train_rate": "train rate alpha_t", "test_rate": "test rate alpha_r"}[along]
    return Lines(
        series={"simulation": simulation, "theory": (rows[along], rows["theory"])},
        x_label=symbol,
        y_label="test loss",
        title=title,
        bands={"simulation": band},
    )


def gain_panel(paired: Frame, losses: Frame, title: str) -> Lines:
    """Return a panel of the gain of every train rate over train rate 0, in percent of the loss.

    The rows of `paired` and of `loss` are those of one panel; train rate 0 is among the latter.
    """
    zero = losses[losses["train_rate"] == 0].iloc[0]
    numbers = ["difference", "standard_error"]
    paired = paired.assign(**(100 / zero["simulated"] * paired[numbers]))
    gain, band = banded(paired, "train_rate", "difference")
    theory = 100 * (losses["theory"] / zero["theory"] - 1)
    return Lines(
        series={"simulation": gain, "theory": (losses["train_rate"], theory)},
        x_label="train rate alpha_t",
        y_label="loss minus loss at 0 (%)",
        title=title,
        bands={"simulation": band},
    )
