"""What the tables of `hypercleaning` say: its claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep.experiments.base import Claim, Record, Table
from metastep.report.figures import Figure, new_figure, style

# Shaban et al. (2019), Table 2: window to validation loss and F1 after 1000 outer steps.
PAPER_LOSS = {1: 0.413, 5: 0.383, 25: 0.382, 50: 0.381, 100: 0.380}
PAPER_F1 = {1: 0.85, 5: 0.89, 25: 0.89, 50: 0.89, 100: 0.88}
PAPER_STEP = 200  # by which the spec of the reproduction asks for the F1 below
PAPER_F1_FLOOR = 0.88


def _tuned(record: Record) -> dict[str, np.ndarray]:
    """Return the rows of `summary` that belong to a window."""
    summary = record.tables["summary"]
    keep = np.isfinite(summary["window"])
    return {name: np.asarray(column)[keep] for name, column in summary.items()}


def _baseline(record: Record, method: str) -> dict[str, float]:
    summary = record.tables["summary"]
    row = int(np.flatnonzero(summary["method"] == method)[0])
    return {name: summary[name][row] for name in ("test_accuracy", "validation_loss")}


def _history(record: Record, window: float) -> dict[str, np.ndarray]:
    table: Table = record.tables["history"]
    keep = np.asarray(table["window"]) == window
    return {name: np.asarray(column)[keep] for name, column in table.items()}


def _by_window(rows: Mapping[str, np.ndarray], name: str, digits: int) -> str:
    return ", ".join(
        f"{int(window)}: {value:.{digits}f}"
        for window, value in zip(rows["window"], rows[name], strict=True)
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Table 2 and Figure 5 against the tables."""
    return (*_detection_claims(record), *_order_claims(record), *_cost_claims(record))


def _detection_claims(record: Record) -> tuple[Claim, ...]:
    rows, noisy = _tuned(record), _baseline(record, "noisy labels")
    clean = _baseline(record, "clean labels")
    step = min(PAPER_STEP, record.config.outer_steps - 1)
    at_step = {w: _history(record, w)["f1_replaced"][step] for w in rows["window"]}
    long_enough = [value for window, value in at_step.items() if window >= 5]
    reached = bool(long_enough) and min(long_enough) >= PAPER_F1_FLOOR
    like_paper = record.config.dataset == "mnist" and record.config.outer_steps >= PAPER_STEP
    f1_text = ", ".join(f"{int(window)}: {value:.3f}" for window, value in at_step.items())
    return (
        Claim(
            "finds-corrupted-labels",
            "Table 2: the tuned weights find the replaced labels (F1 about 0.89 for windows from "
            f"5). Here: on MNIST at least {PAPER_F1_FLOOR} for windows from 5 after {PAPER_STEP} "
            "steps, elsewhere at least 0.8.",
            reached if like_paper else bool(long_enough) and bool(min(long_enough) >= 0.8),
            f"F1 against 'was replaced' after {step} steps by window: {f1_text}; at the end "
            f"{_by_window(rows, 'f1_replaced', 3)}; against 'is wrong' "
            f"{_by_window(rows, 'f1_wrong', 3)}",
        ),
        Claim(
            "better-model",
            "Section 4.2.1: the tuned weights give a better classifier than the noisy labels.",
            bool(np.all(rows["test_accuracy"] > noisy["test_accuracy"])),
            f"test accuracy by window {_by_window(rows, 'test_accuracy', 4)}; trained on the noisy "
            f"labels {noisy['test_accuracy']:.4f}, on clean ones {clean['test_accuracy']:.4f}",
        ),
    )


