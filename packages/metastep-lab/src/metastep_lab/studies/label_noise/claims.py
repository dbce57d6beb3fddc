"""The claims of `label-noise`, comparisons of methods, and its answer."""

from collections.abc import Sequence

import pandas as pd

from metastep_lab.claims import Numbers, Statement, beyond, each, lacking, mean_and_error
from metastep_lab.tables import Column, Frame, Record

METRICS = ("f1", "precision", "recall", "roc_auc", "test_accuracy")
FEWEST_SEEDS = 5
MARGIN = 2.0  # standard errors by which a difference counts

Arm = tuple[str, str]
"""A method and the labels of its validation set."""

OURS: Arm = ("hypercleaning", "clean")
OURS_NOISY: Arm = ("hypercleaning", "noisy")
ALONE: Arm = ("confident learning", "none")
INFORMED: Arm = ("confident learning", "clean")
UNINFORMED: Arm = ("confident learning", "noisy")
VALIDATION_ONLY: Arm = ("validation model", "clean")
HALF, FIFTH, CLASSES = "uniform-50", "uniform-20", "class-dependent"


def compared(
    detection: Frame, noise: str, ours: Arm, other: Arm, name: str = "f1"
) -> dict[str, str | float]:
    """Return the means of two arms, and the mean and the standard error of their difference."""
    rows = detection[detection["noise"] == noise]
    by_seed = rows.set_index(["method", "validation", "seed"])[name].sort_index()
    first, second = by_seed.loc[ours], by_seed.loc[other]
    mean, error = mean_and_error(first - second)
    means = {"ours": first.mean(), "theirs": second.mean(), "mean": mean, "error": error}
    return {"noise": noise, "other": f"{other[0]} ({other[1]})", **means}


def _clear(rows: Sequence[dict[str, str | float]]) -> Column:
    """Return the differences that are above zero by more than `MARGIN` standard errors."""
    return pd.DataFrame(rows).eval("mean > @MARGIN * error").to_numpy()


DIFFERENCES = each(
    "{noise}: {ours:.3f} against {theirs:.3f} of {other}, difference {mean:+.3f} ± {error:.3f}"
)


Comparison = tuple[tuple[str, ...], Arm, tuple[Arm, ...]]
"""Kinds of noise, our arm, and the others."""


def _better(id: str, text: str, comparison: Comparison, name: str = "f1") -> Statement:
    """Return the statement that our mean is above every other one."""
    noises, ours, others = comparison

    def measure(record: Record) -> Numbers:
        config, detection = record.config, record.frames["detection"]
        rows = pd.DataFrame(
            compared(detection, noise, ours, other, name)
            for noise in noises
            if noise in config.noise
            for other in others
        )
        few = f": fewer than {FEWEST_SEEDS} decide nothing" * (config.seeds < FEWEST_SEEDS)
        return {"mean": rows["mean"], "error": rows["error"], "all": DIFFERENCES(rows), "few": few}

    return Statement(
        id,
        f"{text} Here: by more than {MARGIN:g} standard errors.",
        lacks=lacking(
            "this kind of noise was not run", lambda record: {*noises} & {*record.config.noise}
        ),
        measure=measure,
        verdict=lambda found: (
            None if found["few"] else beyond(found["mean"], MARGIN * found["error"])
        ),
        evidence="{all}; {config.dataset}, {config.seeds} seeds{few}",
        reasons={
            None: "More seeds would decide: differences are within the margin.",
            False: "Weights that are tuned on wrong labels fit those, too."
            if ours == OURS_NOISY
            else "The other method sees the clean examples, too, or needs none here.",
        },
    )


def answer(record: Record) -> str:
    """Say for how many kinds of noise hypercleaning is better, also without clean labels."""
    config, detection = record.config, record.frames["detection"]
    if config.seeds < FEWEST_SEEDS:
        return f"This run cannot tell: its seeds are {config.seeds} and decide from {FEWEST_SEEDS}."
    wins = [
        _clear([compared(detection, noise, ours, other) for noise in config.noise]).sum()
        for ours, other in ((OURS, ALONE), (OURS, INFORMED), (OURS_NOISY, UNINFORMED))
    ]
    total = len(config.noise)
    opening = "Yes" if wins[0] == wins[1] == total else "Only in part" if any(wins[:2]) else "No"
    noise = HALF if HALF in config.noise else config.noise[0]
    found = compared(detection, noise, OURS_NOISY, UNINFORMED)
    clean = compared(detection, noise, OURS, UNINFORMED)["ours"]
    return (
        f"{opening}. With a clean validation set its F1 score is clearly higher than that of "
        f"confident learning without one in {wins[0]} of {total} kinds of noise, and than with the "
        f"same clean examples in {wins[1]}. With a validation set as noisy as the training labels "
        f"in {wins[2]}: with {noise} noise its F1 falls from {clean:.3f} to {found['ours']:.3f}, "
        f"against {found['theirs']:.3f}."
    )


CLAIMS = (
    _better(
        "beats-confident-learning",
        "With a clean validation set, hypercleaning finds wrong labels at 50 % uniform noise "
        "with a higher F1 than confident learning without one.",
        ((HALF,), OURS, (ALONE,)),
    ),
    _better(
        "at-equal-information",
        "At 50 % uniform noise its F1 is also higher than that of confident learning that trains "
        "on the same clean validation examples.",
        ((HALF,), OURS, (INFORMED,)),
    ),
    _better(
        "beats-validation-model",
        "With every kind of noise its F1 is also higher than that of confident learning with a "
        "model that was trained on the clean validation examples alone.",
        ((FIFTH, HALF, CLASSES), OURS, (VALIDATION_ONLY,)),
    ),
    _better(
        "little-noise",
        "At 20 % uniform noise its F1 is higher than that of confident learning without and "
        "with the clean examples.",
        ((FIFTH,), OURS, (ALONE, INFORMED)),
    ),
    _better(
        "class-dependent-noise",
        "Where labels are mistaken for those of a similar class, its F1 is higher than that of "
        "confident learning without and with the clean examples.",
        ((CLASSES,), OURS, (ALONE, INFORMED)),
    ),
    _better(
        "noisy-validation",
        "At 50 % uniform noise hypercleaning on a validation set that is as noisy finds wrong "
        "labels with a higher F1 than confident learning on the same examples.",
        ((HALF,), OURS_NOISY, (UNINFORMED,)),
    ),
    _better(
        "noisy-validation-by-class",
        "Where labels are mistaken for those of a similar class, in the validation set as well, "
        "its F1 is higher than that of confident learning on the same examples.",
        ((CLASSES,), OURS_NOISY, (UNINFORMED,)),
    ),
    _better(
        "better-model",
        "At 50 % uniform noise what hypercleaning keeps trains a better classifier than plain "
        "training on the noisy labels.",
        ((HALF,), OURS, (("plain training", "none"),)),
        "test_accuracy",
    ),
    _better(
        "better-model-at-equal-information",
        "At 50 % uniform noise it trains a better one than confident learning and plain training "
        "that see the clean validation examples, and than these examples alone give.",
        ((HALF,), OURS, (INFORMED, ("plain training", "clean"), VALIDATION_ONLY)),
        "test_accuracy",
    ),
)
