"""What the tables of `label-noise` say: its claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep.experiments.base import Claim, Record, Table, select
from metastep.report.figures import MARKERS, Figure, new_figure, style

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
    """Whether our mean is above every other one by two standard errors, with the numbers."""
    noises = tuple(noise for noise in noises if noise in record.config.noise)
    if not noises:
        return None, "this kind of noise was not run"
    detection, config = record.tables["detection"], record.config
    found = [difference(detection, noise, ours, arm, name) for noise in noises for arm in others]
    evidence = "; ".join(text for *_, text in found) + f"; {config.dataset}, {config.seeds} seeds"
    if config.seeds < FEWEST_SEEDS:
        return None, f"{evidence}: fewer than {FEWEST_SEEDS} decide nothing"
    return all(mean > MARGIN * error for mean, error, _ in found), evidence


ALONE: Arm = ("confident learning", "none")
INFORMED: Arm = ("confident learning", "clean")
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
        "It does so, too, against confident learning that trains on the same clean validation "
        "examples.",
        (HALF, OURS, (INFORMED,), "f1"),
    ),
    (
        "beats-validation-model",
        "It does so, too, against confident learning with a model that was trained on the "
        "clean validation examples alone, whatever the noise.",
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
        "The same where labels are mistaken for those of a similar class.",
        (CLASSES, OURS, (ALONE, INFORMED), "f1"),
    ),
    (
        "noisy-validation",
        "At 50 % uniform noise hypercleaning on a validation set that is as noisy finds wrong "
        "labels with a higher F1 than confident learning on the same examples.",
        (HALF, OURS_NOISY, (("confident learning", "noisy"),), "f1"),
    ),
    (
        "noisy-validation-by-class",
        "The same where labels are mistaken for those of a similar class, in the validation "
        "set as well.",
        (CLASSES, OURS_NOISY, (("confident learning", "noisy"),), "f1"),
    ),
    (
        "better-model",
        "At 50 % uniform noise what hypercleaning keeps trains a better classifier than plain "
        "training on the noisy labels.",
        (HALF, OURS, (("plain training", "none"),), "test_accuracy"),
    ),
    (
        "better-model-at-equal-information",
        "It trains a better one than confident learning and plain training that see the "
        "clean validation examples, and than these examples alone give.",
        (HALF, OURS, (INFORMED, ("plain training", "clean"), VALIDATION_ONLY), "test_accuracy"),
    ),
)
"""Identifier, text, and what is compared: noises, our arm, the others, the measure."""


def claims(record: Record) -> tuple[Claim, ...]:
    """Compare hypercleaning with the others, at unequal and at equal information."""
    return tuple(
        Claim(name, text, *_better(record, *comparison)) for name, text, comparison in CLAIMS
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw detection and test accuracy by method, and the trade of precision for recall."""
    return {
        "f1": (
            _dots(record, "f1", "F1 score of finding wrong labels"),
            "One panel for each kind of noise, one row for each method: the mean F1 score over "
            "seeds with its standard error, by what kind of validation set the method was given.",
        ),
        "roc-auc": (
            _dots(record, "roc_auc", "area under the ROC curve"),
            "The same for the ranking of the examples alone, whatever each method's threshold is.",
        ),
        "test-accuracy": (
            _dots(record, "test_accuracy", "test accuracy"),
            "The same for the accuracy on clean test examples of the model that each method ends "
            "with.",
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
