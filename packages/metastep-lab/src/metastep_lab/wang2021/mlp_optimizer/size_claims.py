"""The claims of `mlp-optimizer` on numbers of samples, of runs with `totals`."""

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, beyond, each, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wang2021.mlp_optimizer.claims import (
    CLAIMS,
    NOISY,
    TRAINED,
    UNSURE,
    VALIDATED,
    above,
    by_seed,
)

SAME = 0.01  # a difference of accuracies up to which two optimizers count as equally good
SURE = 2.0  # standard errors over meta-seeds


def numbers_of_samples(record: Record) -> list[int]:
    """Return the numbers of samples of a run, ascending."""
    samples = record.config.samples
    return sorted((*record.config.totals, *(() if samples is None else (samples,))))


def gaps(record: Record, noise: float) -> Frame:
    """Return test accuracy of train-by-validation less that of train-by-train.

    A row for each meta-seed, a column for each number of samples that has both.
    """
    found = {}
    for samples in numbers_of_samples(record):
        accuracy = by_seed(record, noise, samples=samples)
        if {TRAINED, VALIDATED} <= {*accuracy}:
            found[samples] = accuracy[VALIDATED] - accuracy[TRAINED]
    return pd.DataFrame(found)


def mean_gaps(record: Record, noise: float) -> Frame:
    """Return the mean of `gaps` and its standard error over meta-seeds, by samples."""
    found = gaps(record, noise)
    rows = pd.DataFrame({"gap": found.mean(), "error": found.sem()})
    return rows.rename_axis("samples")


_LISTED = each("{samples:g}: {gap:.3f}±{error:.3f}", "difference by samples ", ", ")


def _drops(record: Record, noise: float) -> Numbers:
    """Return by how much the gap falls from each number of samples to the next."""
    found = -gaps(record, noise).diff(axis=1).iloc[:, 1:]
    return {
        "drop": found.mean().to_numpy(),
        # One meta-seed has no standard error: an infinite margin leaves the claim undecided.
        "margin": SURE * found.sem().fillna(np.inf).to_numpy(),
        "listed": _LISTED(mean_gaps(record, noise)),
    }


def _falls(name: str, noise: float, words: str) -> Statement:
    return Statement(
        name,
        "2020, Appendix F.2, Figures 5 to 10: the advantage of train-by-validation decreases from "
        f"each number of samples to the next larger one, {words} (here: by {SURE:g} standard "
        "errors over meta-seeds).",
        lacks=lacking(
            f"needs both modes at noise {noise:g} with two numbers of samples",
            lambda record: gaps(record, noise).shape[1] > 1,
        ),
        measure=lambda record: _drops(record, noise),
        verdict=lambda found: beyond(found["drop"], found["margin"]),
        evidence="{listed}",
        reasons={None: UNSURE},
    )


def _all(record: Record, noise: float) -> Frame:
    """Return the accuracies with the largest number of samples, by meta-seed and mode."""
    return by_seed(record, noise, samples=numbers_of_samples(record)[-1])


def _lacks_all(noise: float, *modes: str):
    return lacking(
        f"needs {' and '.join(modes)} at noise {noise:g} with the most samples",
        lambda record: {*modes} <= {*_all(record, noise)},
    )


def _largest(record: Record, noise: float) -> Numbers:
    found = _all(record, noise)
    gap = found[VALIDATED] - found[TRAINED]
    return {
        "values": gap,
        "gap": gap.mean(),
        "error": gap.sem(),
        "samples": numbers_of_samples(record)[-1],
        "trained": found[TRAINED].mean(),
        "validated": found[VALIDATED].mean(),
    }


def _equal(found: Numbers) -> bool | None:
    gap, margin = abs(found["gap"]), SURE * found["error"]
    if not np.isfinite(margin):
        return None
    # A test of equality, whose margin counts against it: few meta-seeds do not make two modes
    # equal.
    return True if gap + margin <= SAME else False if gap - margin > SAME else None


