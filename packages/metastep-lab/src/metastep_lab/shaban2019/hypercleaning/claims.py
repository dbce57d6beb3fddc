"""What the tables of `hypercleaning` say: its answer, claims and figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from metastep_lab.experiment import Claim, Record, Table
from metastep_lab.figures.style import Figure, new_figure, style

# Shaban et al. (2019), Table 2: window to validation loss, test accuracy and F1 after 1000 steps.
PAPER_LOSS = {1: 0.413, 5: 0.383, 25: 0.382, 50: 0.381, 100: 0.380}
PAPER_ACCURACY = {1: 0.8750, 5: 0.8805, 25: 0.8812, 50: 0.8817, 100: 0.8833}
PAPER_F1 = {1: 0.85, 5: 0.89, 25: 0.89, 50: 0.89, 100: 0.88}
CONVERGED = 150  # outer steps by which the F1 has essentially converged (Appendix G.1)
ROUNDING = 0.005  # of the printed F1
CLEAR = 2.0
"""A difference of two accuracies is decided from this many standard errors."""


def _tuned(record: Record) -> dict[str, np.ndarray]:
    """Return the rows of `summary` that belong to a window."""
    summary = record.tables["summary"]
    keep = np.isfinite(summary["window"])
    return {name: np.asarray(column)[keep] for name, column in summary.items()}


def _row(record: Record, method: str) -> int:
    return int(np.flatnonzero(record.tables["summary"]["method"] == method)[0])


def _baseline(record: Record, method: str) -> dict[str, float]:
    summary = record.tables["summary"]
    names = ("test_accuracy", "validation_loss")
    return {name: summary[name][_row(record, method)] for name in names}


def _history(record: Record, window: float) -> dict[str, np.ndarray]:
    table: Table = record.tables["history"]
    keep = np.asarray(table["window"]) == window
    return {name: np.asarray(column)[keep] for name, column in table.items()}


def _listed(values: Mapping[Any, float], digits: int) -> str:
    return ", ".join(f"K={int(window)} {value:.{digits}f}" for window, value in values.items())


def _by_window(rows: Mapping[str, np.ndarray], name: str, digits: int) -> str:
    return _listed(dict(zip(rows["window"], rows[name], strict=True)), digits)


def _gain(record: Record, row: int, reference: int) -> tuple[float, float]:
    """Return the difference of two test accuracies and its standard error, example by example."""
    correct = record.arrays["correct"].astype(float)
    difference = correct[row] - correct[reference]
    return float(difference.mean()), float(difference.std() / np.sqrt(difference.size))


def answer(record: Record) -> str:
    """Say how many of the wrong labels the longest window finds, and what that is good for."""
    arrays, rows = record.arrays, _tuned(record)
    bound = float(expit(record.config.threshold))
    wrong, flagged = arrays["given"] != arrays["true"], arrays["weights"][-1] < bound
    hits = np.sum(flagged & wrong)
    right, found = hits / max(flagged.sum(), 1), hits / max(wrong.sum(), 1)
    noisy, clean = (
        _baseline(record, f"{one} labels")["test_accuracy"] for one in ("noisy", "clean")
    )
    return (
        f"{'Yes' if min(right, found) > 0.8 else 'Only in part'}. {wrong.sum()} of the "
        f"{wrong.size} training labels are wrong. Tuning with window {rows['window'][-1]:g} pushes "
        f"the weight of {flagged.sum()} examples below {bound:.2f}: {100 * right:.0f} % of these "
        f"are wrong ones, and {100 * found:.0f} % of the wrong ones are among them. The test "
        f"accuracy is {rows['test_accuracy'][-1]:.3f}, against {noisy:.3f} when trained on the "
        f"labels as they are and {clean:.3f} when trained on the true ones."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Table 2 and Figure 5 against the tables."""
    return (*_detection_claims(record), *_order_claims(record), *_cost_claims(record))


