"""What the table of `hessian-two-layer` says: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, select
from metastep_lab.wu2022.hessian_two_layer.samples import PREDICTED

WIDE = 200
DECOUPLED = 0.98
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
    return ", ".join(f"n={n:g} {value:.4f}" for n, value in zip(widths, values, strict=True))


def answer(record: Record) -> str:
    """Say how near the widest network is to a Kronecker product, and which space fits its top."""
    widths, product = _means(record, "kronecker")
    plain, weighted = (_means(record, f"{name}row_span")[1][-1] for name in ("", "weighted_"))
    opening = "Yes, nearly" if product[-1] > DECOUPLED else "No"
    if widths[-1] < WIDE:
        opening = f"This run cannot tell, with widths below {WIDE}"
    narrow = f" ({product[0]:.3f} with {widths[0]:g})" if len(widths) > 1 else ""
    fits = weighted > plain
    return (
        f"{opening}. With {widths[-1]:g} hidden units the leading eigenvectors of the Hessian and "
        f"of the Kronecker product overlap by {product[-1]:.3f}{narrow}, where 1 is the same "
        "space. The leading space of its output factor overlaps by "
        f"{max(plain, weighted):.3f} with the row span of the next layer's weights"
        f"{' times the share of examples in which a unit is active' if fits else ''}, by "
        f"{min(plain, weighted):.3f} {'without' if fits else 'times'} these shares."
    )


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
            "(4.7): lambda_c / lambda_(c-1) of E[M] tends to 0 with the width n (here: it falls "
            f"with every width and is below 0.25 from n = {WIDE} on).",
            bool(np.all(falling) and np.all(gaps[wide] < 0.25)) if several else None,
            _listed(record, "gap_output") + "; of H: " + _listed(record, "gap_hessian"),
        ),
        Claim(
            "independent-copy",
            "Theorem 4.4.2: the top eigenspaces of E[M] and of M*, with an independent copy of the "
            f"active units, coincide in the limit (here: overlap above 0.995 from n = {WIDE} on).",
            verdict(at("independent")[wide] > 0.995),
            _listed(record, "independent"),
        ),
        Claim(
            "decoupling",
            "Theorem 4.4.1: so do those of H and of E[M] (x) E[x x^T] (here: overlap above "
            f"{DECOUPLED} from n = {WIDE} on).",
            verdict(at("kronecker")[wide] > DECOUPLED),
            _listed(record, "kronecker"),
        ),
        Claim(
            "row-span",
            "Theorem 4.4.2, second part, and (4.8): the top eigenspace tends to the row span of "
            f"the second layer without 1^T W (here: overlap above 0.95 from n = {WIDE} on).",
            verdict(at("row_span")[wide] > 0.95),
            f"{_listed(record, 'row_span')}; with (4.8): {_listed(record, 'printed')}. Lemma "
            "C.2.11, on which it rests, is false: the sum of a unit's weights has variance 1, "
            "whatever n, so that units are not active in half of the examples each",
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
            "Ratio of the c-th to the (c-1)-th eigenvalue, with c classes, of the mean output "
            "Hessian E[M] and of the layer's Hessian H, against the width. The smaller it is, the "
            "more c - 1 directions stand out.",
        ),
        "overlaps": (
            line_figure(panel),
            "Overlap of the top eigenspace of the mean output Hessian E[M] with four candidates "
            "against the width, and of the layer's Hessian H with its Kronecker product; 1 is the "
            "same space. W2 are the weights of the next layer, pi the share of examples in which "
            f"a unit is active. The limit that is predicted for the plain row span is "
            f"{PREDICTED:.3f}.",
        ),
    }