_LARGEST = (
    "with {samples} samples train-by-validation {validated:.3f}, train-by-train {trained:.3f}: "
    "difference {gap:.4f}±{error:.4f}"
)


def _behind_sgd(record: Record) -> Numbers:
    found = _all(record, 0.0)
    behind = {mode: found["SGD"].dropna().item() - found[mode] for mode in (TRAINED, VALIDATED)}
    return {
        "behind": np.array([one.mean() for one in behind.values()]),
        "margin": np.array([SURE * one.sem() for one in behind.values()]),
        "sgd": found["SGD"].dropna().item(),
        "trained": found[TRAINED].mean(),
        "validated": found[VALIDATED].mean(),
    }


def _widening(record: Record) -> Numbers:
    """Return by how much noise increases the gap, for each number of samples."""
    clean, noisy = gaps(record, 0.0), gaps(record, NOISY)
    both = noisy[[samples for samples in noisy if samples in clean]]
    growth = both - clean[both.columns]
    rows = pd.DataFrame({"gap": growth.mean(), "error": growth.sem()}).rename_axis("samples")
    return {
        "growth": rows["gap"].to_numpy(),
        "margin": SURE * rows["error"].fillna(np.inf).to_numpy(),
        "listed": each("{samples:g}: {gap:.3f}±{error:.3f}", "growth by samples ", ", ")(rows),
    }


SIZE_CLAIMS = (
    _falls("gap-falls-with-samples", NOISY, f"at noise {NOISY:g}"),
    _falls("gap-falls-with-samples-clean", 0.0, "without noise"),
    Statement(
        "equal-with-all-samples",
        "Figure 4(c); 2020, Figure 7: with all samples and no noise there is no significant "
        f"difference (here: at most {SAME:g}, {SURE:g} standard errors included).",
        lacks=_lacks_all(0.0, TRAINED, VALIDATED),
        measure=lambda record: _largest(record, 0.0),
        verdict=_equal,
        evidence=_LARGEST,
        reasons={None: "More meta-seeds decide on which side of the margin the difference is."},
    ),
    Statement(
        "noise-hurts-with-all-samples",
        "2020, Figure 8: at 20 % noise train-by-train is worse than train-by-validation with all "
        "samples, too.",
        lacks=_lacks_all(NOISY, TRAINED, VALIDATED),
        measure=lambda record: _largest(record, NOISY),
        verdict=lambda found: above(found["values"], 0.0),
        evidence=_LARGEST,
        reasons={None: UNSURE},
    ),
    Statement(
        "sgd-is-better-with-all-samples",
        "2020, Figure 7: with all samples and no noise both are slightly weaker than tuned SGD.",
        lacks=_lacks_all(0.0, TRAINED, VALIDATED, "SGD"),
        measure=_behind_sgd,
        verdict=lambda found: (
            None if np.isnan(found["margin"]).any() else beyond(found["behind"], found["margin"])
        ),
        evidence="SGD {sgd:.3f}, train-by-train {trained:.3f}, train-by-validation {validated:.3f}",
        reasons={None: UNSURE},
    ),
    Statement(
        "noise-widens-every-gap",
        "2020, Appendix F.2: with the same number of samples, noise makes train-by-train worse "
        "compared to train-by-validation, for every number.",
        lacks=lacking(
            f"needs both modes at noise {NOISY:g} and without",
            lambda record: {*gaps(record, 0.0)} & {*gaps(record, NOISY)},
        ),
        measure=_widening,
        verdict=lambda found: beyond(found["growth"], found["margin"]),
        evidence="{listed}",
        reasons={None: UNSURE},
    ),
)


def claims(record: Record) -> tuple[Statement, ...]:
    """Return the claims; those on numbers of samples where a run has several."""
    return (*CLAIMS, *(SIZE_CLAIMS if record.config.totals else ()))
