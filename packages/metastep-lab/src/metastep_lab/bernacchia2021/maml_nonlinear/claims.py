"""The claims of `maml-nonlinear`, statements of the paper, and its answer."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from metastep_lab.claims import Numbers, Statement, beyond, each, lacking
from metastep_lab.tables import Frame, Record, where

LEVEL = 0.0027
"""The probability beyond three standard errors, which decides a sign: many are looked at."""

PAPER = "paper"
WITHOUT_HALF = 2.0
"""Both rates act this much stronger under a loss without the 1/2."""

LINEARIZED = ("linearized",)
TRAINED = ("trained", "controlled")
Rates = tuple[float, float]
"""A train rate and a test rate."""


def finest(record: Record, reading: str = PAPER) -> Frame:
    """Return the differences of a reading: exact in the limit, else after the last epoch."""
    rows = record.rows("difference", reading=reading)
    last = np.where(rows["limit"] == "linearized", math.inf, max(record.config.epochs))
    return rows[rows["epochs"] == last]


def paper_rates(record: Record) -> Rates:
    """Return the train rate that the paper finds best, and its test rate."""
    return record.config.paper_rate, record.config.paper_test_rate


def _decisive(runs: Frame | float) -> np.ndarray:
    """Return how many standard errors are significant after a number of runs; 3 after many."""
    # One degree of freedom for the mean, and one for the slope of a control variate.
    return student.isf(LEVEL / 2, np.maximum(runs - 2, 1))


def _estimate(rows: Frame, limits: Sequence[str], rates: Rates) -> Numbers | None:
    """Return the difference at two rates, from the most exact limit that has it; else None.

    `holds` says whether a negative train rate is better than zero and than positive ones.
    """
    at = where(rows, train_rate=rates[0], test_rate=rates[1])
    known = at[at["limit"].isin(limits) & np.isfinite(at["standard_error"])]
    if known.empty:
        return None
    row, holds = known.loc[known["standard_error"].idxmin()], None
    curve = where(rows, limit=row["limit"], test_rate=rates[1]).sort_values("train_rate")
    decisive = float(_decisive(row["runs"]))
    if abs(row["z"]) > decisive:
        holds = bool(row["z"] < 0 and curve["train_rate"][curve["difference"].idxmin()] < 0)
    limit = where(at, limit="linearized")
    return {**row, "curve": curve, "decisive": decisive, "holds": holds, "linearized": limit}


def answer(record: Record) -> str:
    """Say how the paper's negative rate changes the loss, trained and in the linearized limit."""
    rows, rates = finest(record), paper_rates(record)
    found = {"trained": _estimate(rows, TRAINED, rates)}
    found["linearized"] = _estimate(rows, LINEARIZED, rates)
    known = {name: row for name, row in found.items() if row is not None}
    if not known:
        return "This run cannot tell: the paper's rates were not run, or fewer than two times."
    verdicts = [row["holds"] for row in known.values()]
    decided = {*verdicts} - {None}
    opening = "Only in part" if decided else "This run cannot tell"
    if len(decided) == 1:
        sure = None not in verdicts and len(verdicts) == 2
        opening = ("Yes" if True in decided else "No") + ("" if sure else ", as far as it can tell")
    words = " and by ".join(_effect(name, row) for name, row in known.items())
    return (
        f"{opening}. A step size of {rates[0]:g} in training instead of 0 changes the loss on new "
        f"tasks by {words}. Linearized means: replaced by its tangent at the start."
    )


def _effect(name: str, row: Numbers) -> str:
    """Write the difference of a network, and whether its sign is significant."""
    better = row["difference"] < 0
    note = "not decided" if row["holds"] is None else "lower" if better else "higher"
    note += ", but a larger rate is better still" if row["holds"] is False and better else ""
    return (
        f"{row['difference']:+.3f}±{row['standard_error']:.3f} in the {name} network "
        f"({row['runs']:g} runs: {note})"
    )


def _number(row: Numbers) -> str:
    return f"{row['difference']:+.4f}±{row['standard_error']:.4f}"


def _evidence(row: Numbers) -> str:
    chosen = row["limit"]
    control = ", with the linearized network as control variate" if chosen == "controlled" else ""
    beside = f"; in the linearized limit {_number(row['linearized'].iloc[0])}"
    curve = each("rate={train_rate:g} {difference:+.4f}±{standard_error:.4f}", between=", ")
    return (
        f"at {row['train_rate']:g}, {_number(row)} (z = {row['z']:.1f}, decisive from "
        f"{row['decisive']:.1f}; {row['runs']:g} runs{control})"
        f"{'' if chosen == 'linearized' else beside}; loss minus that of rate 0 by train rate, "
        f"{curve(row['curve'])}"
    )


