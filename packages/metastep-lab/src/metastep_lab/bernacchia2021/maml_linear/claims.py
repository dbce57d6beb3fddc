"""The claims of `maml-linear`, statements of the paper, and its answer."""

from collections.abc import Callable

import numpy as np

from metastep_lab.bernacchia2021.maml_linear.sweep_claims import SWEEPS
from metastep_lab.bernacchia2021.measures import (
    LEADING_ORDER,
    MORE_RUNS,
    analytic_test_loss,
    decided,
    theory_errors,
)
from metastep_lab.claims import Numbers, Statement, beyond, each, lacking, yes_or_no
from metastep_lab.tables import Frame, Record

ACCURATE = 2.0
"""Percent of the loss within which the theory is called accurate."""
INACCURATE = 10.0
FAR_APART = 8
"""Parameters over equations, or the inverse, from which a regime is called strong."""


def by_setting(record: Record, table: str) -> Frame:
    """Return a table with the name and the kind of the setting of each row."""
    settings = {one.setting: one for one in record.config.settings()}
    rows = record.frames[table]
    figures = rows["figure"].astype(int).astype(str)
    # A figure with panels along both rates is one setting, named by its number; else every panel
    # is.
    names = figures.where(figures.isin(settings.keys()), figures + rows["panel"])
    of = [settings[name] for name in names]
    sizes = np.array([(one.dim, one.equations) for one in of])
    return rows.assign(
        setting=names,
        overparameterized=sizes[:, 0] > sizes[:, 1],
        underparameterized=sizes[:, 0] <= sizes[:, 1],
        # p and N differ by factors of 10 and 33 in Figures 2 and 3, of 25, 2, 2 and 8 in Figure 6.
        strong=sizes.max(axis=1) >= FAR_APART * sizes.min(axis=1),
        both_rates=[one.both_rates for one in of],
    )


def _optima(record: Record, *quantities: str) -> Frame:
    rows = by_setting(record, "optimum")
    return rows[rows["quantity"].isin(quantities)]


def _errors(record: Record) -> Frame:
    """Return the theory's error in percent over all panels, and three standard errors of it."""
    rows = by_setting(record, "loss")
    noise = 300 * rows["standard_error"] / rows["simulated"]
    return rows.assign(error=theory_errors(rows), noise=noise)


def _positive(rows: Frame, sign: int = 1) -> bool | None:
    """Whether the simulated values, or their opposites, are above 0 by three standard errors."""
    return beyond(sign * rows["simulated"], 3 * rows["standard_error"])


def answer(record: Record) -> str:
    """Say where the best train rate is negative, its gain, and the error of the theory."""
    rows = _optima(record, "best_train_rate", "gain")
    below = [_positive(part, -1) for _, part in rows.groupby("setting")]
    if all(one is None for one in below):
        return "This run cannot tell: no best train rate is clear of 0 by three standard errors."
    found = {
        quantity: _optima(record, quantity).set_index("setting")["simulated"]
        for quantity in ("best_train_rate", "gain", "loss_at_zero")
    }
    rates, shares = found["best_train_rate"], -100 * found["gain"] / found["loss_at_zero"]
    worst = _errors(record).set_index("setting")["error"].abs().groupby("setting").max()
    near = (worst <= ACCURATE).sum()
    rest = f", and is off by up to {worst.max():.0f} % in the others" if near < len(worst) else ""
    return (
        f"{yes_or_no(below)}. In {sum(map(bool, below))} of {len(below)} settings the best train "
        f"rate is clearly negative. The best ones are {rates.min():.2f} to {rates.max():.2f}, and "
        f"those of the theory lower the test loss by {shares.min():.2g} to {shares.max():.2g} % "
        f"against a rate of 0. The theory predicts the loss within {ACCURATE:g} % in {near} of "
        f"{len(worst)} settings{rest}."
    )


def _listed(rows: Frame) -> str:
    return each("Fig. {setting} {simulated:.4g}±{standard_error:.2g} ({theory:.4g})")(rows)


def _ranges(rows: Frame) -> str:
    ends = rows.groupby("setting", sort=False)["error"].agg(["min", "max"])
    return each("Fig. {setting} {min:+.2f} % to {max:+.2f} %", "theory minus simulation: ")(ends)


def _negative(regime: str, section: str) -> Statement:
    def evidence(rows: Frame) -> str:
        gains, best = (rows[rows["quantity"] == name] for name in ("gain", "best_train_rate"))
        return (
            "loss at the theory's best train rate minus loss at 0, simulated (theory): "
            f"{_listed(gains)}. Best train rate: {_listed(best)}"
        )

    return Statement(
        f"negative-train-rate-{regime}",
        f"{section}: in {regime} models the best train rate is negative (here: it is, and the "
        "theory's is better than 0, by three standard errors in every setting).",
        lacks=lacking(
            f"needs an {regime} setting", lambda record: by_setting(record, "loss")[regime].any()
        ),
        measure=lambda record: _optima(record, "gain", "best_train_rate").query(regime),
        verdict=lambda rows: _positive(rows, -1),
        evidence=evidence,
        reasons={None: MORE_RUNS},
    )


def _slopes(record: Record) -> Numbers:
    leading = each("Fig. {setting} {theory:.4g}")(_optima(record, "leading_slope"))
    return {"rows": _optima(record, "slope_at_zero"), "leading": leading}


def _near_eq_8(rows: Frame) -> bool | None:
    strong = rows.query("strong")
    off, bar = strong["simulated"] - strong["theory"], 0.1 * strong["theory"].abs()
    # `all` of no rows is true.
    return None if strong.empty else decided(off, strong["standard_error"], bar)