def _order_claims(record: Record) -> tuple[Claim, ...]:
    rows = _tuned(record)
    several = rows["window"].size > 1
    falls = bool(np.all(np.diff(rows["validation_loss"]) < 0)) if several else None
    paper = ", ".join(f"{window}: {loss}" for window, loss in PAPER_LOSS.items())
    test_error = np.sqrt(0.1 * 0.9 / max(record.metrics.get("test_examples", 3000), 1))
    spread = np.ptp(rows["test_accuracy"]) if several else 0.0
    norms = rows["gradient_norm"]
    return (
        Claim(
            "loss-falls-with-window",
            "Table 2: the validation loss falls as the window grows.",
            falls,
            f"validation loss by window {_by_window(rows, 'validation_loss', 4)}; paper {paper}",
        ),
        Claim(
            "accuracy-order",
            "Table 2: test accuracy rises slightly with the window.",
            None,
            f"differences up to {spread:.4f} against a standard error of about {test_error:.4f}: "
            f"one run cannot decide ({_by_window(rows, 'test_accuracy', 4)})",
        ),
        Claim(
            "stationarity-improves",
            "Figure 5: K-RMD does not reach an exact stationary point here, and the exact gradient "
            "at the end shrinks as the window grows.",
            bool(np.all(np.diff(norms) < 0)) if several else None,
            f"exact gradient norm by window {_by_window(rows, 'gradient_norm', 6)}",
        ),
    )


def _cost_claims(record: Record) -> tuple[Claim, ...]:
    rows = _tuned(record)
    full = rows["window"] == record.config.horizon
    five = rows["window"] == 5
    known = full.any() and five.any()
    loss = lambda mask: float(rows["validation_loss"][mask][0])
    seconds = lambda mask: float(rows["seconds_per_step"][mask][0])
    known_seconds = known and np.isfinite(seconds(full) * seconds(five))
    ratio = seconds(five) / seconds(full) if known_seconds else float("nan")
    noisy = _baseline(record, "noisy labels")["validation_loss"]
    kept = (noisy - loss(five)) / (noisy - loss(full)) if known else float("nan")
    return (
        Claim(
            "window-five-suffices",
            "Section 4.2.1: five steps of back-propagation do nearly as well as all of them "
            "(here: at least 90 % of the improvement in validation loss).",
            bool(kept >= 0.9) if known else None,
            f"window 5 keeps {100 * kept:.1f} % of the improvement of the full window"
            if known
            else "needs window 5 and the full window",
        ),
        Claim(
            "window-five-is-cheaper",
            "Section 4.2.1: window 5 takes about half the time of the full window (here: at most "
            "0.65).",
            bool(ratio <= 0.65) if known_seconds else None,
            f"time ratio {ratio:.2f}, measurements of the exact gradient included"
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
        panel.set_title(verdict, fontsize=9)
    caught = int(np.sum(given != true))
    figure.suptitle("The training examples trusted least: given label → true label", fontsize=11)
    text = (
        f"The {len(suspects)} training images with the smallest weight. {caught} of them carry a "
        "wrong label; each title shows the given and the true one."
    )
    return figure, text


def _weights_figure(record: Record) -> tuple[Figure, str]:
    arrays = record.arrays
    wrong = arrays["given"] != arrays["true"]
    figure, axes = new_figure(columns=1)
    bins = np.linspace(0, 1, 41)
    weights = arrays["weights"][-1]
    axes[0].hist(weights[~wrong], bins, alpha=0.75, label="correct label", color=style(0)["color"])
    axes[0].hist(
        weights[wrong],
        bins,
        alpha=0.75,
        label="wrong label",
        color=style(1)["color"],
        hatch="//",
    )
    window = int(_tuned(record)["window"][-1])
    axes[0].set(xlabel="tuned weight of the example", ylabel="examples", yscale="log")
    axes[0].set_title(f"Weights after tuning with window {window}")
    axes[0].legend()
    text = (
        "Histogram of the tuned weights. Examples with wrong labels gather near zero, those with "
        "correct labels near one."
    )
    return figure, text


def _progress_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    for index, window in enumerate(_tuned(record)["window"]):
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
        "Left: the validation loss falls towards that of training on clean labels. Right: the F1 "
        "score of the flagged examples rises. All windows but the shortest nearly coincide."
    )
    return figure, text


def _norm_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=1)
    for index, window in enumerate(_tuned(record)["window"]):
        history = _history(record, window)
        measured = np.isfinite(history["gradient_norm"])
        axes[0].plot(
            history["step"][measured],
            history["gradient_norm"][measured],
            label=f"K = {int(window)}",
            **style(index),
        )
    axes[0].set(xlabel="outer step", ylabel="|d|, exact hypergradient", yscale="log")
    axes[0].set_title("Distance from stationarity along K-RMD")
    axes[0].legend()
    text = (
        "Norm of the exact hypergradient along the path of each window, on a log scale. It levels "
        "off at a value that falls as the window grows: truncation biases the limit."
    )
    return figure, text