def _detection_claims(record: Record) -> tuple[Claim, ...]:
    rows, summary = _tuned(record), record.tables["summary"]
    found = dict(zip(rows["window"], rows["f1_replaced"], strict=True))
    reached = [f1 >= PAPER_F1[w] - ROUNDING for w, f1 in found.items() if w in PAPER_F1]
    long_enough = bool(reached) and record.config.outer_steps >= CONVERGED
    noisy = _row(record, "noisy labels")
    gains = {w: _gain(record, row, noisy) for row, w in enumerate(rows["window"])}
    clear = [gain > CLEAR * error for gain, error in gains.values()]
    worse = any(gain < -CLEAR * error for gain, error in gains.values())
    return (
        Claim(
            "finds-corrupted-labels",
            f"Table 2: the tuned weights find the replaced labels, with an F1 of at least the "
            f"printed one for every window of the table ({_listed(PAPER_F1, 2)}). A label counts "
            "as replaced even if the random one is the true one by chance; as wrong only if it "
            "differs.",
            all(reached) if long_enough else None,
            f"F1 of finding replaced labels: {_by_window(rows, 'f1_replaced', 3)}; of finding "
            f"wrong ones: {_by_window(rows, 'f1_wrong', 3)}; {record.config.outer_steps} outer "
            f"steps, of which the paper has 1000 and needs {CONVERGED}",
        ),
        Claim(
            "better-model",
            "Section 4.2.1: the tuned weights give a better classifier than the noisy labels. "
            f"Here: by more than {CLEAR:g} standard errors with every window.",
            False if worse else bool(np.all(clear)) or None,
            f"test accuracy {_by_window(rows, 'test_accuracy', 4)}; trained on the noisy labels "
            f"{summary['test_accuracy'][noisy]:.4f}, on clean ones "
            f"{_baseline(record, 'clean labels')['test_accuracy']:.4f}; gain over the noisy labels "
            + ", ".join(f"K={w:g} {gain:.4f}±{error:.4f}" for w, (gain, error) in gains.items()),
        ),
    )


def _order_claims(record: Record) -> tuple[Claim, ...]:
    rows = _tuned(record)
    several = rows["window"].size > 1
    falls = bool(np.all(np.diff(rows["validation_loss"]) < 0)) if several else None
    gain, error = _gain(record, rows["window"].size - 1, 0)
    norms = rows["gradient_norm"]
    start = _history(record, rows["window"][0])["gradient_norm"][0]
    return (
        Claim(
            "loss-falls-with-window",
            "Table 2: the validation loss falls as the window grows.",
            falls,
            f"validation loss {_by_window(rows, 'validation_loss', 4)}; the paper, on MNIST: "
            f"{_listed(PAPER_LOSS, 3)}",
        ),
        Claim(
            "accuracy-order",
            "Table 2: test accuracy rises slightly with the window. Here: decided from "
            f"{CLEAR:g} standard errors between the shortest and the longest window.",
            bool(gain > 0) if several and abs(gain) > CLEAR * error else None,
            f"difference {gain:.4f}±{error:.4f} on {record.metrics['test_examples']:.0f} test "
            f"examples: {_by_window(rows, 'test_accuracy', 4)}; the paper, on MNIST: "
            f"{_listed(PAPER_ACCURACY, 4)}",
        ),
        Claim(
            "stationarity-improves",
            "Figure 5: after equally many steps the exact gradient is smaller, the longer the "
            "window is.",
            bool(np.all(np.diff(norms) < 0)) if several else None,
            f"norm of the exact gradient at the end: {_by_window(rows, 'gradient_norm', 6)}; "
            f"before the first step {start:.6f}",
        ),
    )


