"""What the tables of `label-noise` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import MARKERS, Figure, new_figure, style
from metastep_lab.tables import Record, Table, select

METRICS = ("f1", "precision", "recall", "roc_auc", "test_accuracy")
LEVELS = ("none", "clean", "noisy")
FEWEST_SEEDS = 5
MARGIN = 2.0  # standard errors by which a difference counts

Arm = tuple[str, str]
"""A method and the labels of its validation set."""

OURS: Arm = ("hypercleaning", "clean")
OURS_NOISY: Arm = ("hypercleaning", "noisy")


def difference(
    detection: Table, noise: str, ours: Arm, other: Arm, name: str
) -> tuple[float, float, str]:
    """Return the mean paired difference, its standard error, and both in words."""
    first, second = (
        select(detection, noise=noise, method=method, validation=level)[name]
        for method, level in (ours, other)
    )
    paired = first - second
    error = float(np.std(paired, ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else np.nan
    text = (
        f"{noise}: {first.mean():.3f} against {second.mean():.3f} of {other[0]} ({other[1]}), "
        f"difference {paired.mean():+.3f} ± {error:.3f}"
    )
    return float(paired.mean()), error, text


def _better(
    record: Record, noises: tuple[str, ...], ours: Arm, others: tuple[Arm, ...], name: str
) -> tuple[bool | None, str]:
    """Whether our mean is above every other one, as far as standard errors tell; the numbers."""
    noises = tuple(noise for noise in noises if noise in record.config.noise)
    if not noises:
        return None, "this kind of noise was not run"
    detection, config = record.tables["detection"], record.config
    found = [difference(detection, noise, ours, arm, name) for noise in noises for arm in others]
    evidence = "; ".join(text for *_, text in found) + f"; {config.dataset}, {config.seeds} seeds"
    if config.seeds < FEWEST_SEEDS:
        return None, f"{evidence}: fewer than {FEWEST_SEEDS} decide nothing"
    if all(mean > MARGIN * error for mean, error, _ in found):
        return True, evidence
    return (False if any(mean < -MARGIN * error for mean, error, _ in found) else None), evidence


ALONE: Arm = ("confident learning", "none")
INFORMED: Arm = ("confident learning", "clean")
UNINFORMED: Arm = ("confident learning", "noisy")
VALIDATION_ONLY: Arm = ("validation model", "clean")
HALF, FIFTH, CLASSES = ("uniform-50",), ("uniform-20",), ("class-dependent",)
CLAIMS = (
    (
        "beats-confident-learning",
        "With a clean validation set, hypercleaning finds wrong labels at 50 % uniform noise "
        "with a higher F1 than confident learning without one.",
        (HALF, OURS, (ALONE,), "f1"),
    ),
    (
        "at-equal-information",
        "At 50 % uniform noise its F1 is also higher than that of confident learning that trains "
        "on the same clean validation examples.",
        (HALF, OURS, (INFORMED,), "f1"),
    ),
    (
        "beats-validation-model",
        "With every kind of noise its F1 is also higher than that of confident learning with a "
        "model that was trained on the clean validation examples alone.",
        ((*FIFTH, *HALF, *CLASSES), OURS, (VALIDATION_ONLY,), "f1"),
    ),
    (
        "little-noise",
        "At 20 % uniform noise its F1 is higher than that of confident learning without and "
        "with the clean examples.",
        (FIFTH, OURS, (ALONE, INFORMED), "f1"),
    ),
    (
        "class-dependent-noise",
        "Where labels are mistaken for those of a similar class, its F1 is higher than that of "
        "confident learning without and with the clean examples.",
        (CLASSES, OURS, (ALONE, INFORMED), "f1"),
    ),
    (
        "noisy-validation",
        "At 50 % uniform noise hypercleaning on a validation set that is as noisy finds wrong "
        "labels with a higher F1 than confident learning on the same examples.",
        (HALF, OURS_NOISY, (UNINFORMED,), "f1"),
    ),
    (
        "noisy-validation-by-class",
        "Where labels are mistaken for those of a similar class, in the validation set as well, "
        "its F1 is higher than that of confident learning on the same examples.",
        (CLASSES, OURS_NOISY, (UNINFORMED,), "f1"),
    ),
    (
        "better-model",
        "At 50 % uniform noise what hypercleaning keeps trains a better classifier than plain "
        "training on the noisy labels.",
        (HALF, OURS, (("plain training", "none"),), "test_accuracy"),
    ),
    (
        "better-model-at-equal-information",
        "At 50 % uniform noise it trains a better one than confident learning and plain training "
        "that see the clean validation examples, and than these examples alone give.",
        (HALF, OURS, (INFORMED, ("plain training", "clean"), VALIDATION_ONLY), "test_accuracy"),
    ),
)
"""Identifier, text, and what is compared: noises, our arm, the others, the measure."""


def answer(record: Record) -> str:
    """Say in how many kinds of noise it is better, and what becomes of it without clean labels."""
    config, detection = record.config, record.tables["detection"]
    if config.seeds < FEWEST_SEEDS:
        return f"This run cannot tell: its seeds are {config.seeds} and decide from {FEWEST_SEEDS}."
    wins = []
    for ours, other in ((OURS, ALONE), (OURS, INFORMED), (OURS_NOISY, UNINFORMED)):
        found = [difference(detection, noise, ours, other, "f1") for noise in config.noise]
        wins.append(sum(mean > MARGIN * error for mean, error, _ in found))
    total = len(config.noise)
    opening = "Yes" if wins[0] == wins[1] == total else "Only in part" if any(wins[:2]) else "No"
    noise = HALF[0] if HALF[0] in config.noise else config.noise[0]
    clean, noisy, theirs = (
        select(detection, noise=noise, method=method, validation=level)["f1"].mean()
        for method, level in (OURS, OURS_NOISY, UNINFORMED)
    )
    return (
        f"{opening}. With a clean validation set its F1 score is clearly higher than that of "
        f"confident learning without one in {wins[0]} of {total} kinds of noise, and than with the "
        f"same clean examples in {wins[1]}. With a validation set as noisy as the training labels "
        f"in {wins[2]}: with {noise} noise its F1 falls from {clean:.3f} to {noisy:.3f}, against "
        f"{theirs:.3f}."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Compare hypercleaning with the others, at unequal and at equal information."""
    return tuple(
        Claim(
            name,
            f"{text} Here: by more than {MARGIN:g} standard errors.",
            *_better(record, *comparison),
        )
        for name, text, comparison in CLAIMS
    )


