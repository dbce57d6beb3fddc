"""The claims of `hessian-structure` about the layers of single networks."""

from metastep_lab.claims import Numbers, Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import (
    OF_WIDTH,
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


def _up_to_m(record: Record) -> Numbers:
    """Return the mean correspondence of fc1 of LeNet5 for all its outputs; nothing elsewhere."""
    if record.config.dataset != "cifar10" or "LeNet5" not in true_wide(record):
        return {}
    rows = record.rows("spectra", model="LeNet5", labels="true", layer="fc1")
    # As many eigenvectors of H as the layer has outputs.
    means = rows.query("index <= 120").groupby("index")["input_correspondence"].mean()
    return {"whole": means.mean(), "first": means[: gap(record)].mean()} if len(means) > 119 else {}


def _convolutions(record: Record) -> Frame:
    return _products(record, connected=False)


_lacks_convolutions = lacking(
    f"needs a convolutional network {OF_WIDTH}, without batch normalization, and true labels",
    lambda record: len(_of_wide(record, "spectra", connected=False)),
)
OUTPUTS = (
    Statement(
        "outliers",
        "Figure 4.3: with true labels the spectrum of E[M] has its gap after c - 1 eigenvalues "
        "in every fully connected layer (here: the largest ratio of neighbors, most networks).",
        lacks=needs_spectra,
        measure=_outputs,
        verdict=every("place == gap"),
        evidence=each("{model} {layer} after {places} (ratio {output_gap_mean:.3g})"),
        reasons={
            False: "In a layer of few units the largest ratio may stand among the last eigenvalues."
        },
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
        reasons={
            False: "Where lambda_1 / lambda_2 of the inputs is small, products with later input "
            "directions stand in the gap that E[M] has."
        },
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
        reasons={
            False: "The product is exact where M and x x^T are independent (section 4.3); the "
            "thesis prints no number, the bar is ours."
        },
    ),
    Statement(
        "kronecker-eigenspace",
        "Figure 4.2: the top (c - 1)-dimensional eigenspaces of H and of the Kronecker product "
        "are close (here: overlap above 0.6, in every fully connected layer).",
        lacks=needs_spectra,
        measure=_products,
        verdict=every("overlap_mean > 0.6"),
        evidence=each("{model} {layer} " + spread("overlap")),
        reasons={
            False: "The product is exact where M and x x^T are independent (section 4.3); the "
            "thesis prints no number, the bar is ours."
        },
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
        reasons={
            False: "Where lambda_1 / lambda_2 of the inputs is small, the eigenvectors of H are "
            "made of later input directions, too."
        },
    ),
    Statement(
        "correspondence-up-to-m",
        "Appendix C.6.3, Figures C.7 and C.8, fc1 of LeNet5: not only the first c - 1 but the "
        "first m = 120 eigenvectors of H stand along the first one of E[x x^T] (here: mean "
        "correspondence above 0.6).",
        lacks=lacking("needs LeNet5, CIFAR-10, true labels and top from 120", _up_to_m),
        measure=_up_to_m,
        verdict=lambda found: found["whole"] > 0.6,
        evidence="{whole:.3f}; of the first c - 1 {first:.3f}",
        reasons={
            False: "Only the first eigenvalues of E[M] are large enough for that: see peak-place "
            "of hessian-overlap."
        },
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
        reasons={
            False: "Where lambda_1 / lambda_2 of the inputs is small, an eigenvector of H may mix "
            "several input directions."
        },
    ),
    Statement(
        "convolutions",
        "Appendix C.6.3, Figure C.17: the first eigenvectors of the Hessian of a convolution "
        "stand along the first one of E[x x^T], and as matrices are close to rank 1 (here: the "
        "first c - 1, with the thresholds for fully connected layers).",
        lacks=_lacks_convolutions,
        measure=_convolutions,
        verdict=every(
            "input_correspondence_mean > 0.6 and rank_one_min > 0.5 and rank_one_mean > 0.8"
        ),
        evidence=each(
            "{model} {layer}: correspondence {input_correspondence_mean:.3f}, rank 1 "
            + spread("rank_one")
        ),
        reasons={
            False: "An eigenvector of a convolution adds up the inputs of many positions, which "
            "may have several directions."
        },
    ),
    Statement(
        "convolutions-product",
        "Not in the thesis, whose Figure 4.2 has fully connected layers and which calls M of a "
        "convolution inexact (C.6.3): the product describes the first c - 1 eigenvalues and their "
        "eigenspace there as well (with the thresholds for fully connected layers).",
        lacks=_lacks_convolutions,
        measure=_convolutions,
        verdict=every("abs(ratio_mean - 1) < 0.25 and overlap_mean > 0.6"),
        evidence=each(
            "{model} {layer}: eigenvalues {ratio_mean:.3f} of the true ones, overlap "
            "{overlap_mean:.3f}"
        ),
        reasons={
            False: "The product leaves out the terms of H that two positions have in common "
            "(C.1.2)."
        },
    ),
)
