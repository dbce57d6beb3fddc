"""Possible causes of the lower accuracy of full reverse mode in `one-shot`, one at a time."""

import numpy as np

from metastep_lab.claims import Numbers, Statement
from metastep_lab.shaban2019.one_shot.averages import ENOUGH, SURE, Average, average
from metastep_lab.tables import Frame, Record


def _accuracy_at(record: Record, method: str) -> Frame:
    """Return the rows of `curve` on test tasks after the steps of the study, by repetition."""
    rows = record.frames["curve"].query("method == @method and split == 'test'")
    return rows[rows["step"] == record.config.study_steps].set_index("repetition")


def _gap(record: Record, method: str, other: str) -> Average:
    """Return the difference of accuracy after the steps of the study; the error is that within."""
    first, second = _accuracy_at(record, method), _accuracy_at(record, other)
    errors = np.hypot(first["standard_error"], second["standard_error"])
    within = 100 * float(np.sqrt(np.sum(errors**2))) / len(errors)
    return average(first["accuracy"] - second["accuracy"], errors)._replace(error=within)


def _cause(name: str, what: str, better: str, other: str) -> Statement:
    """Return the statement that a change of full reverse mode closes its gap to truncation."""

    def measure(record: Record) -> Numbers:
        truncated = f"{record.config.middle}-RMD"
        methods = [one.format(truncated) for one in ("{}", "full", better, other)]
        before, after = _gap(record, *methods[:2]), _gap(record, *methods[2:])
        levels = {one: 100 * _accuracy_at(record, one)["accuracy"].mean() for one in methods}
        enough = record.config.repetitions >= ENOUGH
        return {
            "lags": enough and before.mean > SURE * before.error,
            "before": before,
            "after": after,
            "closed": 100 * (1 - after.mean / before.mean) if before.mean else np.nan,
            "levels": ", ".join(f"{one} {level:.1f} %" for one, level in levels.items()),
        }

    return Statement(
        name,
        lambda record: (
            f"Not in the paper: full reverse mode lags behind window {record.config.middle}, and "
            f"{what} closes at least half of the gap in every repetition."
        ),
        measure=measure,
        verdict=lambda found: (
            np.all(found["after"].values <= found["before"].values / 2) if found["lags"] else None
        ),
        evidence="window {config.middle} minus full after {config.study_steps} steps: "
        "{before.listed} points; with the change {after.listed} points ({closed:.0f} % closed); "
        "accuracies {levels}",
        reasons={
            None: "There is no gap of two standard errors to close, or there are fewer than "
            f"{ENOUGH} repetitions.",
        },
    )


CAUSES = (
    _cause(
        "start-term-holds-back",
        "leaving out the derivative of the start (B_0)",
        "{}",
        "full, start detached",
    ),
    _cause("clipping-helps", "clipping the gradient", "{}", "full, clipped"),
    _cause(
        "normalization-holds-back",
        "taking the normalization out of the head of both",
        "{}, plain head",
        "full, plain head",
    ),
)
