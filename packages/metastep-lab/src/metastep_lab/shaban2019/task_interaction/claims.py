"""What the tables of `task-interaction` say: its answer, claims and figures."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, draw_heatmap, line_figure, new_figure
from metastep_lab.tables import Record, select

PAPER_GAP = 0.0025  # Table 3, CIFAR-10: 61.11 to 61.33 %
ALLOWED_GAP = 0.01
SURE = 2.0  # standard errors
SHORT_NAME = 3  # letters that fit below a column


def _windows(record: Record) -> list[int]:
    windows = record.tables["summary"]["window"]
    return [int(w) for w in np.unique(windows[np.isfinite(windows)])]


def _by_trial(record: Record, column: str, method: str) -> np.ndarray:
    """Return one number per trial, in the order of trials."""
    rows = select(record.tables["summary"], method=method)
    return rows[column][np.argsort(rows["trial"])]


def _each(record: Record, column: str) -> dict[int, np.ndarray]:
    return {w: _by_trial(record, column, f"{w}-RMD") for w in _windows(record)}


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else float("nan")
    return float(values.mean()), float(error)


def _means(values: Mapping[int, np.ndarray], form: str) -> str:
    return ", ".join(f"K={window} {x.mean():{form}}" for window, x in values.items())


def answer(record: Record) -> str:
    """Say what tuning the similarities gains, and which classes it brings together."""
    window = _windows(record)[-1]
    method = f"{window}-RMD"
    before, after = (_by_trial(record, "validation_loss", name) for name in ("untuned", method))
    wrong, right = (_by_trial(record, "test_accuracy", name) for name in ("untuned", method))
    gain, error = _mean_and_error(right - wrong)
    if not np.all(np.isfinite(after)):
        return "This run cannot tell: the training with tuned similarities diverged."
    if not np.all(after < before) or gain < -SURE * error:
        opening = "No"
    elif right.size == 1:
        opening = "This run cannot tell, with one trial"
    else:
        opening = "Yes" if gain > SURE * error else "Only in part"
    chance = f"±{error:.4f} over {right.size} trials" if right.size > 1 else ""
    mean = _coupling(record)
    names = [record.arrays["classes"][i] for i in np.unravel_index(np.nanargmax(mean), mean.shape)]
    return (
        f"{opening}. Tuning the similarities with window {window} brings the validation loss from "
        f"{before.mean():.3f} to {after.mean():.3f} and the test accuracy from {wrong.mean():.3f} "
        f"to {right.mean():.3f}, a difference of {gain:+.4f}{chance}. It lets {names[0]} and "
        f"{names[1]} share most."
    )


def _coupling(record: Record) -> np.ndarray:
    """Return the matrix C of the longest window, mean over trials, without its diagonal."""
    mean = record.arrays["coupling"][-1].mean(axis=0)
    np.fill_diagonal(mean, np.nan)
    return mean


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Table 3 and Figure 6 against the tables."""
    return (
        _helps_claim(record),
        *_window_claims(record),
        _accuracy_claim(record),
        *_cosine_claims(record),
        _cost_claim(record),
        _stability_claim(record),
    )


def _helps_claim(record: Record) -> Claim:
    losses, untuned = (
        _each(record, "validation_loss"),
        _by_trial(record, "validation_loss", "untuned"),
    )
    correct, before = _each(record, "test_accuracy"), _by_trial(record, "test_accuracy", "untuned")
    gain = _mean_and_error(correct[_windows(record)[-1]] - before)
    return Claim(
        "tuning-helps",
        "Section 4.2.2: tuning the similarities improves the validation loss, in every trial and "
        "with every window.",
        all(bool(np.all(loss < untuned)) for loss in losses.values()),
        f"validation loss {untuned.mean():.4f} untuned, by window {_means(losses, '.4f')}; test "
        f"accuracy {before.mean():.4f} untuned, by window {_means(correct, '.4f')} (longest "
        f"window {gain[0]:+.4f}, standard error {gain[1]:.4f})",
    )