def _optimum(
    name: str, text: str, limits: Sequence[str], rates: Rates, reading: str = PAPER
) -> Statement:
    measure = lambda record: _estimate(finest(record, reading), limits, rates)
    lacking = "these rates were not run, or fewer than two times"
    return Statement(
        name,
        text,
        lacks=lambda record: lacking if measure(record) is None else None,
        measure=measure,
        verdict=lambda row: row["holds"],
        evidence=_evidence,
        reasons={
            None: "More runs would decide: the difference is not clear of its standard error.",
            False: "Whether a negative rate is best depends on a factor 1/2 in the squared error. "
            "Eq. 11 has it; section 5.4 says no more than square loss.",
        },
    )


def claims(record: Record) -> tuple[Statement, ...]:
    """Return Figure 5 at the paper's rates, at others and with other networks; and the rest."""
    rate, test_rate = rates = paper_rates(record)
    doubled = WITHOUT_HALF * rate, WITHOUT_HALF * test_rate
    return (
        _optimum(
            "negative-optimum",
            "Figure 5: the test loss of the trained network is smaller at the train rate "
            f"{rate:g} than at zero and at positive ones.",
            TRAINED,
            rates,
        ),
        _optimum(
            "negative-optimum-linearized",
            "Figure 5 in the linearized limit, with the exact solution of the outer problem.",
            LINEARIZED,
            rates,
        ),
        _optimum(
            "negative-optimum-without-half",
            "Figure 5 if the squared error has no 1/2, so that both rates act twice as strongly: "
            f"train rate {doubled[0]:g} at test rate {doubled[1]:g} here (trained network).",
            TRAINED,
            doubled,
        ),
        # In the linearized limit, which has the most runs.
        *(
            _optimum(
                f"negative-optimum-test-rate-{weaker:g}",
                f"Not in the paper: with the weaker adaptation {weaker:g} on new tasks the train "
                f"rate {rate:g} is better than zero and positive ones (linearized limit).",
                LINEARIZED,
                (rate, weaker),
            )
            for weaker in record.config.test_rates
            if 0 <= weaker < test_rate
        ),
        *_other_readings(record),
        *CLAIMS,
    )


def _other_readings(record: Record) -> list[Statement]:
    found, rates = [], paper_rates(record)
    for name in record.frames["reading"]["reading"]:
        if name != PAPER:
            slug, text = name.replace(" ", "-"), f"Figure 5 with another network: {name}"
            limit = f"{text} (linearized limit)."
            found.append(_optimum(f"negative-optimum-{slug}", limit, LINEARIZED, rates, name))
            if "trained" in set(finest(record, name)["limit"]):
                trained = f"{text} (trained)."
                found.append(
                    _optimum(f"negative-optimum-{slug}-trained", trained, TRAINED, rates, name)
                )
    return found


def _trained(record: Record) -> Numbers:
    last = max(record.config.epochs)
    # A thousandth of the loss of noise alone does not change any of these differences.
    allowed = record.config.noise**2 / 2 / 1000
    # pandas skips NaN by default: a descent that diverged would count as converged.
    largest = record.rows("training", epochs=last)["maximum"].max(skipna=False)
    return {"last": last, "largest": largest, "allowed": allowed}


def _limit(record: Record) -> Frame:
    """Return how the linearized network predicts the trained one, by test rate."""
    rows, test_rate, found = finest(record), record.config.paper_test_rate, []
    for rate in (test_rate, WITHOUT_HALF * test_rate):
        if rate not in record.config.test_rates:
            continue
        at = {limit: where(rows, limit=limit, test_rate=rate) for limit in (*TRAINED, *LINEARIZED)}
        estimate = at["trained"] if at["controlled"].empty else at["controlled"]
        pairs = estimate.merge(at["linearized"], on="train_rate", suffixes=("", "_linearized"))
        decided = pairs["z"].abs() > _decisive(pairs["runs"])
        decided &= pairs["z_linearized"].abs() > _decisive(pairs["runs_linearized"])
        opposite = decided & (pairs["z"] * pairs["z_linearized"] < 0)
        lowest = at["trained"]["correlation"].min(skipna=False)
        found.append((rate, lowest, len(at["trained"]), decided.sum(), opposite.sum()))
    return pd.DataFrame(found, columns=["test_rate", "lowest", "rates", "decided", "opposite"])


