"""What the tables of `maml-linear` say: its answer, claims and figures."""

from collections.abc import Iterable, Mapping

import numpy as np

from metastep_lab.bernacchia2021.curves import gain_panel, loss_panel, theory_errors
from metastep_lab.claims import Claim, yes_or_no
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, select

ACCURATE = 2.0
"""Percent of the loss within which the theory is called accurate."""
INACCURATE = 10.0
FAR_APART = 8
"""Parameters over equations, or the inverse, from which a regime is called strong."""


def answer(record: Record) -> str:
    """Say where the best train rate is negative, what it gains, and how near the theory is."""
    settings, zeros = record.config.settings(), _optima(record, "loss_at_zero")
    best, gains = (_optima(record, name) for name in ("best_train_rate", "gain"))
    below = [
        _positive([(*row[:2], -row[2], row[3]) for row in pair])
        for pair in zip(best, gains, strict=True)
    ]
    opening = yes_or_no(below)
    if all(one is None for one in below):
        return "This run cannot tell: no best train rate is clear of 0 by three standard errors."
    rates = [row[2] for row in best]
    shares = [-100 * gain[2] / zero[2] for gain, zero in zip(gains, zeros, strict=True)]
    near = sum(_accurate(record, setting) for setting in settings)
    worst = max(np.max(np.abs(_errors(record, setting)[0])) for setting in settings)
    rest = "" if near == len(settings) else f", and is off by up to {worst:.0f} % in the others"
    return (
        f"{opening}. In {sum(map(bool, below))} of {len(settings)} settings the best train rate is "
        f"clearly negative. The best ones are {min(rates):.2f} to {max(rates):.2f}, and those of "
        f"the theory lower the test loss by {min(shares):.2g} to {max(shares):.2g} % against a "
        f"rate of 0. The theory predicts the loss within {ACCURATE:g} % in {near} of "
        f"{len(settings)} settings{rest}."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold sections 5.1 and 5.2 against the tables."""
    return (
        _negative_claim(record, "overparameterized"),
        _negative_claim(record, "underparameterized"),
        _slope_claim(record),
        _extrema_claim(record),
        _test_rate_claim(record),
        _accuracy_claim(record),
        _underestimate_claim(record),
        _transition_claim(record),
        _exact_claim(record),
        _test_data_claim(record),
    )


def _optima(record: Record, *quantities: str, regime: str = "") -> list[tuple]:
    """Return (setting, theory, simulated, standard error) of quantities, setting by setting."""
    found = []
    for setting in record.config.settings():
        if regime and regime != _regime(setting):
            continue
        for quantity in quantities:
            panel = "a" if quantity == "best_test_rate" else setting.panel
            where = {"figure": setting.figure, "panel": panel, "quantity": quantity}
            row = select(record.tables["optimum"], **where)
            numbers = (row[name] for name in ("theory", "simulated", "standard_error"))
            found += [(setting, *values) for values in zip(*numbers, strict=True)]
    return found


def _regime(setting) -> str:
    return "overparameterized" if setting.dim > setting.equations else "underparameterized"


def _strong(setting) -> bool:
    sizes = setting.dim, setting.equations
    return max(sizes) >= FAR_APART * min(sizes)


def _verdict(lowest: Iterable[float], highest: Iterable[float]) -> bool | None:
    """Whether numbers known up to an interval are all positive; None if that is undecided."""
    lowest, highest = np.array([*lowest]), np.array([*highest])
    if lowest.size and np.all(lowest > 0):
        return True
    return False if np.any(highest < 0) else None


def _positive(rows: list[tuple]) -> bool | None:
    """Whether the simulated values are all positive, by three standard errors."""
    return _verdict((x - 3 * e for *_, x, e in rows), (x + 3 * e for *_, x, e in rows))


def _listed(rows: list[tuple], digits: int = 4) -> str:
    return "; ".join(
        f"Fig. {setting.setting} {simulated:.{digits}g}±{error:.2g} ({expected:.{digits}g})"
        for setting, expected, simulated, error in rows
    )


def _negative_claim(record: Record, regime: str) -> Claim:
    gains = _optima(record, "gain", regime=regime)
    best = _optima(record, "best_train_rate", regime=regime)
    section = "Section 5.1, Figure 2b" if regime[0] == "o" else "Section 5.2, Figure 3b"
    better = [(setting, -expected, -gain, error) for setting, expected, gain, error in gains]
    negative = [(setting, -expected, -rate, error) for setting, expected, rate, error in best]
    return Claim(
        f"negative-train-rate-{regime}",
        f"{section}: in {regime} models the best train rate is negative (here: it is, and the "
        "theory's is better than 0, by three standard errors in every setting).",
        _positive(better + negative),
        "loss at the theory's best train rate minus loss at 0, simulated (theory): "
        + (_listed(gains) or "no such setting")
        + ". Best train rate: "
        + (_listed(best) or "no such setting"),
    )


def _slope_claim(record: Record) -> Claim:
    rows = _optima(record, "slope_at_zero")
    leading = _optima(record, "leading_slope")
    return Claim(
        "slope-positive",
        "Eq. 10: the loss increases with the train rate at 0, so that a small negative one helps "
        "(here: by three standard errors).",
        _positive(rows),
        "slope, simulated (exact): "
        + _listed(rows)
        + ". Leading order: "
        + "; ".join(f"Fig. {setting.setting} {expected:.4g}" for setting, expected, *_ in leading),
    )


def _extrema_claim(record: Record) -> Claim:
    rows = _optima(record, "best_train_rate", "worst_train_rate", regime="overparameterized")
    strong = [row for row in rows if _strong(row[0])]
    near = [abs(x - y) <= 0.1 * abs(y) + 3 * error for _, y, x, error in strong]
    return Claim(
        "eq-8",
        "Eq. 8 gives the train rates of the smallest and of the largest loss from dim and "
        "train_samples alone (here: in strongly overparameterized models the simulation has them "
        "within a tenth and three standard errors; nothing else is swept).",
        all(near) if near else None,
        "simulated (Eq. 8), weakly overparameterized settings included: " + _listed(rows),
    )


def _test_rate_claim(record: Record) -> Claim:
    rows = _optima(record, "best_test_rate")
    bounds = [1 / (1 + (setting.dim + 1) / setting.target_samples) for setting, *_ in rows]
    inside = [bound - x for bound, (_, _, x, _) in zip(bounds, rows, strict=True)]
    holds = _positive(rows)
    return Claim(
        "positive-test-rate",
        "Figures 2a and 3a: the best test rate is positive, and below 1 / (1 + (p + 1) / n_r).",
        holds and min(inside) > 0,
        "simulated (theory): "
        + (_listed(rows) or "no setting with a panel along the test rate")
        + "; bounds "
        + ", ".join(f"{bound:.4g}" for bound in bounds),
    )


def _errors(record: Record, setting) -> tuple[np.ndarray, np.ndarray]:
    """Return the theory's error in percent over all panels of a setting, and what noise adds."""
    panels = ("a", "b") if setting.both_rates else (setting.panel,)
    tables = [select(record.tables["loss"], figure=setting.figure, panel=panel) for panel in panels]
    noise = [300 * table["standard_error"] / table["simulated"] for table in tables]
    return np.concatenate([theory_errors(table) for table in tables]), np.concatenate(noise)


def _ranges(record: Record, settings: list) -> str:
    ranges = ((setting.setting, _errors(record, setting)[0]) for setting in settings)
    return "; ".join(f"Fig. {name} {e.min():+.2f} % to {e.max():+.2f} %" for name, e in ranges)


def _accurate(record: Record, setting) -> bool:
    return bool(np.all(np.abs(_errors(record, setting)[0]) <= ACCURATE))


def _accuracy_claim(record: Record) -> Claim:
    settings = [setting for setting in record.config.settings() if setting.both_rates]
    return Claim(
        "theory-accurate",
        "Figures 2 and 3: theory and simulation agree well (here: within "
        f"{ACCURATE:g} % of the loss as measured, with no allowance for the simulation's error).",
        all(_accurate(record, setting) for setting in settings) if settings else None,
        "theory minus simulation: " + (_ranges(record, settings) or "no such setting"),
    )


def _underestimate_claim(record: Record) -> Claim:
    settings = [
        setting
        for setting in record.config.settings()
        if setting.both_rates and _regime(setting) == "overparameterized"
    ]
    checks = [_errors(record, setting) for setting in settings]
    lowest = [-(errors + noise).max() for errors, noise in checks]
    highest = [-(errors - noise).max() for errors, noise in checks]
    return Claim(
        "theory-underestimates",
        "Section 5.1, Figure 2: the theory slightly underestimates the experimental loss.",
        _verdict(lowest, highest),
        "theory minus simulation: " + (_ranges(record, settings) or "no such setting"),
    )


def _transition_claim(record: Record) -> Claim:
    settings = [setting for setting in record.config.settings() if not setting.both_rates]
    strong = [setting for setting in settings if _strong(setting)]
    weak = [setting for setting in settings if not _strong(setting)]
    worst = [np.max(np.abs(_errors(record, setting)[0])) for setting in weak]
    accurate = all(_accurate(record, setting) for setting in strong)
    return Claim(
        "accurate-where-strong",
        "Figure 6: the theory is accurate in strongly over- and underparameterized models (a, d) "
        f"and not in weakly parameterized ones (b, c) (here: within {ACCURATE:g} % of the loss, "
        "and off by more than a tenth).",
        bool(accurate and min(worst) > INACCURATE) if strong and weak else None,
        "theory minus simulation: " + (_ranges(record, settings) or "no such setting"),
    )


def _exact_claim(record: Record) -> Claim:
    rows = _optima(record, "loss_at_zero", "slope_at_zero")
    scores = [(simulated - expected) / error for _, expected, simulated, error in rows]
    return Claim(
        "exact-at-zero",
        "Not in the paper: at train rate 0 loss and slope are known exactly for finite sizes; the "
        "simulation agrees within four standard errors.",
        bool(np.max(np.abs(scores)) <= 4),
        f"{len(scores)} numbers, largest |z| {np.max(np.abs(scores)):.2f}: " + _listed(rows, 6),
    )


def _test_data_claim(record: Record) -> Claim:
    table = record.tables["test_data"]
    scores = np.abs(table["difference"] / table["standard_error"]) if len(table["figure"]) else None
    return Claim(
        "analytic-test-loss",
        "Eq. 65: the loss on drawn test tasks is the analytic one, within four standard errors.",
        bool(np.max(scores) <= 4) if scores is not None else None,
        f"{len(scores)} (correlated) test rates and settings: largest |z| {np.max(scores):.2f}, "
        f"largest difference {np.max(np.abs(table['difference'])):.2g}"
        if scores is not None
        else "no run was tested on drawn tasks",
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the figures of the paper, and the gain of every train rate over 0."""
    drawn: dict[str, list[Lines]] = {}
    for setting in record.config.settings():
        panels = drawn.setdefault(f"figure-{setting.figure}", [])
        for panel in ("a", "b") if setting.both_rates else (setting.panel,):
            table = select(record.tables["loss"], figure=setting.figure, panel=panel)
            along = "test_rate" if setting.both_rates and panel == "a" else "train_rate"
            panels.append(loss_panel(table, along, _title(setting, panel)))
    text = (
        "Expected test loss of MAML on mixed linear regression against an inner learning rate, "
        "that of meta-training (train rate alpha_t) or that of use (test rate alpha_r): exact "
        "simulation, with two standard errors shaded, and theory. p is the number of parameters, N "
        "that of validation examples over all training tasks."
    )
    pictures = {
        name: (line_figure(*panels, shared_legend=True), text) for name, panels in drawn.items()
    }
    return pictures | {"gain": _gain_figure(record)}


def _title(setting, panel: str) -> str:
    return f"{setting.figure}{panel}: p = {setting.dim}, N = {setting.equations}"


def _gain_figure(record: Record) -> tuple[Figure, str]:
    panels = []
    for setting in record.config.settings():
        where = {"figure": setting.figure, "panel": setting.panel}
        paired, losses = (select(record.tables[name], **where) for name in ("paired", "loss"))
        panels.append(gain_panel(paired, losses, _title(setting, setting.panel)))
    text = (
        "Difference of the test loss to that without an inner step in training, in percent: "
        "simulation, taken run by run, with two standard errors shaded, and theory. Below 0 the "
        "train rate is better than none. p is the number of parameters, N that of validation "
        "examples over all training tasks."
    )
    return line_figure(*panels, shared_legend=True), text
