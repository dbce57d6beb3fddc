"""What the tables of `mlp-optimizer` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Record, Table, select

TRAINED, VALIDATED = "train-by-train", "train-by-validation"
DOUBLE = "train-by-train-2n"
NOISY = 0.2  # the papers' noise
GAP = 0.10
MEMORIZED = 0.97
PAPER_STEPS = 4000
NAMES = {
    TRAINED: "train-by-train, n",
    DOUBLE: "train-by-train, 2 n",
    VALIDATED: "train-by-validation, n + n",
}


def answer(record: Record) -> str:
    """Say by how much the networks of both optimizers differ on new images, and what they fit."""
    noise = NOISY if NOISY in record.config.noise else max(record.config.noise)
    gap, missing = _gap(record, noise, VALIDATED, TRAINED)
    if not gap.size:
        return f"This run cannot tell: it {missing}."
    ours, theirs = (
        _by_seed(record, noise, mode, "test clean").mean() for mode in (VALIDATED, TRAINED)
    )
    better = _above(gap, 0.0)
    opening = {None: "This run cannot tell", True: "Yes", False: "No"}[better]
    if gap.size == 1:
        difference = "with one meta-training of each, so that chance cannot be told apart"
    else:
        error = gap.std(ddof=1) / np.sqrt(gap.size)
        difference = f"a difference of {gap.mean():.3f}±{error:.3f} over {gap.size} meta-trainings"
    fitted = (_by_seed(record, noise, mode, "train").mean() for mode in (TRAINED, VALIDATED))
    return (
        f"{opening}. With {noise:.0%} of the training labels made wrong, networks trained by the "
        f"optimizer of the validation loss are right on {ours:.3f} of new images, those of the "
        f"training loss on {theirs:.3f}: {difference}. On the training labels, wrong ones "
        "included, {:.3f} are fitted with the training loss and {:.3f} with the validation "
        "loss.".format(*fitted)
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Figures 4 and 5, and what the reproduction found before, against the tables."""
    return (*_accuracy_claims(record), *_comparison_claims(record))


def _by_seed(record: Record, noise: float, mode: str, split: str) -> np.ndarray:
    """Return the mean accuracy over tests at the last step, for each meta-seed."""
    accuracy = record.tables["accuracy"]
    checkpoint = "best" if mode in NAMES else "tuned"
    last = np.max(accuracy["step"])
    found = select(accuracy, noise=noise, mode=mode, split=split, checkpoint=checkpoint, step=last)
    seeds = np.unique(found["meta_seed"])
    return np.array([np.mean(select(found, meta_seed=seed)["accuracy"]) for seed in seeds])


def _gap(record: Record, noise: float, better: str, worse: str) -> tuple[np.ndarray, str]:
    """Return the differences of test accuracy by meta-seed, and both means as text."""
    values = [_by_seed(record, noise, mode, "test clean") for mode in (better, worse)]
    if not all(value.size for value in values):
        return np.zeros(0), f"needs {better} and {worse} at noise {noise}"
    text = ", ".join(
        f"{mode} {_with_spread(value)}" for mode, value in zip((better, worse), values, strict=True)
    )
    return values[0] - values[1], f"test accuracy at noise {noise:g}: {text}"


def _with_spread(values: np.ndarray) -> str:
    if values.size == 1:
        return f"{values[0]:.3f} (one meta-seed)"
    return f"{values.mean():.3f} (sd over {values.size} meta-seeds {values.std(ddof=1):.3f})"


def _above(gap: np.ndarray, least: float) -> bool | None:
    """Whether a mean reaches `least`; None where two standard errors do not tell it from zero."""
    if gap.size < 2 or abs(gap.mean()) <= 2 * gap.std(ddof=1) / np.sqrt(gap.size):
        return None
    return bool(gap.mean() >= least)


