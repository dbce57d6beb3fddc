"""The figures of `hessian-two-layer`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record
from metastep_lab.wu2022.hessian_two_layer.claims import means
from metastep_lab.wu2022.hessian_two_layer.samples import PREDICTED

OVERLAPS = {
    "independent": "M* by independent copies",
    "printed": "M* as printed in (4.8)",
    "row_span": "row span of W2",
    "weighted_row_span": "row span times diag(pi)",
    "kronecker": "H with E[M] ⊗ E[xxᵀ]",
}
GAPS = {"gap_output": "E[M]", "gap_hessian": "H"}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the gaps and the overlaps against the width."""
    rows = means(record)
    curves = lambda names: {label: (rows["units"], rows[name]) for name, label in names.items()}
    limit = rows["units"], np.full(len(rows), PREDICTED)
    overlaps = Lines(
        curves(OVERLAPS),
        "hidden units n",
        "overlap of top c - 1 eigenvectors",
        title="Eigenspaces",
        x_log=True,
        dashed={OVERLAPS["row_span"]: limit},
        dashed_label="predicted limit",
    )
    gaps = Lines(curves(GAPS), "hidden units n", "lambda_c / lambda_(c-1)", "Gap", x_log=True)
    return {
        "gap": (
            line_figure(gaps),
            "Ratio of the c-th to the (c-1)-th eigenvalue, with c classes, of the mean output "
            "Hessian E[M] and of the layer's Hessian H, against the width. The smaller it is, the "
            "more c - 1 directions stand out.",
        ),
        "overlaps": (
            line_figure(overlaps),
            "Overlap of the top eigenspace of the mean output Hessian E[M] with four candidates "
            "against the width, and of the layer's Hessian H with its Kronecker product; 1 is the "
            "same space. W2 are the weights of the next layer, pi the share of examples in which "
            f"a unit is active. The limit that is predicted for the plain row span is "
            f"{PREDICTED:.3f}.",
        ),
    }
