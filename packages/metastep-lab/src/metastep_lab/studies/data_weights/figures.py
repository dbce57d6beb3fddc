"""The figures of `data-weights`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, new_figure, style
from metastep_lab.studies.data_weights.claims import METHODS, losses
from metastep_lab.tables import Record

NAMES = {
    "all": "all",
    "random": "random part\nleft out",
    "rated": "lowest ratings\nleft out",
    "clean": "clean ones\nonly",
}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the ratings, the losses and the progress of tuning."""
    return {
        "ratings": _ratings_figure(record),
        "test-loss": _loss_figure(record),
        "tuning": _tuning_figure(record),
    }


def _ratings_figure(record: Record) -> tuple[Figure, str]:
    ratings, corrupted = record.arrays["ratings"][0], record.arrays["corrupted"][0]
    figure, axes = new_figure(columns=1)
    bins = np.histogram_bin_edges(ratings, 30)
    for index, (name, those) in enumerate((("intact", ~corrupted), ("corrupted", corrupted))):
        label = f"{those.sum()} {name} examples"
        axes[0].hist(ratings[those], bins, alpha=0.6, color=style(index)["color"], label=label)
    dropped = np.quantile(ratings, record.config.drop)
    axes[0].axvline(dropped, color="black", linestyle=":", label="dropped below")
    axes[0].set(xlabel="rating", ylabel="training examples", title="Ratings of the first seed")
    axes[0].legend()
    text = (
        "How many training examples have which rating, for the first seed. The rating network "
        "was not told which examples are corrupted."
    )
    return figure, text


def _loss_figure(record: Record) -> tuple[Figure, str]:
    widths = (record.config.width, 2 * record.config.width)
    figure, axes = new_figure(columns=2)
    for panel, width in zip(axes, widths, strict=True):
        table = losses(record, width)
        for index, method in enumerate(METHODS):
            values = table[method].to_numpy()
            places = index + np.linspace(-0.15, 0.15, len(values))
            panel.plot(places, values, "o", color=style(index)["color"])
            panel.hlines(values.mean(), index - 0.3, index + 0.3, color=style(index)["color"])
        panel.set_xticks(range(len(METHODS)), [NAMES[method] for method in METHODS])
        panel.set(xlabel="training examples", ylabel="test loss (nats)")
        panel.set_title(f"{width} hidden units")
    text = (
        f"The test loss after {record.config.horizon} steps, a point for each seed and a line for "
        f"their mean. The ratings were tuned with {widths[0]} hidden units; the right panel shows "
        "models twice as wide."
    )
    return figure, text


def _tuning_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=1)
    for index, (seed, rows) in enumerate(record.frames["history"].groupby("seed")):
        # Runs begin anew at different steps, which makes a single step's mean jump.
        smooth = rows["validation_loss"].rolling(20, min_periods=1).mean()
        axes[0].plot(rows["step"], smooth, label=f"seed {seed:g}", **style(index))
    axes[0].set(xlabel="outer step", ylabel="validation loss (nats)")
    axes[0].set_title("Mean over training runs of all ages")
    axes[0].legend()
    text = (
        "The validation loss that the ratings are tuned on, the mean over the population, averaged "
        "over twenty outer steps. It falls at first because all runs begin untrained; it rises "
        "again and again because a run that is over begins anew."
    )
    return figure, text