def _cost_claims(record: Record) -> tuple[Claim, ...]:
    rows = _tuned(record)
    full = rows["window"] == record.config.horizon
    five = rows["window"] == 5
    known = full.any() and five.any()
    seconds = lambda mask: float(rows["seconds_per_step"][mask][0])
    known_seconds = known and np.isfinite(seconds(full) * seconds(five))
    ratio = seconds(five) / seconds(full) if known_seconds else float("nan")
    gains = _baseline(record, "noisy labels")["validation_loss"] - rows["validation_loss"]
    kept = gains / gains[full][0] if known else gains
    return (
        Claim(
            "window-five-suffices",
            "Section 4.2.1: five steps of back-propagation do nearly as well as all of them "
            "(here: at least 90 % of the improvement in validation loss over the noisy labels).",
            bool(kept[five][0] >= 0.9) if known else None,
            "share of the full window's improvement: "
            + _listed(dict(zip(rows["window"], kept, strict=True)), 3)
            if known
            else "needs window 5 and the full window",
        ),
        Claim(
            "window-five-is-cheaper",
            "Section 4.2.1: window 5 runs about twice as fast as the full window (here: in less "
            "than 0.55 of its time, what rounds to a half).",
            bool(ratio < 0.55) if known_seconds else None,
            f"{seconds(five):.3g} s for an outer step against {seconds(full):.3g} s, ratio "
            f"{ratio:.2f}, timed once; the exact gradient, which is measured every "
            f"{record.config.measure_every} steps, is in both"
            if known_seconds
            else "not timed",
        ),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the suspects, the weights, the progress and Figure 5."""
    return {
        "suspects": _suspects_figure(record),
        "weights": _weights_figure(record),
        "progress": _progress_figure(record),
        "figure-5-gradient-norm": _norm_figure(record),
    }


def _suspects_figure(record: Record) -> tuple[Figure, str]:
    arrays = record.arrays
    suspects, images = arrays["suspects"], arrays["suspect_images"]
    given, true = arrays["given"][suspects], arrays["true"][suspects]
    columns = 10
    figure, axes = new_figure(columns=columns, rows=4, width=9, height=4.6)
    for index, panel in enumerate(axes.flat):
        panel.set_axis_off()
        if index >= len(suspects):
            continue
        panel.imshow(images[index], cmap="gray_r")
        verdict = f"{given[index]} → {true[index]}" if given[index] != true[index] else "correct"
        panel.set_title(verdict, fontsize=11)
    caught = int(np.sum(given != true))
    text = (
        f"The {len(suspects)} training images with the smallest weight after tuning with window "
        f"{_tuned(record)['window'][-1]:g}. {caught} of them carry a wrong label: above each stand "
        "the given and the true one."
    )
    return figure, text


def _weights_figure(record: Record) -> tuple[Figure, str]:
    arrays = record.arrays
    wrong = arrays["given"] != arrays["true"]
    bins = np.linspace(0, 1, 21)
    figure, axes = new_figure(columns=2)
    weights = arrays["weights"][-1]
    for panel, name, those in zip(axes, ("correct", "wrong"), (~wrong, wrong), strict=True):
        panel.hist(weights[those], bins, color=style(int(name == "wrong"))["color"])
        panel.set(xlabel="tuned weight of the example", ylabel="examples", yscale="log")
        panel.set(title=f"{those.sum()} examples with a {name} label", ylim=(0.5, wrong.size))
    bound = float(expit(record.config.threshold))
    missed, lost = np.sum(wrong & (weights >= bound)), np.sum(~wrong & (weights < bound))
    text = (
        f"How many examples have which weight after tuning with window "
        f"{_tuned(record)['window'][-1]:g}, in twenty bins, on a log scale. Below {bound:.2f} an "
        f"example counts as suspect: {missed} wrong labels are missed, and {lost} correct ones "
        "are suspected."
    )
    return figure, text


def _progress_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    for index, window in enumerate(_tuned(record)["window"][::-1]):
        history = _history(record, window)
        label = f"K = {int(window)}"
        axes[0].plot(history["step"], history["validation_loss"], label=label, **style(index))
        axes[1].plot(history["step"], history["f1_replaced"], label=label, **style(index))
    axes[0].axhline(
        _baseline(record, "clean labels")["validation_loss"],
        color="black",
        linestyle=":",
        label="clean labels",
    )
    axes[0].set(xlabel="outer step", ylabel="cross-entropy (nats)", title="Validation loss")
    axes[1].set(xlabel="outer step", ylabel="F1 score", title="Detection of replaced labels")
    axes[1].set_ylim(0, 1)
    axes[0].legend()
    axes[1].legend()
    text = (
        "The validation loss, which is what is tuned; it can end below that of training on all "
        "clean labels, which nothing was tuned for. And the F1 score of the flagged examples: 0 "
        f"until the first weights have fallen below {expit(record.config.threshold):.2f}."
    )
    return figure, text


def _norm_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=1)
    rows = _tuned(record)
    ends = zip(rows["window"][::-1], rows["gradient_norm"][::-1], strict=True)
    for index, (window, last) in enumerate(ends):
        history = _history(record, window)
        measured = np.isfinite(history["gradient_norm"])
        axes[0].plot(
            [*history["step"][measured], record.config.outer_steps],
            [*history["gradient_norm"][measured], last],
            label=f"K = {int(window)}",
            **style(index),
        )
    axes[0].set(xlabel="outer step", ylabel="norm of the exact hypergradient", yscale="log")
    axes[0].set_title("Distance from a stationary point, where it would be 0")
    axes[0].legend()
    text = (
        "Figure 5 of the paper: the norm of the exact hypergradient along the path of each window, "
        "on a log scale."
    )
    return figure, text
