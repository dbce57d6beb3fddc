"""The claims of `step-size-guarantees`, statements of the papers, and its answer."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, lacking
from metastep_lab.tables import Frame, Record, where
from metastep_lab.theory.intervals import at_least, probability

TRAIN, VALIDATION = "train-by-train", "train-by-validation"
SGD_TRAIN, SGD_VALIDATION = f"sgd-{TRAIN}", f"sgd-{VALIDATION}"
LEVEL = 0.99
"""The probability of Theorems 5 to 10."""


def base(record: Record, mode: str) -> Frame:
    """Return the rows of `samples` with the sizes of the base, by m; of Theorem 9 by d."""
    rows = record.rows("samples", mode=mode)
    if mode in (TRAIN, VALIDATION):
        dim, noise, horizon = record.config.base()
        rows = where(rows, dim=dim, noise=noise, horizon=horizon)
    return rows.sort_values(["dim", "tasks"]).reset_index(drop=True)


def intervals(rows: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of the probability that a repetition is as stated."""
    counts = rows[["held", "repeats"]].to_numpy(int)
    lower, upper = np.transpose([probability(*pair) for pair in counts])
    return lower, upper


def _at_least(rows: Frame) -> list[bool | None]:
    return [at_least(LEVEL, *pair) for pair in rows[["held", "repeats"]].to_numpy(int)]


def answer(record: Record) -> str:
    """Say how often either step size is as the theorems have it, and after how many updates."""
    last = {mode: base(record, mode).iloc[-1] for mode in (TRAIN, VALIDATION)}
    train, valid = (last[mode] for mode in (TRAIN, VALIDATION))
    holds = _at_least(pd.DataFrame([train, valid]))
    opening = "Yes" if all(holds) else "No" if False in holds else "This run cannot tell"
    return (
        f"{opening}. With {train['tasks']:g} tasks, the training loss chose a step size of order 1 "
        f"and an error of order sigma^2 in {train['held']:g} of {train['repeats']:g} draws of the "
        f"tasks. With {valid['tasks']:g} tasks, the validation loss chose one of order 1 / t that "
        f"gains over not training in {valid['held']:g} of {valid['repeats']:g}."
    )


def _sampled(mode: str) -> Callable[[Record], Frame]:
    def measure(record: Record) -> Frame:
        rows = base(record, mode)
        lower, upper = intervals(rows)
        return rows.assign(lower=lower, upper=upper)

    return measure


def _promised(rows: Frame) -> bool | None:
    """Whether the probability is 0.99 at the largest size.

    The theorems do not say from which size on it is: it is only wrong if it does not grow.
    """
    reached = _at_least(rows)[-1]
    # The probability has grown for certain if the intervals at the ends do not overlap.
    if reached is False and rows["upper"].iloc[0] < rows["lower"].iloc[-1]:
        return None
    return reached


STILL_OPEN: Mapping[bool | None, str] = {
    None: "The last interval holds 0.99, or the share still rises with the sizes, which the "
    "theorem takes large enough: more repetitions or larger sizes decide.",
}


def _probabilities(rows: Frame) -> str:
    last = rows.iloc[-1]
    by_size = ", ".join(
        f"d={row.dim:g} m={row.tasks:g} {row.held:g} of {row.repeats:g} "
        f"({row.lower:.4f} to {row.upper:.4f})"
        for row in rows.itertuples()
    )
    return (
        f"repetitions as stated, with the interval of their probability: {by_size}. At the last "
        f"size {last['in_range']:g} in the range, {last['far']:g} with the error; the error is "
        f"{last['error']:.4g} on average, the smallest of any step size {last['best']:.4g}"
    )


def _rate(mode: str, against: str) -> Callable[[Record], Numbers]:
    return lambda record: record.rows("rates", quantity=mode, against=against).iloc[0].to_dict()


def _fitted(mode: str, against: str) -> Callable[[Record], str | None]:
    has = lambda record: len(record.rows("rates", quantity=mode, against=against))
    return lacking(f"needs two values of {against}", has)


