"""The claims of `maml-wishart`, statements of the paper, and its answer."""

import numpy as np
import pandas as pd

from metastep_lab.bernacchia2021.measures import (
    LEADING_ORDER,
    MORE_RUNS,
    analytic_test_loss,
    decided,
    theory_errors,
)
from metastep_lab.claims import Numbers, Statement, beyond, each, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record

ACCURATE = 5.0
"""Percent of the loss within which the theory is called a good approximation."""


def optima(record: Record, quantity: str) -> Frame:
    """Return theory, simulation and its standard error of a quantity, by draw."""
    return record.rows("optimum", quantity=quantity).reset_index(drop=True)


def _both(record: Record) -> tuple[Frame, Frame]:
    return optima(record, "best_train_rate"), optima(record, "gain")


def _negative(best: Frame, gain: Frame) -> bool | None:
    """Whether a best train rate and its gain are below 0 by three standard errors."""
    both = [best, gain]
    value, error = ([row[name] for row in both] for name in ("simulated", "standard_error"))
    return beyond(-np.array(value), 3 * np.array(error))


def answer(record: Record) -> str:
    """Say in how many draws of the covariances the best rate is negative, and its gain."""
    best, gains = _both(record)
    verdicts = [_negative(best.loc[draw], gains.loc[draw]) for draw in best.index]
    opening = yes_or_no(verdicts) if set(verdicts) != {None} else "This run cannot tell"
    loss = record.rows("loss", panel="b", train_rate=0.0)["simulated"].iloc[0]
    gain, error = gains["simulated"][0], gains["standard_error"][0]
    return (
        f"{opening}. In {sum(map(bool, verdicts))} of {len(best)} draws of the correlations it is "
        f"negative by more than three standard errors: simulated "
        f"{span(best['simulated'], '.2f')}, in theory {span(best['theory'], '.2f')}. In the first "
        f"draw the theory's rate makes the test loss {100 * abs(gain / loss):.1f}±"
        f"{100 * abs(error / loss):.1f} % {'lower' if gain < 0 else 'higher'} than training "
        "without an inner step."
    )


def _every_draw(record: Record) -> Numbers:
    best, gains = _both(record)
    # The theory has no standard error.
    values = -np.append(gains["simulated"], best["theory"])
    margins = 3 * np.append(gains["standard_error"], np.zeros(len(best)))
    least = (-gains["simulated"] / gains["standard_error"]).min()
    return {"best": best, "values": values, "margins": margins, "least": least}


def _errors(record: Record) -> Numbers:
    return {
        "panels": theory_errors(record.frames["loss"]),
        "draws": theory_errors(optima(record, "loss")),
    }


def _moments(record: Record) -> Frame:
    """Return the rows of `moments` that are not those of normal inputs."""
    return record.frames["moments"].query("skewness != 0 or kurtosis != 3")


_has_moments = lacking("no moments were varied", lambda record: len(_moments(record)))


def _by_moments(rows: Frame) -> str:
    return "theory minus simulation: " + "; ".join(
        f"skewness {skewness:g}, kurtosis {kurtosis:g} {span(part, '+.2f')} %"
        for (skewness, kurtosis), part in rows.groupby(["skewness", "kurtosis"])["error"]
    )


def _ends(record: Record) -> Frame:
    rows = _moments(record)
    return rows[rows["train_rate"].isin([rows["train_rate"].min(), rows["train_rate"].max()])]


def _skewed(record: Record) -> Frame:
    """Return the change of the loss in percent from the first to other skewnesses."""
    found = []
    for _, part in _moments(record).groupby("kurtosis"):
        first, *others = (rows for _, rows in part.groupby("skewness"))
        for rows in others:
            shift = rows["change"].to_numpy() - first["change"].to_numpy()
            error = np.hypot(rows["change_error"].to_numpy(), first["change_error"].to_numpy())
            scale = 100 / first["simulated"].to_numpy()
            found.append(pd.DataFrame({"shift": scale * shift, "error": scale * error}))
    return pd.concat(found) if found else pd.DataFrame()


