"""What the table of `hessian-two-layer` says: its claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep.experiments.base import Claim, Record, select
from metastep.experiments.hessian_two_layer_samples import PREDICTED
from metastep.report.figures import Figure, Lines, line_figure

WIDE = 200
LABELS = {
    "independent": "M* by independent copies",
    "printed": "M* as printed in (4.8)",
    "row_span": "row span of W2",
    "weighted_row_span": "row span times diag(pi)",
}


def _means(record: Record, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the widths and the mean over seeds of a column."""
    table = record.tables["overlaps"]
    widths = np.unique(table["units"])
    return widths, np.array([select(table, units=width)[name].mean() for width in widths])


def _listed(record: Record, name: str) -> str:
    widths, values = _means(record, name)
    return ", ".join(f"n = {n:g}: {value:.4f}" for n, value in zip(widths, values, strict=True))


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the two theorems, the lemma and its correction against the run."""
    widths, gaps = _means(record, "gap_output")
    wide = widths >= WIDE
    at = lambda name: _means(record, name)[1]
    verdict = lambda fine: bool(np.all(fine)) if wide.any() else None
    several = len(widths) > 1 and wide.any()
    falling = np.diff(gaps) < 0
    settled = np.abs(at("row_span")[wide] - PREDICTED) < 0.03
    return (
        Claim(
            "output-gap",
            "(4.7): lambda_c / lambda_(c-1) of E[M] tends to 0 with the width n; it falls with "
            "every width and is below 0.25 from n = 200 on.",
            bool(np.all(falling) and np.all(gaps[wide] < 0.25)) if several else None,
            _listed(record, "gap_output") + "; of H: " + _listed(record, "gap_hessian"),
        ),
        Claim(
            "independent-copy",
            "Theorem 4.4.2: the top eigenspaces of E[M] and of M*, with an independent copy of the "
            "active units, coincide in the limit: overlap above 0.995 from n = 200 on.",
            verdict(at("independent")[wide] > 0.995),
            _listed(record, "independent"),
        ),
        Claim(
            "decoupling",
            "Theorem 4.4.1: so do those of H and of E[M] (x) E[x x^T]: overlap above 0.98 from "
            "n = 200 on.",
            verdict(at("kronecker")[wide] > 0.98),
            _listed(record, "kronecker"),
        ),
        Claim(
            "row-span",
            "Lemma C.2.1 and (4.8): the top eigenspace tends to the row span of the second layer "
            "without 1^T W: overlap above 0.95 from n = 200 on.",
            verdict(at("row_span")[wide] > 0.95),
            f"{_listed(record, 'row_span')}; with (4.8): {_listed(record, 'printed')}. The lemma "
            "is false: the sum of a unit's weights has variance 1, not 1 / n, so that units are "
            "not active in half of the examples each",
        ),
        Claim(
            "weighted-row-span",
            "Not in the thesis: the eigenspace is that row span times diag(pi), pi = Phi(s / "
            "sqrt(pi - 1)) the share of examples in which a unit is active (overlap above 0.99), "
            f"and the plain row span keeps an overlap of {PREDICTED:.3f} (within 0.03).",
            verdict((at("weighted_row_span")[wide] > 0.99) & settled),
            f"{_listed(record, 'weighted_row_span')}; plain: {_listed(record, 'row_span')}",
        ),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the gaps and the overlaps against the width."""
    gaps = {
        label: _means(record, name)
        for label, name in (("E[M]", "gap_output"), ("H", "gap_hessian"))
    }
    overlaps = {label: _means(record, name) for name, label in LABELS.items()}
    overlaps["H with E[M] ⊗ E[xxᵀ]"] = _means(record, "kronecker")
    widths = _means(record, "row_span")[0]
    panel = Lines(
        overlaps,
        "hidden units n",
        "overlap of top c - 1 eigenvectors",
        title="Eigenspaces",
        x_log=True,
        dashed={LABELS["row_span"]: (widths, np.full(len(widths), PREDICTED))},
        dashed_label="predicted limit",
    )
    gap = Lines(gaps, "hidden units n", "lambda_c / lambda_(c-1)", title="Gap", x_log=True)
    return {
        "gap": (
            line_figure(gap),
            "Ratio of the c-th to the (c-1)-th eigenvalue of the output Hessian and of the layer's "
            "Hessian against the width: it falls.",
        ),
        "overlaps": (
            line_figure(panel),
            "Overlap of the top eigenspace of the output Hessian with four candidates against the "
            "width, and of the Hessian with its Kronecker product. The row span and (4.8) stay "
            f"near {PREDICTED:.3f}; the row span times the shares of active examples tends to 1.",
        ),
    }