LOOK = (
    "With its standard error, for each method and kind of noise (the part of the labels replaced "
    "by random ones, or classes mistaken for similar ones), by what validation set it was given. "
    "Small loss flags examples of large loss, plain training those that its model takes for "
    "another class, the validation model knows only the validation set."
)
"""How all figures are to be read."""


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw detection and test accuracy by method, and the trade of precision for recall."""
    return {
        "f1": (
            _dots(record, "f1", "F1 score of finding wrong labels"),
            f"How well wrong labels are found: the mean F1 score over seeds. {LOOK}",
        ),
        "roc-auc": (
            _dots(record, "roc_auc", "area under the ROC curve"),
            f"How well each method ranks wrong labels above correct ones, whatever its threshold. "
            f"{LOOK}",
        ),
        "test-accuracy": (
            _dots(record, "test_accuracy", "test accuracy"),
            "The accuracy on clean test examples of the model that each method ends with: but for "
            f"plain training, it is trained on what was not flagged. {LOOK}",
        ),
    }


def _dots(record: Record, name: str, label: str) -> Figure:
    noises, summary = record.config.noise, record.tables["summary"]
    methods = list(dict.fromkeys(summary["method"].tolist()))
    figure, axes = new_figure(columns=len(noises), width=2.2 + 3.1 * len(noises), height=4.2)
    for place, (panel, noise) in enumerate(zip(axes, noises, strict=True)):
        for index, level in enumerate(LEVELS):
            rows = select(summary, noise=noise, validation=level)
            heights = [methods.index(method) + 0.22 * (index - 1) for method in rows["method"]]
            panel.errorbar(
                rows[name],
                heights,
                xerr=np.nan_to_num(rows[f"{name}_error"]),
                linestyle="none",
                marker=MARKERS[index],
                markersize=6,
                capsize=3,
                color=style(index)["color"],
                label=level,
            )
        panel.set(xlabel=label, title=noise)
        panel.set_yticks(range(len(methods)), methods if place == 0 else [""] * len(methods))
        panel.set_ylim(len(methods) - 0.5, -0.5)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, title="validation set's labels")
    return figure