def _predicts(rows: Frame) -> bool | None:
    known = rows.dropna(subset="lowest")
    if ((known["lowest"] <= 0.9) | (known["opposite"] > 0)).any():
        return False
    # Too few runs for a correlation at one of the test rates leave the claim undecided.
    return len(known) == len(rows) > 0 or None


def _lacks_training(record: Record) -> str | None:
    trained = "trained" in set(finest(record)["limit"])
    return None if trained else "trained_runs is 0"


def _adapted(record: Record) -> Frame:
    """Return the linearized losses at train rate 0, by test rate."""
    cell = {"reading": PAPER, "limit": "linearized", "epochs": math.inf, "train_rate": 0}
    return record.rows("loss", **cell).set_index("test_rate")


def _adaptation(record: Record) -> Numbers:
    rows = _adapted(record)
    base, paper = rows.loc[0], rows.loc[record.config.paper_test_rate]
    error = math.hypot(base["standard_error"], paper["standard_error"])
    words = each("test rate={test_rate:g} {mean:.4f}±{standard_error:.4f}", between=", ")(rows)
    return {"gain": base["mean"] - paper["mean"], "error": error, "words": words}


def _protocol(record: Record) -> Numbers:
    """Return the linearized difference, and the standard errors of ten runs."""
    row = _estimate(finest(record), LINEARIZED, paper_rates(record))
    if row is None or record.config.paper_test_rate not in _adapted(record).index:
        return {}
    zero = _adapted(record).loc[record.config.paper_test_rate]
    return {
        "difference": row["difference"],
        "words": _number(row),
        # Of the difference of two means of ten independent runs each.
        "spread": zero["standard_error"] * math.sqrt(zero["runs"] / 10 * 2),
        "paired": row["standard_error"] * math.sqrt(row["runs"] / 10),
    }


CLAIMS = (
    Statement(
        "training-converged",
        "Section 5.4: the outer descent is run until convergence; here its loss ends below a "
        "thousandth of the noise, for every rate and run.",
        lacks=lambda record: "trained_runs is 0" if record.frames["training"].empty else None,
        measure=_trained,
        verdict=lambda found: found["largest"] <= found["allowed"],
        evidence="largest outer loss after {last} epochs {largest:.2g}, allowed {allowed:.2g}",
        reasons={False: "More epochs are needed; the paper has 5000."},
    ),
    Statement(
        "limit-predicts-training",
        "Section 5.3 (Jacot et al. 2018): a wide network behaves as its linearization; here: run "
        "by run, the differences of the trained network are correlated above 0.9 with those of the "
        "linearized one, and no decided signs differ, at the paper's test rate and at twice it, "
        "which is the paper's if its squared error has no 1/2.",
        lacks=_lacks_training,
        measure=_limit,
        verdict=_predicts,
        evidence=each(
            "test rate {test_rate:g}: smallest correlation {lowest:.3f} over {rates} rates, "
            "{decided} signs decided in both, {opposite} of them different"
        ),
        reasons={False: "At the higher test rate a step leaves the linear range."},
    ),
    Statement(
        "adaptation-helps",
        "Section 6: the learning rate on new tasks should be positive (linearized limit, train "
        "rate 0).",
        lacks=lacking(
            "needs test rate 0 and the paper's",
            lambda record: {0, record.config.paper_test_rate} <= {*_adapted(record).index},
        ),
        measure=_adaptation,
        verdict=lambda found: beyond(found["gain"], 3 * found["error"]),
        evidence="loss at {words}",
        reasons={None: "More runs would decide."},
    ),
    Statement(
        "ten-runs-undecided",
        "Not in the paper: ten runs whose draws differ between rates, as its error bars suggest, "
        "cannot show a difference of this size at three standard errors (linearized limit).",
        lacks=lambda record: None if _protocol(record) else "the paper's rates were not run",
        measure=_protocol,
        verdict=lambda found: abs(found["difference"]) < 3 * found["spread"],
        evidence="difference {words}; standard error with ten unpaired runs {spread:.4f}, with ten "
        "paired runs {paired:.4f}",
        reasons={False: "With so few runs the difference itself is uncertain."},
    ),
)
