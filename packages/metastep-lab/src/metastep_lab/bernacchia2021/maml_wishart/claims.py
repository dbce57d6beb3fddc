"""What the tables of `maml-wishart` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.bernacchia2021.curves import gain_panel, loss_panel, theory_errors
from metastep_lab.claims import Claim, span, yes_or_no
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, select

ACCURATE = 5.0
"""Percent of the loss within which the theory is called a good approximation."""


def answer(record: Record) -> str:
    """Say in how many draws of the covariances the best rate is negative, and what it gains."""
    best, found, error = _numbers(record, "best_train_rate")
    _, gain, noise = _numbers(record, "gain")
    verdicts = [
        _below_zero(np.array(values), np.array(errors))
        for *values, errors in zip(found, gain, zip(error, noise, strict=True), strict=True)
    ]
    several = sum(map(bool, verdicts))
    if all(verdict is None for verdict in verdicts):
        opening = "This run cannot tell"
    else:
        opening = yes_or_no(verdicts)
    losses = select(record.tables["loss"], panel="b", train_rate=0.0)["simulated"]
    share, off = (100 * abs(value[0]) / losses[0] for value in (gain, noise))
    lower = "lower" if gain[0] < 0 else "higher"
    return (
        f"{opening}. In {several} of {len(best)} draws of the correlations it is negative by more "
        f"than three standard errors: simulated {span(found, '.2f')}, in theory "
        f"{span(best, '.2f')}. In the first draw the theory's rate makes the test loss "
        f"{share:.1f}±{off:.1f} % {lower} than training without an inner step."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold section 5.3 against the tables."""
    return (
        _train_rate_claim(record),
        _every_draw_claim(record),
        _test_rate_claim(record),
        _accuracy_claim(record),
        _test_data_claim(record),
    )


def _numbers(record: Record, quantity: str) -> tuple[np.ndarray, ...]:
    """Return theory, simulation and its standard error, draw by draw."""
    table = select(record.tables["optimum"], quantity=quantity)
    return table["theory"], table["simulated"], table["standard_error"]


def _below_zero(value: np.ndarray, error: np.ndarray) -> bool | None:
    """Whether numbers are all negative by three standard errors; None if undecided."""
    if np.all(value + 3 * error < 0):
        return True
    return False if np.any(value - 3 * error > 0) else None


def _train_rate_claim(record: Record) -> Claim:
    (best, found, error), (less, gain, noise) = (
        [column[0] for column in _numbers(record, quantity)]
        for quantity in ("best_train_rate", "gain")
    )
    return Claim(
        "negative-train-rate",
        "Section 5.3, Figure 4b: the best train rate appears to be negative with Wishart "
        "covariances, too (here: by three standard errors, and better than 0 by as many).",
        _below_zero(np.array([found, gain]), np.array([error, noise])),
        f"best train rate {found:.4g} ± {error:.2g} (theory {best:.4g}); loss there minus loss at "
        f"0: {gain:.4g} ± {noise:.2g} (theory {less:.4g})",
    )


def _every_draw_claim(record: Record) -> Claim:
    best, found, _ = _numbers(record, "best_train_rate")
    _, gain, error = _numbers(record, "gain")
    return Claim(
        "negative-for-every-draw",
        "Not in the paper, which has one draw: the theory's best train rate is negative for every "
        "draw of the covariances, and better than 0 in the simulation.",
        _below_zero(np.append(gain, best), np.append(error, 0 * best)) if len(best) > 1 else None,
        f"{len(best)} draws: theory {best.min():.3g} to {best.max():.3g}, simulated "
        f"{found.min():.3g} to {found.max():.3g}; gain over 0 by {np.min(-gain / error):.1f} "
        "standard errors or more",
    )


def _test_rate_claim(record: Record) -> Claim:
    best, found, error = _numbers(record, "best_test_rate")
    return Claim(
        "positive-test-rate",
        "Section 5.3, Figure 4a: the loss has a unique minimum along the test rate, at a positive "
        "one.",
        _below_zero(-found, error),
        f"{len(best)} draws: simulated {found.min():.4g} to {found.max():.4g}, theory "
        f"{best.min():.4g} to {best.max():.4g}",
    )


def _accuracy_claim(record: Record) -> Claim:
    table = record.tables["loss"]
    errors = theory_errors(table)
    expected, found, _ = _numbers(record, "loss")
    others = 100 * (expected / found - 1)
    return Claim(
        "theory-accurate",
        "Section 5.3: there is good agreement between theory and experiment (here: within "
        f"{ACCURATE:g} % of the loss as measured).",
        bool(np.all(np.abs(errors) <= ACCURATE)),
        f"theory minus simulation: {errors.min():+.2f} % to {errors.max():+.2f} % over both "
        f"panels; over draws of the covariances, at the configured rates, {others.min():+.2f} % to "
        f"{others.max():+.2f} %",
    )


def _test_data_claim(record: Record) -> Claim:
    table = record.tables["test_data"]
    scores = (
        np.abs(table["difference"] / table["standard_error"]) if len(table["analytic"]) else None
    )
    return Claim(
        "analytic-test-loss",
        "Eq. 123: the loss on drawn test tasks is the analytic one, within four standard errors.",
        bool(np.max(scores) <= 4) if scores is not None else None,
        f"{len(scores)} (correlated) test rates: largest |z| {np.max(scores):.2f}, largest "
        f"difference {np.max(np.abs(table['difference'])):.2g}"
        if scores is not None
        else "no run was tested on drawn tasks",
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 4, the gain over train rate 0, and the optima of all draws."""
    table = record.tables["loss"]
    a, b = select(table, panel="a"), select(table, panel="b")
    figure_4 = line_figure(
        loss_panel(a, "test_rate", "4a: test rate"),
        loss_panel(b, "train_rate", "4b: train rate"),
        shared_legend=True,
    )
    text = (
        "Expected test loss of MAML with inputs and tasks whose correlations were drawn at random "
        "(Wishart covariances), against both inner learning rates, that of use (alpha_r) and that "
        "of meta-training (alpha_t): exact simulation, with two standard errors shaded, and the "
        "theory, Theorem 3."
    )
    return {"figure-4": (figure_4, text), "gain": _gain_figure(record)}


def _gain_figure(record: Record) -> tuple[Figure, str]:
    losses = select(record.tables["loss"], panel="b")
    gain = gain_panel(record.tables["paired"], losses, "first draw")
    best, found, error = _numbers(record, "best_train_rate")
    draws = np.arange(len(best))
    optima = Lines(
        series={"simulation": (draws, found), "theory": (draws, best)},
        x_label="draw of the covariances",
        y_label="best train rate",
        title="all draws",
        bands={"simulation": (found - 2 * error, found + 2 * error)},
    )
    text = (
        "Difference of the test loss to that without an inner step in training (alpha_t = 0), "
        "taken run by run, in percent, two standard errors shaded, with the theory. And the best "
        "train rate for each draw of the covariances of inputs and tasks."
    )
    figure = line_figure(gain, optima, shared_legend=True)
    figure.axes[1].set_xticks(draws[:: max(1, len(draws) // 5)])
    return figure, text
