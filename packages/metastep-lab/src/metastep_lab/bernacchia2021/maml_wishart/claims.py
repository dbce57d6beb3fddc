"""The claims of `maml-wishart`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.bernacchia2021.measures import analytic_test_loss, theory_errors
from metastep_lab.claims import Numbers, Statement, beyond, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record, where

ACCURATE = 5.0
"""Percent of the loss within which the theory is called a good approximation."""


def optima(record: Record, quantity: str) -> Frame:
    """Return theory, simulation and its standard error of a quantity, by draw."""
    return where(record.frames["optimum"], quantity=quantity).reset_index(drop=True)


def _both(record: Record) -> tuple[Frame, Frame]:
    """Return the best train rates and the gains at them."""
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
    loss = where(record.frames["loss"], panel="b", train_rate=0.0)["simulated"].iloc[0]
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
    ),
    analytic_test_loss(123, "test rates"),
)
