"""The figures of `hypercleaning`."""

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from metastep_lab.figures.style import Figure, new_figure, style
from metastep_lab.shaban2019.hypercleaning.claims import CONVERGED, baseline, plotted, tuned
from metastep_lab.tables import Frame, Record, where


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the suspects, the weights, the progress, Figure 5, and both parts of Appendix G.1."""
    return {
        "suspects": _suspects_figure(record),
        "weights": _weights_figure(record),
        "progress": _progress_figure(record),
        "figure-5-gradient-norm": _norm_figure(record),
        "identification": _identification_figure(record),
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
        f"{tuned(record).index[-1]:g}. {caught} of them carry a wrong label: above each stand "
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
        # From a half, so that a bar of one example has a height on the logarithmic axis.
        panel.set(title=f"{those.sum()} examples with a {name} label", ylim=(0.5, wrong.size))
    bound = float(expit(record.config.threshold))
    missed, lost = np.sum(wrong & (weights >= bound)), np.sum(~wrong & (weights < bound))
    text = (
        f"How many examples have which weight after tuning with window "
        f"{tuned(record).index[-1]:g}, in twenty bins, on a log scale. Below {bound:.2f} an "
        f"example counts as suspect: {missed} wrong labels are missed, and {lost} correct ones "
        "are suspected."
    )
    return figure, text


def _paths(record: Record) -> list[tuple[float, Frame]]:
    """Return each window with its rows of `history`, the longest first."""
    paths = dict(list(record.frames["history"].groupby("window")))
    return [(window, paths[window]) for window in tuned(record).index[::-1]]


def _progress_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    for index, (window, history) in enumerate(_paths(record)):
        label = f"K = {window:g}"
        axes[0].plot(history["step"], history["validation_loss"], label=label, **style(index))
        axes[1].plot(history["step"], history["f1_replaced"], label=label, **style(index))
    axes[0].axhline(
        baseline(record, "clean")["validation_loss"],
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
    for index, (window, history) in enumerate(_paths(record)):
        measured = history.dropna(subset="gradient_norm")
        axes[0].plot(
            # `history` is from before each update; `summary` has what is after the last.
            [*measured["step"], record.config.outer_steps],
            [*measured["gradient_norm"], tuned(record)["gradient_norm"][window]],
            label=f"K = {window:g}",
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


def _identification_figure(record: Record) -> tuple[Figure, str]:
    """Draw the plot and the table of Appendix G.1."""
    rows = plotted(record)
    if rows.empty:  # the paper's window or threshold was not run
        first = record.frames["identification"].iloc[0]
        same = {name: first[name] for name in ("window", "threshold")}
        rows = record.rows("identification", **same)
    window, threshold, last = (rows[name].iloc[-1] for name in ("window", "threshold", "step"))
    wrong = np.sum(record.arrays["given"] != record.arrays["true"])
    figure, axes = new_figure(columns=2)
    lines = {
        "wrong labels": rows["wrong"],
        "right by chance": rows["replaced"] - rows["wrong"],
        "never replaced": rows["flagged"] - rows["replaced"],
    }
    for index, (label, values) in enumerate(lines.items()):
        axes[0].plot(rows["step"], values, label=label, **style(index))
    axes[0].axhline(wrong, color="black", linestyle=":", label="all wrong labels")
    axes[0].set(xlabel="outer step", ylabel="examples", title=f"Identified with K = {window:g}")
    compared = record.frames["thresholds"]
    step = CONVERGED if CONVERGED in set(compared["step"]) else last
    scores = where(compared, step=step).pivot(
        index="threshold", columns="window", values="f1_replaced"
    )
    for index, (one, values) in enumerate(scores.items()):
        look = style(index, markers=True)
        axes[1].plot(values.index, values, label=f"K = {one:g}", **look)
    axes[1].set(xlabel="threshold of the logit", ylabel="F1 score", ylim=(0, 1))
    axes[1].set_xticks(scores.index)
    axes[1].set_title(f"After {step:g} outer steps")
    for panel in axes:
        panel.legend()
    text = (
        "Appendix G.1 of the paper. Left: the examples whose logit is below "
        f"{threshold:g} while tuning with window {window:g}, those with a wrong label, those whose "
        "label was replaced by itself, and false positives. Right: the F1 score of finding "
        "replaced labels, by threshold and window."
    )
    return figure, text