def _window_claims(record: Record) -> tuple[Claim, ...]:
    losses, norms = _each(record, "validation_loss"), _each(record, "gradient_norm")
    windows = _windows(record)
    several = len(windows) > 1 and losses[windows[0]].size > 1
    found = []
    for name, values, text in (
        (
            "loss-falls-with-window",
            losses,
            "Figure 6: the validation loss reached falls as the window grows",
        ),
        (
            "stationarity-improves",
            norms,
            "Figure 6: the exact gradient at the end shrinks as the window grows",
        ),
    ):
        steps = [_mean_and_error(values[a] - values[b]) for a, b in pairwise(windows)]
        ends = _mean_and_error(values[windows[0]] - values[windows[-1]])
        falls = all(mean > 0 for mean, _ in steps) and ends[0] > SURE * ends[1]
        found.append(
            Claim(
                name,
                f"{text} (on average over trials at each step, and by {SURE:g} standard errors "
                "from the shortest to the longest).",
                bool(falls) if several else None,
                f"by window {_means(values, '.4g')}; shortest minus longest {ends[0]:.3g}, "
                f"standard error {ends[1]:.2g}, {values[windows[0]].size} trials; the guard "
                f"acted in {_guarded(record)}",
            )
        )
    return tuple(found)


def _accuracy_claim(record: Record) -> Claim:
    values, windows = _each(record, "test_accuracy"), _windows(record)
    gaps = {w: _mean_and_error(values[w] - values[windows[-1]]) for w in windows[:-1]}
    text = ", ".join(f"K={w} {100 * gap:+.2f}±{100 * e:.2f}" for w, (gap, e) in gaps.items())
    within = [abs(gap) + SURE * error <= ALLOWED_GAP for gap, error in gaps.values()]
    beyond = [abs(gap) - SURE * error > ALLOWED_GAP for gap, error in gaps.values()]
    best = _means(_each(record, "best_test_accuracy"), ".4f")
    return Claim(
        "accuracy-gaps-are-small",
        "Table 3: short windows give nearly the test accuracy of the longest (there at most "
        f"{100 * PAPER_GAP:g} points; here: within {100 * ALLOWED_GAP:g} point, decided by "
        f"{SURE:g} standard errors of the paired difference).",
        False if any(beyond) else True if within and all(within) else None,
        f"test accuracy minus that of the longest window, points: {text or 'one window only'}; "
        f"best accuracy on the way {best}",
    )


def _cosine_claims(record: Record) -> tuple[Claim, ...]:
    table, windows = record.tables["history"], _windows(record)
    late = 0.75 * record.config.outer_steps
    lowest, ends = {}, {}
    for window in windows[:-1]:
        rows = select(table, window=window)
        lowest[window] = np.array([np.nanmin(rows["cosine"])])
        ends[window] = rows["cosine"][rows["step"] >= late]
    text = f"smallest cosine by window {_means(lowest, '.3f')}"
    longer = [w for w in ends if w > 1]
    return (
        Claim(
            "negative-cosine",
            "Figure 6 (CIFAR-100): the cosine of the 1-RMD and the exact gradient is negative at "
            "some steps.",
            bool(lowest[1][0] < 0) if 1 in lowest else None,
            text if lowest else "needs a window below the longest",
        ),
        Claim(
            "cosine-goes-to-one",
            "Figure 6 (CIFAR-10): for windows above 1 the truncated and the exact gradient become "
            "almost the same (here: mean cosine of at least 0.9 in the last quarter of the steps).",
            all(bool(np.nanmean(ends[w]) >= 0.9) for w in longer) if longer else None,
            f"mean cosine in the last quarter {_means(ends, '.3f')}"
            if ends
            else "needs a window below the longest",
        ),
    )