def _test_rates(record: Record) -> Frame:
    """Return the best test rates, and the bounds below which they are positive."""
    settings = {one.setting: one for one in record.config.settings()}
    rows = _optima(record, "best_test_rate")
    of = [settings[name] for name in rows["setting"]]
    # Sections 5.1 and 5.2: the loss is a sum of two parabolas of the test rate, with minima at 0
    # and here.
    return rows.assign(bound=[1 / (1 + (one.dim + 1) / one.target_samples) for one in of])


def _underestimates(rows: Frame) -> bool | None:
    """Whether the theory is below the simulation at every rate, by three standard errors."""
    if (rows["error"] + rows["noise"] < 0).all():
        return True
    return False if (rows["error"] - rows["noise"] > 0).any() else None


def _accurate_where_strong(rows: Frame) -> bool | None:
    worst = rows["error"].abs().groupby([rows["strong"], rows["setting"]]).max()
    if len(worst.index.unique("strong")) < 2:
        return None
    # By its worst rate a setting is accurate or not: every strong one has to be, and no other.
    return worst[True].max() <= ACCURATE and worst[False].min() > INACCURATE


def _scores(record: Record) -> Frame:
    rows = _optima(record, "loss_at_zero", "slope_at_zero")
    z = (rows["simulated"] - rows["theory"]) / rows["standard_error"]
    return rows.assign(z=z.abs())


def _of(kind: str) -> Callable[[Record], Frame]:
    return lambda record: by_setting(record, "loss").query(kind)


BOTH = "a setting with panels along both rates"

CLAIMS = (
    _negative("overparameterized", "Section 5.1, Figure 2b"),
    _negative("underparameterized", "Section 5.2, Figure 3b"),
    Statement(
        "slope-positive",
        "Eq. 10: the loss increases with the train rate at 0, so that a small negative one helps "
        "(here: by three standard errors).",
        measure=_slopes,
        verdict=lambda found: _positive(found["rows"]),
        evidence=lambda found: (
            f"slope, simulated (exact): {_listed(found['rows'])}. Leading order: {found['leading']}"
        ),
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "eq-8",
        "Eq. 8 gives the train rates of the smallest and of the largest loss from dim and "
        "train_samples alone (here: in strongly overparameterized models the simulation has them "
        "within a tenth, by three standard errors).",
        measure=lambda record: _optima(record, "best_train_rate", "worst_train_rate").query(
            "overparameterized"
        ),
        verdict=_near_eq_8,
        evidence=lambda rows: (
            "simulated (Eq. 8), weakly overparameterized settings included: " + _listed(rows)
        ),
        reasons={
            None: "The loss is level near its extremes, so that their places have large standard "
            "errors: more runs would decide.",
            False: LEADING_ORDER,
        },
    ),
    Statement(
        "positive-test-rate",
        "Figures 2a and 3a: the best test rate is positive, and below 1 / (1 + (p + 1) / n_r).",
        lacks=lacking(f"needs {BOTH}", _of("both_rates")),
        measure=_test_rates,
        verdict=lambda rows: _positive(rows) and (rows["simulated"] < rows["bound"]).all(),
        evidence=lambda rows: (
            f"simulated (theory): {_listed(rows)}; bounds "
            + ", ".join(f"{bound:.4g}" for bound in rows["bound"])
        ),
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "theory-accurate",
        "Figures 2 and 3: theory and simulation agree well (here: within "
        f"{ACCURATE:g} % of the loss as measured, with no allowance for the simulation's error).",
        lacks=lacking(f"needs {BOTH}", _of("both_rates")),
        measure=lambda record: _errors(record).query("both_rates"),
        verdict=lambda rows: (rows["error"].abs() <= ACCURATE).all(),
        evidence=_ranges,
        reasons={
            False: f"{LEADING_ORDER} With few runs the simulation's own error is in the numbers."
        },
    ),
    Statement(
        "theory-underestimates",
        "Section 5.1, Figure 2b: the theory slightly underestimates the experimental loss.",
        lacks=lacking(
            f"needs an overparameterized {BOTH[2:]}", _of("both_rates and overparameterized")
        ),
        measure=lambda record: _errors(record).query(
            "both_rates and overparameterized and panel == 'b'"
        ),
        verdict=_underestimates,
        evidence=_ranges,
        reasons={
            None: "Some deviations are smaller than three standard errors: more runs would decide.",
        },
    ),
    Statement(
        "accurate-where-strong",
        "Figure 6: the theory is accurate in strongly over- and underparameterized models (a, d) "
        f"and not in weakly parameterized ones (b, c) (here: within {ACCURATE:g} % of the loss, "
        "and off by more than a tenth).",
        measure=lambda record: _errors(record).query("not both_rates"),
        verdict=_accurate_where_strong,
        evidence=_ranges,
        reasons={
            None: "Needs settings of both kinds, as the panels of Figure 6.",
            False: "The simulation's own error is in these numbers: more runs would tell.",
        },
    ),
    Statement(
        "exact-at-zero",
        "Not in the paper: at train rate 0 loss and slope are known exactly for finite sizes; the "
        "simulation agrees within four standard errors.",
        measure=_scores,
        verdict=lambda rows: (rows["z"] <= 4).all(),
        evidence=lambda rows: (
            f"{len(rows)} numbers, largest |z| {rows['z'].max():.2f}: "
            + each("Fig. {setting} {simulated:.6g}±{standard_error:.2g} ({theory:.6g})")(rows)
        ),
        reasons={
            False: "With a handful of runs the standard error is itself far off; with many, this "
            "is an error of the program."
        },
    ),
    analytic_test_loss(65, "test rates and settings"),
    *SWEEPS,
)
