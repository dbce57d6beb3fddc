"""The claims of `hessian-overlap` about output layers, whose units cannot be permuted."""

import numpy as np
import pandas as pd

from metastep_lab.claims import Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_overlap.reading import (
    KEPT,
    is_normalized,
    is_true,
    mean_curve,
    peaks,
)


def _output_layers(record: Record) -> Frame:
    """Return the overlaps up to c - 1 in the last layer, and that at 2 c, by network."""
    rows = []
    for row in peaks(record).query("last and kept >= @KEPT").itertuples():
        if is_normalized(row.model):
            continue
        # The curvature by the scores has rank c - 1: the softmax does not see what all have in
        # common.
        values, gap = mean_curve(record, row.model, row.layer), row.outputs - 1
        level, product = values[:gap], mean_curve(record, row.model, row.layer, "kronecker")
        ends = level[0], level.min(), level.max(), level[-1]
        off = np.max(np.abs(level / level.mean() - 1))
        found = row.alignment, product[gap - 1], row.reach
        rows.append((row.model, gap, *ends, values[-1], off, *found))
    names = "model dimension first least most gap later off alignment product reach"
    return pd.DataFrame(rows, columns=names.split())


def _aligned(record: Record) -> Frame:
    """Return the output layers whose pairs satisfy the condition of Theorem C.7.1 up to c - 1."""
    return _output_layers(record)[lambda rows: rows["reach"] >= rows["dimension"]]


_needs_output = lacking(
    "needs true labels and a network, without batch normalization, of whose last layer's Hessians "
    f"at least {KEPT:.0%} of the trace are in the rows that are kept",
    lambda record: is_true(record) and _output_layers(record),
)
OUTPUT = (
    Statement(
        "output-layer",
        "Appendix C.7.2, Figure C.18: in the output layer, whose units cannot be permuted, the "
        "overlap is level up to k = c - 1 (here: everywhere within 25 % of its mean) and falls "
        "after c (here: by a third until 2 c).",
        lacks=_needs_output,
        measure=_output_layers,
        verdict=every("off < 0.25 and later < 2 / 3 * gap"),
        evidence=each(
            "{model}: {first:.3f} at k = 1, {least:.3f} to {most:.3f} up to {dimension}, {gap:.3f} "
            "there, {later:.3f} at 2 c"
        ),
        reasons={
            False: "After as little training the first eigenvectors of the output layers are not "
            "aligned yet: the overlap grows up to c - 1."
        },
    ),
    Statement(
        "output-height",
        "Appendix C.7.2: in an output layer that satisfies the condition of Theorem C.7.1 (here: "
        "up to c - 1, the rank of E[M]) the overlap is (t_1 . t_2)^2 for all k up to there (here: "
        "within 25 %).",
        lacks=lacking(
            "has no output layer in which all pairs satisfy the condition up to c - 1",
            lambda record: is_true(record) and _aligned(record),
        ),
        measure=_aligned,
        verdict=every("abs(least / alignment - 1) <= 0.25 and abs(most / alignment - 1) <= 0.25"),
        evidence=each(
            "{model}: {least:.3f} to {most:.3f}, predicted {alignment:.3f}; at {dimension} "
            "{gap:.3f}, of the products {product:.3f}"
        ),
        reasons={
            False: "At c - 1 the overlap of the products is the predicted one: both E[M] have all "
            "directions but that of ones. What is missing there is the products' error; below it "
            "the eigenvectors of the two E[M] differ, too."
        },
    ),
)
