"""The claims of `hessian-structure` about the Hessian of all layers at once."""

import pandas as pd

from metastep_lab.claims import Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import OF_WIDTH, gap, large, wide

MOST = 50  # dimensions of Figure C.1

_lacks_whole = lacking(
    f"needs a fully connected network {OF_WIDTH}, of at most 4 million parameters, without batch "
    "normalization, true labels first, and top at least twice the classes",
    lambda record: _whole_models(record),
)


def _whole_models(record: Record) -> list[str]:
    if record.config.labels[0] != "true":
        return []
    sizes = record.frames["whole"].groupby("model").size()
    return [model for model in wide(record) if sizes.get(model, 0) >= large(record)]


def _whole(record: Record) -> Frame:
    rows = []
    for model in _whole_models(record):
        one = record.rows("whole", model=model).set_index("index")
        one = one.assign(ratio=one["approximate"] / one["true"])
        # `loc` takes labels and includes the last one: `[:first]` are the indices 1 to c - 1.
        first, last = gap(record), large(record)
        gain = (one["weighted_overlap"] - one["overlap"]).loc[:first].min()
        at_gap = one.loc[first]
        overlaps = at_gap["overlap"], at_gap["weighted_overlap"], one["overlap"][last]
        lowest = one["overlap"].min(), int(one["overlap"].idxmin()), len(one)
        rows.append((model, one["ratio"].loc[:first].mean(), *overlaps, gain, *lowest))
    names = "model ratio overlap weighted large gain lowest place most"
    return pd.DataFrame(rows, columns=names.split())


def _all_near(rows: Frame) -> bool | None:
    """Whether no overlap is too low; None if that is so only in fewer dimensions than asked."""
    low = (rows["lowest"] <= 0.5).any()
    return False if low else bool((rows["most"] >= MOST).all()) or None


WHOLE = (
    Statement(
        "whole-hessian",
        "Figure C.1: for all layers at once the approximation gives the first c - 1 eigenvalues "
        "and eigenvectors (here: within 25 % on average and an overlap above 0.7).",
        lacks=_lacks_whole,
        measure=_whole,
        verdict=every("abs(ratio - 1) < 0.25 and overlap > 0.7"),
        evidence=each(
            "{model}: eigenvalues {ratio:.3f} of the true ones, overlap {overlap:.3f} at c - 1, "
            "{large:.3f} at 2 c"
        ),
        reasons={
            False: "The approximation has the mean input of each layer in place of E[x x^T], which "
            "is the worse, the smaller lambda_1 / lambda_2 is."
        },
    ),
    Statement(
        "whole-hessian-50",
        f"Figure C.1: the approximations of the top eigenspaces of 1 to {MOST} dimensions are "
        "reasonably accurate (here: every overlap above 0.5).",
        lacks=_lacks_whole,
        measure=_whole,
        verdict=_all_near,
        evidence=each("{model}: lowest overlap {lowest:.3f}, at {place} of {most}"),
        reasons={
            False: "The approximation knows the inputs of a layer by their mean alone, as Appendix "
            "C.3 says; after the first c - 1 directions their covariance counts.",
            None: f"Decided by top={MOST} and networks of at least {MOST} units.",
        },
    ),
    Statement(
        "weighted-approximation",
        "Not in the thesis: the variant of the approximation whose eigenvectors are orthogonal "
        "from the start, E[M] being weighted by |E[x]|, is no worse (by more than 0.02, up to "
        "c - 1).",
        lacks=_lacks_whole,
        measure=_whole,
        verdict=every("gain > -0.02"),
        evidence=each(
            "{model}: overlap {weighted:.3f} at c - 1, {overlap:.3f} without weights; least "
            "difference {gain:.3f}"
        ),
        reasons={
            False: "Beyond the first eigenvectors neither approximation is exact, and either may "
            "be nearer."
        },
    ),
)