def _cost_claim(record: Record) -> Claim:
    cost = record.tables["cost"]
    ratio = float(cost["seconds"][0] / cost["seconds"][-1])
    memory = float(cost["mebibytes"][0] / cost["mebibytes"][-1])
    full, one = cost["window"][-1] == record.config.horizon, cost["window"][0] == 1
    return Claim(
        "window-one-is-cheaper",
        "Table 3: a step of 1-RMD takes 0.36 of the time of full RMD (0.8 s against 2.2 s; here: "
        "at most 0.65).",
        bool(ratio <= 0.65) if full and one else None,
        f"time ratio {ratio:.2f}, memory ratio {memory:.3f} of the shortest to the longest window",
    )


def _stability_claim(record: Record) -> Claim:
    rows = record.tables["summary"]
    tuned = np.isfinite(rows["window"])
    stability, failed = rows["stability"][tuned].max(), rows["failed_steps"][tuned].sum()
    return Claim(
        "never-diverges",
        "Not in the paper: tuned similarities drive the inner descent to the limit of its "
        "stability (with step size 0.1 one C_ij above 2.5 suffices); with the guard no run "
        "crosses it.",
        bool(stability <= 1 and failed == 0) if record.config.stability_limit else None,
        f"largest stability {stability:.3f} (1 is the limit), largest C_ij "
        f"{rows['largest_coupling'][tuned].max():.3g}; the guard acted in {_guarded(record)}, "
        f"{int(failed)} failed steps",
    )


def _guarded(record: Record) -> str:
    rows = record.tables["summary"]
    steps = rows["guarded_steps"][np.isfinite(rows["window"])]
    return f"{int(np.sum(steps > 0))} of {steps.size} runs"


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 6 and the tuned similarities."""
    return {"figure-6": _progress_figure(record), "similarities": _coupling_figure(record)}


def _progress_figure(record: Record) -> tuple[Figure, str]:
    def panel(column: str, label: str, title: str, windows: list[int], log: bool) -> Lines:
        series, bands = {}, {}
        for window in windows:
            rows = select(record.tables["history"], window=window)
            steps = np.unique(rows["step"])
            values = np.array([rows[column][rows["step"] == step] for step in steps])
            series[f"K = {window}"] = steps, values.mean(axis=1)
            bands[f"K = {window}"] = values.min(axis=1), values.max(axis=1)
        shown = bands if column == "cosine" else {}
        return Lines(series, "outer step", label, title, y_log=log, bands=shown)

    windows = _windows(record)
    figure = line_figure(
        panel("validation_loss", "cross-entropy (nats)", "Validation loss", windows, False),
        panel("gradient_norm", "|d|", "Exact hypergradient", windows, True),
        panel("cosine", "cosine", "Estimate and exact", windows[:-1] or windows, False),
        columns=3,
    )
    text = (
        "Mean over trials while tuning with window K: the validation loss; the norm |d| of the "
        "exact hypergradient, on a log scale; and the cosine of the angle between the estimated "
        "and the exact hypergradient, with bands from the smallest to the largest trial: 1 is the "
        "same direction, below 0 is uphill."
    )
    return figure, text


def _coupling_figure(record: Record) -> tuple[Figure, str]:
    mean = _coupling(record)
    names = [str(name) for name in record.arrays["classes"]]
    figure, axes = new_figure(width=8.0, height=6.4)
    draw_heatmap(
        axes[0],
        np.round(np.log10(mean), 1),
        x_ticks=names,
        y_ticks=names,
        x_label="class",
        y_label="class",
        color_label="log10 of C",
        title=f"Similarity found with window {_windows(record)[-1]}",
    )
    if max(map(len, names)) > SHORT_NAME:
        axes[0].tick_params(axis="x", rotation=45)
    first, second = np.unravel_index(np.nanargmax(mean), mean.shape)
    text = (
        "The tuned similarity C of every two classes, mean over trials, as its logarithm to base "
        f"10: -2 is 0.01. The larger it is, the nearer the two models are held. Those of "
        f"{names[first]} and {names[second]} are pulled together most."
    )
    return figure, text