def _near(exponent: float) -> Callable[[Numbers], bool | None]:
    """Whether the interval of an exponent lies within a tenth of what it should be."""

    def verdict(found: Numbers) -> bool | None:
        if not np.isfinite(found["exponent"]):
            return None
        lower, upper = found["lower"] - exponent, found["upper"] - exponent
        if lower > 0.1 or upper < -0.1:
            return False
        return True if -0.1 <= lower and upper <= 0.1 else None

    return verdict


FITTED = "step size ~ {against}^{exponent:.4f}, 95 % from {lower:.4f} to {upper:.4f}"


def _order(id: str, text: str, mode: str, against: str, exponent: float) -> Statement:
    return Statement(
        id,
        text,
        lacks=_fitted(mode, against),
        measure=_rate(mode, against),
        verdict=_near(exponent),
        evidence=FITTED,
    )


def _bounded(record: Record) -> Frame:
    """Return for each epsilon the smallest n / d from which the probability is at least 0.99."""
    rows = record.frames["bounded"].sort_values("ratio")
    found = []
    for epsilon, part in rows.groupby("epsilon"):
        said = _at_least(part)
        # Undecided (None) is not shown.
        enough = part["ratio"][[one is True for one in said]]
        found.append((epsilon, enough.min(), said[-1]))
    return found


def _reached(found: list[tuple]) -> bool | None:
    last = [said for *_, said in found]
    return True if all(last) else False if False in last else None


def _truncated(record: Record) -> Numbers:
    row = record.frames["truncated"].iloc[0]
    lower, upper = probability(int(row["reached"]), int(row["runs"]))
    return {**row, "lower": lower, "upper": upper}


def _settling(record: Record) -> Numbers:
    rows = record.frames["settling"]
    known = rows["updates"].notna()
    return {
        "rows": len(rows),
        "open": int((~known).sum()),
        "above": int((rows["updates"] > rows["bound"]).sum()),
        # A bound below the updates that were made decides against a case without an end.
        "beyond": int((~known & (rows["bound"] < record.config.updates)).sum()),
        "most": rows["updates"].max(),
        "loose": (rows["bound"] / rows["updates"]).min(),
    }


def _settles(found: Numbers) -> bool | None:
    if found["above"] or found["beyond"]:
        return False
    return None if found["open"] else True