def _accuracy_claims(record: Record) -> tuple[Claim, ...]:
    gap, text = _gap(record, NOISY, VALIDATED, TRAINED)
    fitted = _by_seed(record, NOISY, TRAINED, "train")
    resisted = _by_seed(record, NOISY, VALIDATED, "train")
    several = fitted.size > 1
    missing = f"needs {TRAINED} at noise {NOISY} and two meta-seeds"
    both = several and resisted.size > 1
    return (
        Claim(
            "validation-beats-training",
            "Figure 4(b): at 20 % noise and few samples train-by-validation generalizes much "
            "better (here: by at least 10 points, and two standard errors over meta-seeds).",
            _above(gap, GAP),
            f"{text}; differences by meta-seed {_numbers(gap)}" if gap.size else text,
        ),
        Claim(
            "training-memorizes-noise",
            "Figure 5: at 20 % noise train-by-train fits the noisy labels (here: training accuracy "
            f"of at least {MEMORIZED}).",
            bool(fitted.mean() >= MEMORIZED) if several else None,
            f"training accuracy {_with_spread(fitted)}" if fitted.size else missing,
        ),
        Claim(
            "validation-resists-noise",
            "Figure 5: train-by-validation does not fit the noisy labels (here: training accuracy "
            "below 0.95, and below that of train-by-train).",
            bool(resisted.mean() < min(0.95, fitted.mean())) if both else None,
            f"training accuracy {_with_spread(resisted)} against {_with_spread(fitted)}"
            if resisted.size and fitted.size
            else f"{missing}, and {VALIDATED}",
        ),
    )


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _comparison_claims(record: Record) -> tuple[Claim, ...]:
    noisy, _ = _gap(record, NOISY, VALIDATED, TRAINED)
    clean, clean_text = _gap(record, 0.0, VALIDATED, TRAINED)
    growth = noisy - clean if noisy.size == clean.size else np.zeros(0)
    double, double_text = _gap(record, NOISY, VALIDATED, DOUBLE)
    learned = _by_seed(record, NOISY, VALIDATED, "test clean")
    tuned = _by_seed(record, NOISY, "SGD", "test clean")
    sgd = learned - tuned if tuned.size else np.zeros(0)
    steps = int(np.max(record.tables["accuracy"]["step"]))
    return (
        Claim(
            "noise-widens-the-gap",
            "Figure 4(a, b): the advantage of train-by-validation grows with the noise.",
            _above(growth, 0.0),
            f"gap at noise {NOISY}: {_numbers(noisy)}; without: {_numbers(clean)} by meta-seed"
            if noisy.size and clean.size
            else clean_text,
        ),
        Claim(
            "more-samples-do-not-help-training",
            "2020, Figure 6: also with 2 n samples train-by-train stays behind.",
            _above(double, 0.0),
            double_text,
        ),
        Claim(
            "better-than-tuned-sgd",
            "2020, Figure 6: at 20 % noise train-by-validation is better than SGD whose step size "
            "was tuned on validation loss.",
            _above(sgd, 0.0),
            f"test accuracy {_with_spread(learned)} against {tuned[0]:.3f}"
            if sgd.size
            else f"needs {VALIDATED} at noise {NOISY}",
        ),
        Claim(
            "paper-steps",
            f"Figure 4: the difference stands after {PAPER_STEPS} steps.",
            None if steps < PAPER_STEPS else _above(noisy, GAP),
            f"tested for {steps} steps, inside the horizon of {record.config.horizon} that "
            "meta-training saw; beyond it learned optimizers may undo their work",
        ),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw accuracy against steps, the monitor of meta-training, and the other problems."""
    found = {
        f"accuracy-noise-{round(100 * noise)}": _accuracy_figure(record, noise)
        for noise in record.config.noise
    }
    found["meta-training"] = _monitor_figure(record)
    if record.tables["generalization"]["accuracy"].size:
        found["generalization"] = _generalization_figure(record)
    return found


def _curve(table: Table, seeds: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps, mean and standard deviation, over meta-seeds or else over tests."""
    steps = np.unique(table["step"])
    by = "meta_seed" if seeds else "test"
    repeats = np.unique(table[by])
    rows = np.array(
        [
            [np.mean(select(table, step=step, **{by: one})["accuracy"]) for step in steps]
            for one in repeats
        ]
    )
    spread = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(len(steps))
    return steps, rows.mean(axis=0), spread


def _accuracy_figure(record: Record, noise: float) -> tuple[Figure, str]:
    panels, ends = [], []
    accuracy = record.tables["accuracy"]
    for split, title in (("train", "On the training labels"), ("test clean", "On new images")):
        series, bands = {}, {}
        for mode in (*record.config.modes, "SGD"):
            checkpoint = "best" if mode in NAMES else "tuned"
            rows = select(accuracy, noise=noise, mode=mode, split=split, checkpoint=checkpoint)
            steps, mean, spread = _curve(rows, mode in NAMES and record.config.meta_seeds > 1)
            name = NAMES.get(mode, "SGD, tuned")
            series[name] = (steps, mean)
            bands[name] = (mean - spread, mean + spread)
            ends.append(f"{name} {mean[-1]:.3f} ({title.lower()})")
        panels.append(Lines(series, "steps", "accuracy", title, bands=bands))
    figure = line_figure(*panels, shared_legend=True)
    text = (
        f"Accuracy against steps at {noise:.0%} label noise; n examples are trained on, and as "
        "many more, where it says so, are held out to judge the optimizer or added. Bands are one "
        f"standard deviation over meta-seeds (over tests for SGD). At the end: {'; '.join(ends)}."
    )
    return figure, text


def _monitor_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(columns=2)
    noise = record.config.noise[0]
    meta, monitor = (select(record.tables[name], noise=noise) for name in ("meta", "monitor"))
    for index, mode in enumerate(record.config.modes):
        look = style(index)
        for seed in range(record.config.meta_seeds):
            label = NAMES[mode] if seed == 0 else None
            rows = select(meta, mode=mode, meta_seed=seed)
            width = max(1, len(rows["value"]) // 40)
            mean = np.convolve(rows["value"], np.ones(width) / width, "valid")
            axes[0].plot(rows["update"][width - 1 :], mean, label=label, **look)
            rows = select(monitor, mode=mode, meta_seed=seed)
            axes[1].plot(rows["update"], rows["value"], label=label, **look)
            kept = select(rows, best=1)
            axes[1].plot(kept["update"], kept["value"], "o", color=look["color"], markersize=8)
    axes[0].set(xlabel="updates", ylabel="cross-entropy (nats)", title="Segments, running mean")
    axes[1].set(xlabel="updates", ylabel="cross-entropy (nats)", title="Fresh runs from scratch")
    axes[0].legend()
    text = (
        f"Meta-training at {noise:.0%} noise, a line for each meta-seed: the loss on the segments "
        "of training by which the optimizer is updated, and that of fresh runs from scratch, "
        "averaged over their steps; the dot marks the weights of the optimizer that are kept."
    )
    return figure, text


def _generalization_figure(record: Record) -> tuple[Figure, str]:
    figure, axes = new_figure(width=8, height=4.6)
    noise = record.config.noise[0]
    table = select(record.tables["generalization"], noise=noise)
    problems = list(dict.fromkeys(table["problem"].tolist()))
    modes = list(dict.fromkeys(table["mode"].tolist()))
    for index, mode in enumerate(modes):
        look = style(index, markers=True) | {"linestyle": "none"}
        cells = [select(table, problem=problem, mode=mode)["accuracy"] for problem in problems]
        place = np.arange(len(problems)) + 0.12 * (index - (len(modes) - 1) / 2)
        means, spreads = [one.mean() for one in cells], [one.std() for one in cells]
        axes[0].errorbar(place, means, spreads, label=NAMES.get(mode, f"{mode}, tuned"), **look)
    axes[0].set_xticks(range(len(problems)), problems)
    axes[0].set(ylabel="accuracy on new images", title="Problems that were never seen")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    text = (
        f"Test accuracy of optimizers meta-trained at {noise:.0%} noise on problems of other "
        "kinds, beside SGD and Adam tuned on each; bars are one standard deviation over tests "
        "and meta-seeds."
    )
    return figure, text
