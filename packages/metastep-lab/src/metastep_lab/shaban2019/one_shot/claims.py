"""The claims of `one-shot`, statements of the paper, and its answer."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from metastep_lab.claims import Numbers, Statement, beyond, each, listed
from metastep_lab.printed import Printed, mean_of
from metastep_lab.shaban2019.one_shot.averages import ENOUGH, SURE, Average, average
from metastep_lab.shaban2019.one_shot.causes import CAUSES
from metastep_lab.tables import Frame, Record

MARGIN = 0.5  # points of accuracy, the largest difference to full reverse mode in Table 4
# Table 4, accuracy in % after 5000 and after 15000 outer steps.
PAPER_ACCURACY = {"1-RMD": 95.6, "10-RMD": 96.3, "25-RMD": 96.1, "full": 95.8}
PAPER_LONG = {"1-RMD": 97.7, "10-RMD": 97.8, "short horizon": 96.6}
SHORT, LONG = 5000, 15000
FAIR = 1000  # outer steps from which a lower accuracy is not due to too few steps
PAPER_SECONDS = {"1-RMD": 0.4, "10-RMD": 0.7, "25-RMD": 1.3, "full": 2.2, "short horizon": 0.1}
SECONDS = "seconds_per_step"
PAPER_TIME = PAPER_SECONDS["1-RMD"] / PAPER_SECONDS["full"]
DECAY = 0.1  # of the relative error from window 1 to half the horizon


def _accuracy(record: Record, method: str) -> Average:
    rows = record.frames["summary"].query("method == @method")
    return average(rows["accuracy"], rows["standard_error"])


def _difference(record: Record, method: str, other: str) -> Average | None:
    """Return the difference of test accuracy, or None where one of the two was not run."""
    rows = record.frames["paired"].query("method == @method and other == @other")
    return None if rows.empty else average(rows["difference"], rows["standard_error"])


def answer(record: Record) -> str:
    """Say the accuracy of truncation on new characters, and whether full reverse mode is better."""
    config, at = record.config, partial(_accuracy, record)
    truncated, guess = f"{config.middle}-RMD", 1 / config.ways
    able = at(truncated).mean - SURE * at(truncated).error > 100 * guess
    against = {name: _difference(record, truncated, name) for name in ("full", "short horizon")}
    labels = {"full": f"all {config.horizon}", "short horizon": "a single one"}
    words = "".join(
        f"; through {labels[name]} on {at(name).mean / 100:.3f} "
        f"(difference {found.mean / 100:+.3f}±{found.error / 100:.3f})"
        for name, found in against.items()
        if found is not None
    )
    opening = _need(against["full"]) if able else "No, no better than guessing"
    return (
        f"{opening}. Tuned for {config.outer_steps} steps through the last {config.middle} of "
        f"{config.horizon} learning steps, it is right on {at(truncated).mean / 100:.3f}±"
        f"{at(truncated).error / 100:.3f} of drawings of characters that it never saw (guessing: "
        f"{guess:.2f}){words}."
    )


def _need(found: Average | None) -> str:
    if found is None:
        return "Yes; whether it has to, this run cannot tell: it did not try"
    # As good as the whole gradient up to the margin, or better.
    if found.mean - SURE * found.error > -MARGIN:
        return "Yes, and it does not have to"
    needs = found.mean + SURE * found.error < -MARGIN
    return "Yes, but it has to" if needs else "Yes, but whether it has to is undecided"


def _printed(record: Record) -> Mapping[str, float]:
    """Return the accuracies of Table 4 after 5000 outer steps, for long runs after 15000."""
    return PAPER_LONG if record.config.outer_steps >= LONG else PAPER_ACCURACY


def _reaches(record: Record) -> Numbers:
    """Return whether the accuracies of Table 4 are reached, and all methods in words."""
    config, rows = record.config, record.frames["summary"].groupby("method", sort=False)
    rows = 100 * rows.agg(mean=("accuracy", "mean"), error=("standard_error", "max"))
    found = {name: _accuracy(record, name) for name in rows.index}
    reached = [
        found[name].mean + SURE * found[name].error >= value
        for name, value in _printed(record).items()
        if name in found
    ]
    # What is reached early is reached; what is not may only need more steps.
    decides = bool(reached) and (all(reached) or config.outer_steps >= FAIR)
    text = each("{method} {mean:.1f} (s.e. {error:.1f})", between=", ")(rows)
    turned = ", characters turned by 90, 180, 270 degrees count as further ones" * config.rotations
    return {"holds": all(reached) if decides else None, "text": text, "turned": turned}


def _over_short(record: Record) -> Average | None:
    return _difference(record, f"{record.config.middle}-RMD", "short horizon")


def _beats(found: Average) -> bool | None:
    if np.all(found.values > 0) and found.mean > SURE * found.error:
        return True
    return False if found.mean < -SURE * found.error else None


def _over_full(record: Record) -> dict[int, Average]:
    found = {w: _difference(record, f"{w}-RMD", "full") for w in record.config.windows}
    return {window: value for window, value in found.items() if value is not None}


def _equal(found: dict[int, Average]) -> bool | None:
    if all(abs(one.mean) + SURE * one.error <= MARGIN for one in found.values()):
        return True
    apart = any(abs(one.mean) - SURE * one.error > MARGIN for one in found.values())
    return False if apart else None


def _seconds(record: Record) -> Numbers:
    seconds = record.frames["summary"].groupby("method", sort=False)["seconds_per_step"].median()
    first = record.config.windows[0]
    known = first == 1 and "full" in seconds
    ratio = seconds[f"{first}-RMD"] / seconds["full"] if known else np.nan
    return {"seconds": seconds, "ratio": ratio, "text": f"; ratio {ratio:.2f}" if known else ""}


def cosines(record: Record, along: int, window: int) -> Frame:
    """Return the rows of `cosine` of a window, along the path of another."""
    rows = record.frames["cosine"]
    return rows[(rows["method"] == f"{along}-RMD") & (rows["window"] == window)]


def _lowest_cosines(record: Record) -> Numbers:
    windows = record.config.windows
    lowest = {window: cosines(record, window, window)["cosine"].min() for window in windows}
    return {"positive": min(lowest.values()) > 0, "lowest": listed(lowest, "+.3f")}


def _start(record: Record) -> Numbers:
    rows = cosines(record, record.config.middle, record.config.horizon)
    enough = record.config.repetitions >= ENOUGH
    return {"enough": enough, **rows[["relative_error", "cosine"]].agg(["min", "max"])}


def depth(record: Record, kind: str) -> Frame:
    """Return the relative error at tuned hyperparameters, median over repetitions, by window."""
    rows = record.frames["depth"].query("point == 'tuned' and regularization == @kind")
    return rows.groupby("window")["relative_error"].median()


def _decay(record: Record) -> Numbers:
    errors = {kind: depth(record, kind) for kind in ("tuned", "none", "strong")}
    half = np.abs(errors["tuned"].index - record.config.horizon / 2).argmin()
    factors = {kind: one.iloc[half] / one.iloc[0] for kind, one in errors.items()}
    text = "; ".join(f"{kind} {listed(one, '.2g')}" for kind, one in errors.items())
    return {**factors, "text": text}


def _improvements(record: Record) -> dict[str, Average]:
    """Return by how many points windows gain on the test tasks after `SHORT` outer steps."""
    rows = record.frames["curve"].query("split == 'test'").set_index(["method", "step"])
    found = {}
    for window in record.config.windows:
        try:
            before, after = (
                rows.loc[(f"{window}-RMD", step), ["accuracy", "standard_error"]].to_numpy().T
                for step in (SHORT, LONG)
            )
        except KeyError:
            return {}
        found[f"{window}-RMD"] = average(after[0] - before[0], np.hypot(before[1], after[1]))
    return found


def printed(record: Record) -> list[Printed]:
    """Return the numbers of Table 4, accuracies in % after the steps of `_printed`."""
    place = f"Table 4, {LONG if _printed(record) is PAPER_LONG else SHORT} steps"
    summary = lambda name, column, scale: mean_of("summary", column, scale=scale, method=name)
    return [
        *(
            Printed(place, f"{name}, accuracy in %", value, summary(name, "accuracy", 100.0))
            for name, value in _printed(record).items()
        ),
        *(
            Printed(place, f"{name}, seconds of a step", value, summary(name, SECONDS, 1.0))
            for name, value in PAPER_SECONDS.items()
        ),
    ]


CLAIMS = (
    Statement(
        "table-4-accuracy",
        lambda record: (
            f"Table 4: the accuracies on held-out characters ({listed(_printed(record), '.1f')} %; "
            "with 64 channels, 1200 characters to train on and "
            f"{LONG if _printed(record) is PAPER_LONG else 5000} steps). Here: no method is more "
            f"than {SURE:g} standard errors below."
        ),
        measure=_reaches,
        verdict=lambda found: found["holds"],
        evidence="accuracy in %, largest standard error of a repetition: {text}; "
        "{config.outer_steps} steps, {config.channels} channels{turned}",
        reasons={None: "A run as small as this says nothing about the paper's numbers."},
    ),
    Statement(
        "window-ten-beats-short-horizon",
        "Section 4.3: with the same number of outer steps a short horizon (T = 1) reaches a lower "
        "accuracy than truncation.",
        lacks=lambda record: None if _over_short(record) else "needs the short horizon",
        measure=_over_short,
        verdict=_beats,
        evidence="window {config.middle} minus short horizon by repetition {0.listed} points, mean "
        "{0.mean:+.1f}, standard error {0.error:.1f}",
        reasons={None: "The repetitions disagree, or differ by less than two standard errors."},
    ),
    Statement(
        "truncation-equals-full",
        "Table 4: truncation reaches the accuracy of full reverse mode "
        f"({listed(PAPER_ACCURACY, '.1f')} %; here: within the {MARGIN:g} points there, after the "
        "same number of steps).",
        lacks=lambda record: None if _over_full(record) else "needs full reverse mode",
        measure=_over_full,
        verdict=_equal,
        evidence=lambda found: (
            "minus full reverse mode: "
            + "; ".join(
                f"K={window} {one.listed} points, mean {one.mean:+.1f} ± {one.error:.1f}"
                for window, one in found.items()
            )
        ),
        reasons={None: f"The standard errors are too large for a margin of {MARGIN:g} points."},
    ),
    Statement(
        "window-one-is-cheaper",
        "Table 4: an outer step with window 1 takes 0.18 of the time of full reverse mode (0.4 s "
        "against 2.2 s).",
        measure=_seconds,
        verdict=lambda found: found["ratio"] <= PAPER_TIME if np.isfinite(found["ratio"]) else None,
        evidence="seconds per outer step: {seconds:.3f}{text}",
        reasons={None: "Only a run with window 1 and full reverse mode decides."},
    ),
    Statement(
        "cosines-are-positive",
        "Figure 7: the cosine of the truncated and the exact gradient is positive all along.",
        measure=_lowest_cosines,
        verdict=lambda found: found["positive"],
        evidence="smallest cosine on the way by window {lowest}; gradients averaged over "
        "{config.gradient_tasks} tasks",
    ),
    Statement(
        "start-term-is-large",
        "Not in the paper: the derivative of the start (B_0), which no window has, is most of the "
        "exact gradient (here: without it alone the relative error is at least 0.5 at every "
        "measured point).",
        measure=_start,
        verdict=lambda found: found["relative_error"]["min"] >= 0.5 if found["enough"] else None,
        evidence="window {config.horizon} against the exact gradient along {config.middle}-RMD: "
        "relative error {relative_error[min]:.2f} to {relative_error[max]:.2f}, cosine "
        "{cosine[min]:+.2f} to {cosine[max]:+.2f}, {config.repetitions} repetitions",
        reasons={None: f"It takes {ENOUGH} repetitions."},
    ),
    Statement(
        "error-decays-with-regularization",
        "Figure 7: the relative error decays exponentially with the window when the inner problem "
        "is regularized, and not when it is not (here: at half the horizon at most "
        f"{DECAY:g} of that of window 1, at tuned hyperparameters).",
        measure=_decay,
        verdict=lambda found: found["tuned"] <= DECAY < found["none"],
        evidence="relative error by window, regularization {text}",
        reasons={
            False: "As tuned, the regularization is too weak to damp what happened more than half "
            "a horizon ago, or the error falls without any.",
        },
    ),
)
MORE_STEPS = Statement(
    "more-steps-help",
    f"Section 4.3: {LONG} outer steps improve the results of {SHORT} significantly (here: on the "
    f"test tasks of the curves, by {SURE:g} standard errors, with every window).",
    lacks=lambda record: None if _improvements(record) else f"not measured after {SHORT} steps",
    measure=_improvements,
    verdict=lambda found: beyond(
        np.array([one.mean for one in found.values()]),
        np.array([SURE * one.error for one in found.values()]),
    ),
    evidence=lambda found: "; ".join(
        f"{name} {one.mean:+.1f} ± {one.error:.1f} points" for name, one in found.items()
    ),
)


def claims(record: Record) -> Sequence[Statement]:
    """Return the statements about Table 4 and Figure 7, and about causes if they were studied."""
    found = list(CLAIMS)
    if record.config.outer_steps >= LONG:
        found.append(MORE_STEPS)
    return found + list(CAUSES) if record.config.study and record.config.full else found