CLAIMS = (
    Statement(
        "theorem-4",
        "Theorem 4: meta-gradient descent with steps 1 / sqrt(k) stays within epsilon of the best "
        "step size from an update k_0 on, which is at most the k_2 of the proof (on every drawn "
        "quadratic, from every start, at every epsilon).",
        measure=_settling,
        verdict=_settles,
        evidence="{above} of {rows} above the bound, {open} unsettled; k_0 at most {most:g}; the "
        "bound is loose by a factor of at least {loose:.2g}",
        reasons={None: "More updates decide where a descent has not settled."},
    ),
    Statement(
        "theorem-4-rate",
        "Theorem 4: k_0 is at most of order epsilon^-2 (here: of the fitted exponent the whole "
        "interval).",
        measure=lambda record: record.frames["rates"].query("quantity == 'k_0'").iloc[0].to_dict(),
        # k' = (M^6 / epsilon^2) times a polynomial of the problem: M is that of the start.
        verdict=lambda found: found["upper"] <= 2 if np.isfinite(found["exponent"]) else None,
        evidence="k_0 ~ (1 / epsilon)^{exponent:.3f}, 95 % from {lower:.3f} to {upper:.3f}",
    ),
    Statement(
        "theorem-7",
        "Theorems 5 and 7: with probability at least 0.99 over the training tasks, every minimizer "
        "of train-by-train is of order 1 (from 1 / L to 3 L with L = 100, by Lemmas 2 and 6) and "
        "its error on new tasks of order sigma^2 (here: at least half of it), with the most tasks.",
        measure=_sampled(TRAIN),
        verdict=_promised,
        evidence=_probabilities,
        reasons=STILL_OPEN,
    ),
    Statement(
        "theorem-8",
        "Theorems 5 and 8: with probability at least 0.99 over the training tasks, every minimizer "
        "of train-by-validation is of order 1 / t (here: within a factor of 4 of the population's "
        "constant) and its error is below |w*|^2 by a constant (here: by at least half of the "
        "best possible gain), with the most tasks.",
        measure=_sampled(VALIDATION),
        verdict=_promised,
        evidence=_probabilities,
        reasons=STILL_OPEN,
    ),
    Statement(
        "theorem-9",
        "Theorem 9: stochastic gradient descent; with probability at least 0.99 over the training "
        "tasks and a test task, the minimizer of train-by-train up to 1 / (2 L^3 d) is of order "
        "1 / d (here: at least a quarter of that) and the error on the test task of order sigma^2 "
        "(here: at least a tenth of it, with t = 10^8 d).",
        measure=_sampled(SGD_TRAIN),
        verdict=_promised,
        evidence=_probabilities,
        reasons=STILL_OPEN,
    ),
    Statement(
        "theorem-10",
        "Theorem 10: stochastic gradient descent; with probability at least 0.99 over the training "
        "tasks, the minimizer of train-by-validation up to 1 / (d^2 ln^2 d), on drawn validation "
        "sets, is of order 1 / t and gains a constant (here: as for theorem-8).",
        measure=_sampled(SGD_VALIDATION),
        verdict=_promised,
        evidence=_probabilities,
        reasons=STILL_OPEN,
    ),
    Statement(
        "sgd-is-not-truncated",
        "Lemma 44: in the range of Theorem 10 stochastic gradient descent is truncated with a "
        "very small probability (here: at most one run in a thousand, at the end of the range, "
        "within the steps of the claim theorem-10).",
        measure=_truncated,
        verdict=lambda found: (
            True if found["upper"] <= 0.001 else False if found["lower"] > 0.001 else None
        ),
        evidence="{reached:g} of {runs:g} runs (95 % up to {upper:.2g}); the largest |w| is "
        "{largest:.2g} of the threshold",
    ),
    _order(
        "train-by-train-constant-in-t",
        "Theorem 7: the step size of train-by-train does not depend on t (here: the exponent is 0 "
        "within 0.1).",
        TRAIN,
        "t",
        0.0,
    ),
    _order(
        "train-by-validation-inverse-in-t",
        "Theorem 8: the step size of train-by-validation falls like 1 / t (here: the exponent is "
        "-1 within 0.1).",
        VALIDATION,
        "t",
        -1.0,
    ),
    _order(
        "train-by-train-constant-in-d",
        "Theorem 7: the step size of train-by-train does not depend on d (here: the exponent is 0 "
        "within 0.1).",
        TRAIN,
        "d",
        0.0,
    ),
    Statement(
        "theorem-6",
        "Theorem 6: for every epsilon, from some n / d on, with probability at least 0.99 over the "
        "training tasks the error of train-by-train is at most (1 + epsilon) d sigma^2 / n (here: "
        "epsilon down to 0.05, at the largest n / d; with fewer tasks than the theorem asks for).",
        measure=_bounded,
        verdict=_reached,
        evidence=lambda found: "; ".join(
            f"epsilon {epsilon:g} "
            + (f"from n / d = {least:g} on" if np.isfinite(least) else "not shown at any n / d")
            for epsilon, least, _ in found
        ),
    ),
    Statement(
        "theorem-6-rate",
        "Theorem 6: epsilon falls at least as fast as (d / n)^(1/2) (here: of the fitted exponent "
        "the whole interval).",
        lacks=lacking("needs two ratios n / d", lambda record: len(record.config.ratios) > 1),
        measure=_rate("excess", "n / d"),
        verdict=lambda found: (
            None if not np.isfinite(found["exponent"]) else found["upper"] <= -0.5
        ),
        evidence="epsilon ~ (n / d)^{exponent:.3f}, 95 % from {lower:.3f} to {upper:.3f}",
    ),
)
