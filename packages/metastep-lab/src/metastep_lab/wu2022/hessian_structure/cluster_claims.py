"""The claims of `hessian-structure` about clusters of the derivatives of the logits."""

from metastep_lab.claims import Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import OF_WIDTH, true_wide

_lacks_connected = lacking(
    f"needs a fully connected network {OF_WIDTH}, without batch normalization, and true labels",
    lambda record: _fully_connected(record),
)


def _fully_connected(record: Record) -> list[str]:
    return [model for model in true_wide(record) if model.startswith("F")]


def _clusters(record: Record) -> Frame:
    """Return the shares at the beginning and at the end of training, by network."""
    rows = record.rows("clusters", labels="true").groupby("model")
    shares = rows[["logit_share", "class_share"]]
    return shares.first().join(shares.last().add_suffix("_end")).loc[_fully_connected(record)]


def _centers(record: Record) -> Frame:
    """Return the squared cosines at the beginning and at the end of training, by network."""
    rows = record.rows("centers", labels="true").groupby(["model", "epoch"])
    means = rows[["by_output", "by_weight"]].mean().groupby("model")
    return means.first().join(means.last().add_suffix("_end")).loc[_fully_connected(record)]


CLUSTERS = (
    Statement(
        "clusters",
        "Figures C.25 and C.26, fc1: at the beginning the rows of N cluster by logit (here: share "
        "above 0.5, by class below 0.1); at the end clustering by class is weak (share below 0.5), "
        "although c - 1 eigenvalues stand out.",
        lacks=_lacks_connected,
        measure=_clusters,
        verdict=every("logit_share > 0.5 and class_share < 0.1 and class_share_end < 0.5"),
        evidence=each(
            "{model}: logits {logit_share:.2f} to {logit_share_end:.2f}, classes "
            "{class_share:.3f} to {class_share_end:.2f}"
        ),
        reasons={False: "The bars are ours; the figures are pictures of one network, F-200^2."},
    ),
    Statement(
        "centers",
        "Figure C.25, (C.266), fc1: at the beginning the logit centers correspond to the "
        "approximate eigenvectors that follow from the weights (here: mean squared cosine above "
        "0.8).",
        lacks=_lacks_connected,
        measure=_centers,
        verdict=every("by_output > 0.8 and by_weight > 0.8"),
        evidence=each(
            "{model}: by output {by_output:.3f}, by weight {by_weight:.3f}; at the end "
            "{by_output_end:.3f}, {by_weight_end:.3f}"
        ),
        reasons={
            False: "(C.265) halves at each ReLU, as if every unit were active in half of the "
            "examples. With the shares of the examples in which the units are active the "
            "approximation is near (0.99 for F-200^2 on digits); it is the error of Theorem "
            "4.4.2, second part."
        },
    ),
)