CLAIMS = (
    Statement(
        "negative-train-rate",
        "Section 5.3, Figure 4b: the best train rate appears to be negative with Wishart "
        "covariances, too (here: by three standard errors, and better than 0 by as many).",
        measure=lambda record: [rows.iloc[0] for rows in _both(record)],
        verdict=lambda found: _negative(*found),
        evidence=lambda found: (
            "best train rate {simulated:.4g} ± {standard_error:.2g} (theory {theory:.4g}); ".format(
                **found[0]
            )
            + "loss there minus loss at 0: {simulated:.4g} ± {standard_error:.2g} (theory "
            "{theory:.4g})".format(**found[1])
        ),
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "negative-for-every-draw",
        "Not in the paper, which has one draw: the theory's best train rate is negative for every "
        "draw of the covariances, and better than 0 in the simulation.",
        lacks=lacking(
            "needs two draws of the covariances", lambda record: len(optima(record, "gain")) > 1
        ),
        measure=_every_draw,
        verdict=lambda found: beyond(found["values"], found["margins"]),
        evidence=lambda found: (
            f"{len(found['best'])} draws: theory {span(found['best']['theory'])}, simulated "
            f"{span(found['best']['simulated'])}; gain over 0 by {found['least']:.1f} standard "
            "errors or more"
        ),
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "positive-test-rate",
        "Section 5.3, Figure 4a: the loss has a unique minimum along the test rate, at a positive "
        "one.",
        measure=lambda record: optima(record, "best_test_rate"),
        verdict=lambda rows: beyond(rows["simulated"], 3 * rows["standard_error"]),
        evidence=lambda rows: (
            f"{len(rows)} draws: simulated {span(rows['simulated'], '.4g')}, theory "
            f"{span(rows['theory'], '.4g')}"
        ),
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "theory-accurate",
        "Section 5.3: there is good agreement between theory and experiment (here: within "
        f"{ACCURATE:g} % of the loss as measured).",
        measure=_errors,
        verdict=lambda found: (found["panels"].abs() <= ACCURATE).all(),
        evidence=lambda found: (
            "theory minus simulation: {:+.2f} % to {:+.2f} % over both panels; over draws of the "
            "covariances, at the configured rates, {:+.2f} % to {:+.2f} %".format(
                *(end for errors in found.values() for end in (errors.min(), errors.max()))
            )
        ),
        reasons={
            False: f"{LEADING_ORDER} With few runs the simulation's own error is in the numbers."
        },
    ),
    analytic_test_loss(123, "test rates"),
    Statement(
        "theorem-3-for-other-moments",
        "Theorem 3: inputs and tasks need not be normal, with F the matrix of their fourth moments "
        f"(here: within {ACCURATE:g} % of the loss as measured, at every train rate, with other "
        "third and fourth moments).",
        lacks=_has_moments,
        measure=lambda record: _moments(record).assign(error=theory_errors),
        verdict=lambda rows: (rows["error"].abs() <= ACCURATE).all(),
        evidence=_by_moments,
        reasons={
            False: "The theorem is leading order for large sizes; at these sizes what it "
            "neglects is above the bar where the loss is largest, with the largest fourth "
            "moments.",
        },
    ),
    Statement(
        "fourth-moments-count",
        "Theorem 3: fourth moments change the loss by F (here: at both ends of the train rates "
        "within half of the change in the theorem, by three standard errors).",
        lacks=_has_moments,
        measure=_ends,
        verdict=lambda rows: decided(
            rows["change"] - rows["expected_change"],
            rows["change_error"],
            rows["expected_change"].abs() / 2,
        ),
        evidence=each(
            "skewness {skewness:g}, kurtosis {kurtosis:g}, rate {train_rate:g}: {change:+.4f}±"
            "{change_error:.4f} ({expected_change:+.4f})",
            "change from normal inputs (theorem): ",
        ),
        reasons={None: MORE_RUNS, False: LEADING_ORDER},
    ),
    Statement(
        "third-moments-do-not-count",
        "Theorem 3: the loss does not depend on third moments (here: with the same fourth moment "
        "it changes by at most 1 %, give or take three standard errors, at every train rate).",
        lacks=lacking("needs two skewnesses of one kurtosis", lambda record: len(_skewed(record))),
        measure=_skewed,
        verdict=lambda rows: decided(rows["shift"], rows["error"], 1.0),
        evidence=lambda rows: (
            f"change between {span(rows['shift'], '+.2f')} %, standard error at most "
            f"{rows['error'].max():.2f} %"
        ),
        reasons={
            None: "Three standard errors of this many runs are wider than the change that is "
            "allowed.",
        },
    ),
)
