"""The figures of `mlp-optimizer`."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Frame, Record, where
from metastep_lab.wang2021.mlp_optimizer.claims import DOUBLE, TRAINED, VALIDATED
from metastep_lab.wang2021.mlp_optimizer.size_claims import mean_gaps, numbers_of_samples

NAMES = {
    TRAINED: "train-by-train, n",
    DOUBLE: "train-by-train, 2 n",
    VALIDATED: "train-by-validation, n + n",
}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw accuracy against steps and samples, the monitor, and the other problems."""
    found = {}
    for noise, samples in product(record.config.noise, numbers_of_samples(record)):
        few = samples == record.config.samples
        name = f"accuracy-noise-{round(100 * noise)}" + ("" if few else f"-samples-{samples}")
        found[name] = _accuracy_figure(record, noise, samples)
    if record.config.totals and any(len(mean_gaps(record, one)) for one in record.config.noise):
        found["gap-by-samples"] = _gap_figure(record)
    found["meta-training"] = _monitor_figure(record)
    if len(record.frames["generalization"]):
        found["generalization"] = _generalization_figure(record)
    return found


def _curve(rows: Frame, by: str) -> tuple[Frame, Frame]:
    """Return the mean over meta-seeds or tests and its standard deviation, by step."""
    curves = rows.pivot_table(index="step", columns=by, values="accuracy")
    return curves.mean(axis=1), curves.std(axis=1).fillna(0)


def _accuracy_figure(record: Record, noise: float, samples: int) -> tuple[Figure, str]:
    panels, ends = [], []
    rows = record.rows("accuracy", noise=noise, samples=samples)
    use = (
        "n examples are trained on, and as many more, where it says so, are held out to judge the "
        "optimizer or added"
    )
    names = NAMES
    if samples != record.config.samples:
        use = "a sixth of the samples is held out to judge the optimizer in train-by-validation"
        names = {TRAINED: TRAINED, VALIDATED: VALIDATED}
    rows = rows[rows["checkpoint"] != "final"]
    for split, title in (("train", "On the training labels"), ("test clean", "On new images")):
        series, bands = {}, {}
        for mode in (*(mode for mode in record.config.modes if mode in names), "SGD"):
            seeds = mode in names and record.config.meta_seeds > 1
            curves = where(rows, mode=mode, split=split)
            mean, spread = _curve(curves, "meta_seed" if seeds else "test")
            name = names.get(mode, "SGD, tuned")
            series[name], bands[name] = (mean.index, mean), (mean - spread, mean + spread)
            ends.append(f"{name} {mean.iloc[-1]:.3f} ({title.lower()})")
        panels.append(Lines(series, "steps", "accuracy", title, bands=bands))
    figure = line_figure(*panels, shared_legend=True)
    text = (
        f"Accuracy against steps at {noise:.0%} label noise with {samples:,} samples; {use}. "
        "Bands are one standard deviation over meta-seeds (over tests for SGD). At the end: "
        f"{'; '.join(ends)}."
    )
    return figure, text


def _gap_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(width=6.4, height=4.2)
    ends = []
    for index, noise in enumerate(record.config.noise):
        rows = mean_gaps(record, noise)
        if rows.empty:
            continue
        label = f"{noise:.0%} noise"
        errors = rows["error"].fillna(0)
        axes[0].errorbar(rows.index, rows["gap"], errors, label=label, **style(index, markers=True))
        ends.append(f"{label}: {', '.join(f'{gap:.3f}' for gap in rows['gap'])}")
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].set(xlabel="samples", ylabel="difference in test accuracy", xscale="log")
    numbers = numbers_of_samples(record)
    axes[0].set_xticks(numbers, [f"{one:,}" for one in numbers])
    axes[0].minorticks_off()
    axes[0].set_title("Train-by-validation less train-by-train")
    axes[0].legend()
    text = (
        "By how much networks trained by the optimizer of the validation loss are more often right "
        "on new images than those of the training loss, against the number of samples, on a log "
        f"scale; bars are one standard error over meta-seeds. {'; '.join(ends)}."
    )
    return figure, text


def _monitor_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    noise = record.config.noise[0]
    samples = record.config.samples or record.config.totals[0]
    cell = {"noise": noise, "samples": samples}
    meta, monitor = (record.rows(name, **cell) for name in ("meta", "monitor"))
    for index, mode in enumerate(record.config.modes):
        look = style(index)
        for seed in range(record.config.meta_seeds):
            label = NAMES[mode] if seed == 0 else None
            rows, fresh = (where(table, mode=mode, meta_seed=seed) for table in (meta, monitor))
            # Segments begin anywhere in a trajectory: their losses go up and down with where they
            # are.
            mean = rows["value"].rolling(max(1, len(rows) // 40)).mean()
            axes[0].plot(rows["update"], mean, label=label, **look)
            axes[1].plot(fresh["update"], fresh["value"], label=label, **look)
            kept = where(fresh, best=1)
            axes[1].plot(kept["update"], kept["value"], "o", color=look["color"], markersize=8)
    axes[0].set(xlabel="updates", ylabel="cross-entropy (nats)", title="Segments, running mean")
    axes[1].set(xlabel="updates", ylabel="cross-entropy (nats)", title="Fresh runs from scratch")
    axes[0].legend()
    text = (
        f"Meta-training at {noise:.0%} noise with {samples:,} samples, a line for each meta-seed: "
        "the loss on the segments of training by which the optimizer is updated, and that of fresh "
        "runs from scratch, averaged over their steps; the dot marks the weights of the optimizer "
        "that are kept."
    )
    return figure, text


def _generalization_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(width=8, height=4.6)
    noise = record.config.noise[0]
    rows = record.rows("generalization", noise=noise)
    problems, modes = rows["problem"].unique(), rows["mode"].unique()
    cells = rows.groupby(["mode", "problem"])["accuracy"]
    mean, spread = cells.mean(), cells.std(ddof=0)
    for index, mode in enumerate(modes):
        look = style(index, markers=True) | {"linestyle": "none"}
        place = np.arange(len(problems)) + 0.12 * (index - (len(modes) - 1) / 2)
        label = NAMES.get(mode, f"{mode}, tuned")
        axes[0].errorbar(place, mean[mode][problems], spread[mode][problems], label=label, **look)
    axes[0].set_xticks(range(len(problems)), problems)
    axes[0].set(ylabel="accuracy on new images", title="Problems that were never seen")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    text = (
        f"Test accuracy of optimizers meta-trained at {noise:.0%} noise on problems of other "
        "kinds, beside SGD and Adam tuned on each; bars are one standard deviation over tests "
        "and meta-seeds."
    )
    return figure, text
