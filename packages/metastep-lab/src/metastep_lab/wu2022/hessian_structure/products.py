"""The claims of `hessian-structure` about the layers of single networks."""

from metastep_lab.claims import Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import (
    gap,
    is_connected,
    needs_spectra,
    spread,
    spreads,
    true_wide,
)

LAYER = ["model", "layer"]


def _of_wide(record: Record, table: str, connected: bool = True) -> Frame:
    """Return the rows of the fully connected layers, or the others, of wide networks."""
    rows = record.rows(table, labels="true")
    chosen = rows["model"].isin(true_wide(record)) & (rows["layer"].map(is_connected) == connected)
    return rows[chosen]


def _outputs(record: Record) -> Frame:
    """Return the gaps of E[M] and of H, and the position of the former, by layer."""
    rows = _of_wide(record, "layers")
    found = spreads(rows, LAYER, "output_gap", "output_share", "hessian_gap")
    places = rows.groupby(LAYER)["output_outliers"]
    listed = places.agg(lambda column: ", ".join(f"{place:g}" for place in column))
    return found.assign(place=places.median(), places=listed, gap=gap(record))


def _products(record: Record, connected: bool = True) -> Frame:
    """Return the columns of `spectra` for the first c - 1 eigenpairs, by layer."""
    rows = _of_wide(record, "spectra", connected)
    rows = rows[rows["index"] <= gap(record)]
    rows = rows.assign(ratio=rows["kronecker"] / rows["true"])
    names = "ratio", "rank_one", "input_correspondence", "inside"
    overlaps = spreads(rows[rows["index"] == gap(record)], LAYER, "overlap")
    return spreads(rows, LAYER, *names).join(overlaps)


OUTPUTS = (
    Statement(
        "outliers",
        "Figure 4.3: with true labels the spectrum of E[M] has its gap after c - 1 eigenvalues "
        "in every fully connected layer (the largest ratio of neighbors, most networks).",
        lacks=needs_spectra,
        measure=_outputs,
        verdict=every("place == gap"),
        evidence=each("{model} {layer} after {places} (ratio {output_gap_mean:.3g})"),
    ),
    Statement(
        "low-rank",
        "Section 4.5.2: in every fully connected layer those c - 1 hold most of the trace of "
        "E[M] (here: more than 0.7), and H has the gap too (here: lambda_(c-1) / lambda_c "
        "above 1.2, mean).",
        lacks=needs_spectra,
        measure=_outputs,
        verdict=every("output_share_mean > 0.7 and hessian_gap_mean > 1.2"),
        evidence=each("{model} {layer} {output_share_mean:.2f} and {hessian_gap_mean:.3g}"),
    ),
)
PRODUCTS = (
    Statement(
        "kronecker-eigenvalues",
        "Figure 4.2: the first c - 1 eigenvalues of E[M] (x) E[x x^T] are those of H (here: within "
        "25 % on average, in every fully connected layer).",
        lacks=needs_spectra,
        measure=_products,
        verdict=every("abs(ratio_mean - 1) < 0.25"),
        evidence=each("{model} {layer} " + spread("ratio")),
    ),
    Statement(
        "kronecker-eigenspace",
        "Figure 4.2: the top (c - 1)-dimensional eigenspaces of H and of the Kronecker product "
        "are close (here: overlap above 0.6, in every fully connected layer).",
        lacks=needs_spectra,
        measure=_products,
        verdict=every("overlap_mean > 0.6"),
        evidence=each("{model} {layer} " + spread("overlap")),
    ),
    Statement(
        "correspondence",
        "Figures C.7 to C.11: the first c - 1 eigenvectors of H stand along the first eigenvector "
        "of E[x x^T] (here: mean correspondence above 0.6) and in the span of the first c - 1 of "
        "E[M] (mean above 0.9), in every fully connected layer.",
        lacks=needs_spectra,
        measure=_products,
        verdict=every("input_correspondence_mean > 0.6 and inside_mean > 0.9"),
        evidence=each("{model} {layer} {input_correspondence_mean:.3f} and {inside_mean:.3f}"),
    ),
    Statement(
        "rank-one",
        "Figure C.17: the first c - 1 eigenvectors of H, as matrices, are close to rank 1 (here: "
        "first singular value / norm above 0.5 for every one and above 0.8 on average, in every "
        "fully connected layer).",
        lacks=needs_spectra,
        measure=_products,
        verdict=every("rank_one_min > 0.5 and rank_one_mean > 0.8"),
        evidence=each("{model} {layer} " + spread("rank_one")),
    ),
    Statement(
        "convolutions",
        "Figures 4.2 and C.17 speak of all layers: the product and rank 1 describe the Hessian of "
        "a convolution as well as that of a fully connected layer (here: the same thresholds).",
        lacks=lacking(
            "needs a convolutional network without batch normalization",
            lambda record: len(_of_wide(record, "spectra", connected=False)),
        ),
        measure=lambda record: _products(record, connected=False),
        verdict=every(
            "abs(ratio_mean - 1) < 0.25 and overlap_mean > 0.6 and rank_one_min > 0.5 "
            "and rank_one_mean > 0.8"
        ),
        evidence=each(
            "{model} {layer}: eigenvalues {ratio_mean:.3f} of the true ones, overlap "
            "{overlap_mean:.3f}, rank 1 " + spread("rank_one")
        ),
    ),
)
