"""The claims of `task-interaction`, statements of the paper, and its answer."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, falls, listed, mean_and_error
from metastep_lab.printed import Printed, mean_of
from metastep_lab.shaban2019.task_interaction.published import (
    PAPER_ACCURACY,
    PAPER_DEVIATION,
    PAPER_SECONDS,
    PAPER_STEPS,
)
from metastep_lab.tables import Column, Frame, Record

PAPER_GAP = {"cifar10": 0.0017, "cifar100": 0.0036}  # the largest difference to the longest window
PAPER_TIME = {"cifar10": 0.8 / 2.2, "cifar100": 1.0 / 2.8}  # of 1-RMD, as part of full RMD
SURE = 2.0  # standard errors


def _like(record: Record) -> str:
    """Return the data set of Table 3 that a run is held against."""
    return "cifar100" if record.config.dataset == "cifar100" else "cifar10"


def tuned(record: Record, column: str) -> Frame:
    """Return a column of `summary` after tuning, a row for each trial, a column for each window."""
    rows = record.frames["summary"].dropna(subset="window")
    return rows.pivot(index="trial", columns="window", values=column)


def _untuned(record: Record, column: str) -> Frame:
    return record.frames["summary"].query("method == 'untuned'").set_index("trial")[column]


def coupling(record: Record) -> Column:
    """Return the matrix C of the longest window, mean over trials, without its diagonal."""
    mean = record.arrays["coupling"][-1].mean(axis=0)
    # C_ii multiplies |w_i - w_i|^2 = 0.
    np.fill_diagonal(mean, np.nan)
    return mean


def closest(record: Record) -> list[str]:
    """Return the names of the two classes with the largest similarity."""
    mean = coupling(record)
    places = np.unravel_index(np.nanargmax(mean), mean.shape)
    return [str(record.arrays["classes"][place]) for place in places]


def answer(record: Record) -> str:
    """Say the gain of tuning the similarities, and which classes have the largest one."""
    losses, correct = tuned(record, "validation_loss"), tuned(record, "test_accuracy")
    before, after = _untuned(record, "validation_loss"), losses.iloc[:, -1]
    wrong, right = _untuned(record, "test_accuracy"), correct.iloc[:, -1]
    gain, error = mean_and_error(right - wrong)
    if not np.all(np.isfinite(after)):
        return "This run cannot tell: the training with tuned similarities diverged."
    if not np.all(after < before) or gain < -SURE * error:
        opening = "No"
    elif right.size == 1:
        opening = "This run cannot tell, with one trial"
    else:
        opening = "Yes" if gain > SURE * error else "Only in part"
    chance = f"±{error:.4f} over {right.size} trials" if right.size > 1 else ""
    first, second = closest(record)
    return (
        f"{opening}. Tuning the similarities with window {after.name:g} brings the validation loss "
        f"from {before.mean():.3f} to {after.mean():.3f} and the test accuracy from "
        f"{wrong.mean():.3f} to {right.mean():.3f}, a difference of {gain:+.4f}{chance}. It lets "
        f"{first} and {second} share most."
    )


def _helps(record: Record) -> Numbers:
    losses, correct = tuned(record, "validation_loss"), tuned(record, "test_accuracy")
    untuned, before = _untuned(record, "validation_loss"), _untuned(record, "test_accuracy")
    gain, error = mean_and_error(correct.iloc[:, -1] - before)
    return {
        "lower": losses.lt(untuned, axis=0),
        "losses": f"{untuned.mean():.4f} untuned, by window {listed(losses, '.4f')}",
        "correct": f"{before.mean():.4f} untuned, by window {listed(correct, '.4f')}",
        "gain": f"{gain:+.4f}, standard error {error:.4f}",
    }


def _fall(name: str, text: str, column: str) -> Statement:
    """Return the statement that a column falls as the window grows."""

    def measure(record: Record) -> Numbers:
        values = tuned(record, column)
        more = {"trials": len(values), "guarded": _guarded(record)}
        ends, error = mean_and_error(values.iloc[:, 0] - values.iloc[:, -1])
        return {"values": values, "ends": ends, "error": error, **more}

    return Statement(
        name,
        f"{text} (on average over trials at each step, and by {SURE:g} standard errors from the "
        "shortest to the longest).",
        measure=measure,
        verdict=lambda found: (
            # With NaN skipped, a window would be judged without the trials in which it diverged.
            falls(found["values"].mean(skipna=False)) and found["ends"] > SURE * found["error"]
            if found["trials"] > 1
            else None
        ),
        evidence="by window {values:.4g}; shortest minus longest {ends:.3g}, standard error "
        "{error:.2g}, {trials} trials; the guard acted in {guarded}",
        reasons={None: "Only several trials decide."},
    )


def _gaps(record: Record) -> Numbers:
    values = tuned(record, "stopped_accuracy")
    rows = values.iloc[:, :-1].sub(values.iloc[:, -1], axis=0).agg(["mean", "sem"]).T
    text = each("K={window:g} {mean:+.2f}±{sem:.2f}", between=", ")(100 * rows)
    return {**rows, "text": text, "most": PAPER_GAP[_like(record)]}


def _within(gap: Column, error: Column, most: float) -> bool | None:
    # A test of equality: noise counts against it, and against its opposite.
    if np.any(np.abs(gap) - SURE * error > most):
        return False
    return bool(gap.size and np.all(np.abs(gap) + SURE * error <= most)) or None


def _best(record: Record) -> Numbers:
    """Return the test accuracies, and whether those of Table 3 are reached, by window."""
    config, best = record.config, tuned(record, "stopped_accuracy")
    printed = PAPER_ACCURACY.get(config.dataset, {})
    known = [window for window in best if window in printed]
    reached = [
        best[one].mean(skipna=False) >= printed[one] - PAPER_DEVIATION[config.dataset][one]
        for one in known
    ]
    steps = tuned(record, "stopped_step")
    text = config.features or "random patches"
    needs = "" if known else "; needs CIFAR and a window of the table"
    stopped = f"{steps.notna().sum(axis=None)} of {steps.size} runs were stopped"
    return {"best": best, "reached": reached, "text": f"{text}; {stopped}{needs}"}


def _cosines(record: Record) -> Frame:
    return record.frames["history"].query("window < window.max()")


def _only_longest(record: Record) -> str | None:
    return "needs a window below the longest" if _cosines(record).empty else None


def _late(record: Record) -> Frame:
    """Return the cosines of the last quarter of the steps, by window."""
    rows = _cosines(record).query("step >= 0.75 * @record.config.outer_steps")
    return rows.groupby("window")["cosine"]


def _costs(record: Record) -> Numbers:
    rows = record.frames["cost"].set_index("window")
    ends = (rows.index[0], rows.index[-1]) == (1, record.config.horizon)
    return {"ends": ends, "most": PAPER_TIME[_like(record)], **(rows.iloc[0] / rows.iloc[-1])}


def _guarded(record: Record) -> str:
    steps = tuned(record, "guarded_steps")
    return f"{steps.gt(0).sum(axis=None)} of {steps.size} runs"


def _stability(record: Record) -> Numbers:
    rows = record.frames["summary"].dropna(subset="window")
    failed, guard = rows["failed_steps"].sum(), record.config.stability_limit
    largest = rows[["stability", "largest_coupling"]].max()
    return {**largest, "failed": failed, "guard": guard, "guarded": _guarded(record)}


def printed(record: Record) -> list[Printed]:
    """Return the numbers of Table 3 for the data set of a run."""
    if record.config.dataset not in PAPER_ACCURACY:
        return []

    def of(column: str, average: Callable[[Column], float]) -> Callable:
        none = pd.Series(dtype=float)
        return lambda window: lambda record: average(tuned(record, column).get(window, none))

    # A trial that was not stopped has no step: the mean of the others would be too small.
    mean = lambda values: values.mean(skipna=False)
    numbers = (
        ("accuracy", PAPER_ACCURACY, of("stopped_accuracy", mean)),
        (
            "±, here the standard deviation over trials",
            PAPER_DEVIATION,
            of("stopped_accuracy", lambda values: values.std()),
        ),
        ("steps until stopped", PAPER_STEPS, of("stopped_step", mean)),
        (
            "seconds of an outer step, here of a hypergradient",
            PAPER_SECONDS,
            lambda window: mean_of("cost", "seconds", window=window),
        ),
    )
    return [
        Printed(f"Table 3, {record.config.dataset}", f"K = {window}, {name}", value, here(window))
        for name, values, here in numbers
        for window, value in values[record.config.dataset].items()
    ]


CLAIMS = (
    Statement(
        "tuning-helps",
        "Section 4.2.2: tuning the similarities improves the validation loss, in every trial and "
        "with every window.",
        measure=_helps,
        verdict=lambda found: found["lower"].all(axis=None),
        evidence="validation loss {losses}; test accuracy {correct} (longest window {gain})",
    ),
    _fall(
        "loss-falls-with-window",
        "Figure 6: the validation loss reached falls as the window grows",
        "validation_loss",
    ),
    _fall(
        "stationarity-improves",
        "Figure 6: the exact gradient at the end shrinks as the window grows",
        "gradient_norm",
    ),
    Statement(
        "accuracy-gaps-are-small",
        lambda record: (
            "Table 3: short windows give nearly the test accuracy of the longest, within the "
            f"{100 * PAPER_GAP[_like(record)]:g} points of {_like(record)} there (here: decided "
            f"by {SURE:g} standard errors of the paired difference)."
        ),
        lacks=_only_longest,
        measure=_gaps,
        verdict=lambda found: _within(found["mean"], found["sem"], found["most"]),
        evidence="test accuracy minus that of the longest window, points: {text}",
        reasons={None: "It takes several trials, and standard errors below this margin."},
    ),
    Statement(
        "table-3-accuracy",
        lambda record: (
            f"Table 3, {_like(record)}: the test accuracies "
            f"({listed(PAPER_ACCURACY[_like(record)], '.4f')}) with early stopping on the test "
            "examples (here: no more than the number printed after ± below, with every window)."
        ),
        measure=_best,
        verdict=lambda found: all(found["reached"]) if found["reached"] else None,
        evidence="test accuracy until stopped {best:.4f}; the features are of {text}",
    ),
    Statement(
        "negative-cosine",
        "Figure 6 (CIFAR-100): the cosine of the 1-RMD and the exact gradient is negative at "
        "some steps.",
        lacks=_only_longest,
        measure=lambda record: _cosines(record).groupby("window")["cosine"].min(),
        verdict=lambda lowest: lowest[1] < 0 if 1 in lowest.index else None,
        evidence="smallest cosine by window {:.3f}",
        reasons={None: "Only a run with window 1 decides."},
    ),
    Statement(
        "cosine-goes-to-one",
        "Figure 6 (CIFAR-10): for windows above 1 the truncated and the exact gradient become "
        "almost the same (here: mean cosine of at least 0.9 in the last quarter of the steps).",
        lacks=_only_longest,
        measure=lambda record: _late(record).mean(),
        verdict=lambda means: (
            np.all(means[means.index > 1] >= 0.9) if means.index[-1] > 1 else None
        ),
        evidence="mean cosine in the last quarter {:.3f}",
        reasons={
            None: "Only a window above 1 and below the longest decides.",
            False: "The steps before the window still turn the gradient here.",
        },
    ),
    Statement(
        "window-one-is-cheaper",
        "Table 3: a step of 1-RMD takes 0.36 of the time of full RMD (0.8 s against 2.2 s on "
        "CIFAR-10, 1.0 s against 2.8 s on CIFAR-100).",
        measure=_costs,
        verdict=lambda found: found["seconds"] <= found["most"] if found["ends"] else None,
        evidence="time ratio {seconds:.2f}, memory ratio {mebibytes:.3f} of the shortest to the "
        "longest window",
        reasons={
            False: "The forward pass, and what an outer step does beside both passes, take as "
            "long for every window: with features and horizons as small as these, more than 0.36.",
            None: "Only a run with window 1 and the full window decides.",
        },
    ),
    Statement(
        "never-diverges",
        "Not in the paper: tuned similarities drive the inner descent to the limit of its "
        "stability (with step size 0.1 one C_ij above 2.5 suffices); with the guard no run "
        "crosses it.",
        measure=_stability,
        verdict=lambda found: (
            found["stability"] <= 1 and found["failed"] == 0 if found["guard"] else None
        ),
        evidence="largest stability {stability:.3f} (1 is the limit), largest C_ij "
        "{largest_coupling:.3g}; the guard acted in {guarded}, {failed:.0f} failed steps",
        reasons={None: "This run has no guard."},
    ),
)
