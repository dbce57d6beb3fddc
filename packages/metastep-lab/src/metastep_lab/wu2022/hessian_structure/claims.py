"""The claims of `hessian-structure`, statements of the thesis, and its answer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.between import BETWEEN
from metastep_lab.wu2022.hessian_structure.printed import (
    ON_CIFAR10,
    ON_MNIST,
    TABLE_C7,
    mean_in_the_thesis,
)
from metastep_lab.wu2022.hessian_structure.products import OUTPUTS, PRODUCTS
from metastep_lab.wu2022.hessian_structure.reading import (
    GAP,
    LARGE,
    behind,
    between,
    is_connected,
    is_image_network,
    layers,
    leading,
    needs_wide,
    rows_of,
    spread,
    spreads,
    true_wide,
    wide,
)
from metastep_lab.wu2022.hessian_structure.reference import REFERENCE


def answer(record: Record) -> str:
    """Say how near the first network is to the product, and its overlap with others."""
    if lacking := needs_wide(record):
        return f"This run cannot tell: it {lacking}."
    model = true_wide(record)[0]
    names = [layer for layer in layers(record, "spectra", model) if is_connected(layer)]
    own = np.array([leading(record, "overlap", model, layer)[:, -1].mean() for layer in names])
    rows = rows_of(record, "layers", model=model, labels="true")
    held = rows.groupby("layer")["output_share"].mean().loc[names].to_numpy()
    opening = yes_or_no((own > 0.6) & (held > 0.7), "Nearly")
    shared = "This run has one network, and nothing to share"
    if record.config.models > 1:
        *others, last = (between(record, model, layer)[GAP - 1] for layer in names)
        rest = f" and {span(np.array(others), '.2f')} in the others" if others else ""
        shared = f"Independently trained networks share {last:.2f} in the last layer{rest}"
    where = "the fully connected layers" if len(names) > 1 else names[0]
    return (
        f"{opening}. In {where} of {model} the {GAP} leading eigenvectors of "
        f"the Hessian overlap by {span(own, '.2f')} with those of the product, where 1 is the same "
        f"space; {GAP} directions hold {span(held, '.2f')} of the curvature by a layer's "
        f"output. {shared}."
    )


INPUTS = "{model} " + spread("alignment") + ", ratio " + spread("ratio")


def _inputs(record: Record, models: Sequence[str]) -> Frame:
    """Return the alignment of the inputs of layers with their mean, by network."""
    return spreads(behind(record), ["model"], "alignment", "ratio").loc[models]


def _mean_input(record: Record) -> Numbers:
    rows = _inputs(record, true_wide(record))
    rows["deep"] = rows.index.map(is_image_network)
    printed = mean_in_the_thesis(record)
    return {"rows": rows, "listed": f"{each(INPUTS)(rows)}; the thesis, {printed}"}


def _mean_text(record: Record) -> str:
    deep = any(map(is_image_network, true_wide(record)))
    return (
        "Tables C.5 and C.6: behind a ReLU the first eigenvector of E[x x^T] is the mean input "
        "(here: (v_1 . E[x])^2 above 0.99, and lambda_1 / lambda_2 above 4 on average)."
        + " VGG11 and ResNet18: above 0.9 and 3, the thesis's smallest being 0.91 and 3.79."
        * deep
    )


def _random_labels(record: Record) -> Numbers:
    rows = behind(record, "random").query(f"outputs > {GAP + 1}")
    fits = spreads(rows_of(record, "models", labels="random"), ["model"], "accuracy")
    found = fits.join(spreads(rows, ["model"], "output_gap")).loc[wide(record)]
    fitted = (found["accuracy_min"] > 0.99).all()
    more = "" if fitted else "; this is not a minimum: more epochs are needed"
    words = "{model}: training accuracy " + spread("accuracy") + ", ratio " + spread("output_gap")
    return {"gap": found["output_gap_mean"], "fitted": fitted, "listed": each(words)(found) + more}


def _with_normalization(record: Record) -> list[str]:
    true = "true" in record.config.labels
    return [name for name in record.config.model if true and name.endswith("-BN")]


def _normalized(record: Record) -> Frame:
    """Return `_inputs` of the networks with batch normalization, beside Table C.7."""
    rows = _inputs(record, _with_normalization(record))
    printed = [", ".join(f"{value:g}" for value in TABLE_C7[model]) for model in rows.index]
    return rows.assign(printed=printed)


def _training(record: Record) -> Numbers:
    """Return the smallest ratio behind a ReLU and the smallest share, of the whole training."""
    ratios, shares = [], []
    for model in true_wide(record):
        for layer in filter(is_connected, layers(record, "trajectory", model)[1:]):
            rows = rows_of(record, "trajectory", model=model, labels="true", layer=layer)
            inputs, outputs = (
                rows.pivot(index="epoch", columns="index", values=one)
                for one in ("input", "output")
            )
            ratios.append((inputs[1] / inputs[2]).min())
            shares.append((outputs.loc[:, :GAP].sum(axis=1) / outputs.sum(axis=1)).min())
    return {"ratio": min(ratios), "share": min(shares)}


def _fully_connected(record: Record) -> list[str]:
    return [model for model in true_wide(record) if model.startswith("F")]


def _clusters(record: Record) -> Frame:
    """Return the shares at the beginning and at the end of training, by network."""
    rows = rows_of(record, "clusters", labels="true").groupby("model")
    shares = rows[["logit_share", "class_share"]]
    return shares.first().join(shares.last().add_suffix("_end")).loc[_fully_connected(record)]


def _whole_models(record: Record) -> list[str]:
    measured = {*record.frames["whole"]["model"]} if record.config.labels[0] == "true" else ()
    return [model for model in wide(record) if model in measured]


def _whole(record: Record) -> Frame:
    rows = []
    for model in _whole_models(record):
        one = rows_of(record, "whole", model=model).set_index("index")
        one = one.assign(ratio=one["approximate"] / one["true"])
        gain = (one["weighted_overlap"] - one["overlap"]).loc[:GAP].min()
        at_gap, large = one.loc[GAP], one["overlap"][LARGE]
        overlaps = at_gap["overlap"], at_gap["weighted_overlap"], large
        rows.append((model, one["ratio"].loc[:GAP].mean(), *overlaps, gain))
    return pd.DataFrame(rows, columns="model ratio overlap weighted large gain".split())


SINGLE = (
    Statement(
        "random-labels",
        "Section 4.5.2: at a minimum for random labels the gap after c - 1 eigenvalues of E[M] "
        "disappears in a network with too few parameters (here: lambda_(c-1) / lambda_c below "
        "1.5).",
        lacks=lacking(
            "needs a network without batch normalization, and random labels",
            lambda record: "random" in record.config.labels and wide(record),
        ),
        measure=_random_labels,
        verdict=lambda found: (found["gap"] < 1.5).all() if found["fitted"] else None,
        evidence="{listed}",
    ),
    *PRODUCTS,
    Statement(
        "batch-normalization",
        "Table C.7: behind batch normalization neither holds (here: the mean of (v_1 . E[x])^2 is "
        "below 0.5 and that of lambda_1 / lambda_2 below 2).",
        lacks=lacking(
            "needs a network with batch normalization, and true labels", _with_normalization
        ),
        measure=_normalized,
        verdict=every("alignment_mean < 0.5 and ratio_mean < 2"),
        evidence=each(f"{INPUTS} (the thesis: {{printed}})"),
    ),
    Statement(
        "training",
        "Figures C.15 and C.16: from the first epoch to the last E[x x^T] is close to rank 1 "
        "(here: lambda_1 / lambda_2 above 4 behind a ReLU, fully connected layers) and the first "
        "c - 1 eigenvalues of E[M] are most of its first 20 (here: above 0.8).",
        lacks=needs_wide,
        measure=_training,
        verdict=lambda found: found["ratio"] > 4 and found["share"] > 0.8,
        evidence="smallest ratio {ratio:.3g}, smallest share {share:.3f}",
    ),
    Statement(
        "clusters",
        "Figures C.25 and C.26, fc1: at the beginning the rows of N cluster by logit (here: share "
        "above 0.5, by class below 0.1); at the end clustering by class is weak (share below 0.5), "
        "although c - 1 eigenvalues stand out.",
        lacks=lacking("needs a fully connected network, true labels", _fully_connected),
        measure=_clusters,
        verdict=every("logit_share > 0.5 and class_share < 0.1 and class_share_end < 0.5"),
        evidence=each(
            "{model}: logits {logit_share:.2f} to {logit_share_end:.2f}, classes "
            "{class_share:.3f} to {class_share_end:.2f}"
        ),
    ),
    Statement(
        "whole-hessian",
        "Figure C.1: for all layers at once the approximation gives the first c - 1 eigenvalues "
        "and eigenvectors (here: within 25 % on average and an overlap above 0.7); at k = "
        f"{LARGE} it is poor (here: below 0.6). "
        "Not in the thesis: the weighted variant is no worse (by more than 0.02, up to c - 1).",
        lacks=lacking("needs a fully connected network, true labels first", _whole_models),
        measure=_whole,
        verdict=every("abs(ratio - 1) < 0.25 and overlap > 0.7 and large < 0.6 and gain > -0.02"),
        evidence=each(
            f"{{model}}: eigenvalues {{ratio:.3f}} of the true ones, overlap {{overlap:.3f}} at "
            f"{GAP} ({{weighted:.3f}} weighted), {{large:.3f}} at {LARGE}"
        ),
    ),
)
MEAN_INPUT = Statement(
    "mean-input",
    _mean_text,
    lacks=needs_wide,
    measure=_mean_input,
    verdict=lambda found: every("ratio_mean > 4 - deep and alignment_min > 0.99 - 0.09 * deep")(
        found["rows"]
    ),
    evidence="{listed}",
)


def claims(record: Record) -> tuple[Statement, ...]:
    """Return the thesis's statements; one of them depends on the data set."""
    printed = ON_CIFAR10 if record.config.dataset == "cifar10" else ON_MNIST
    return MEAN_INPUT, printed, *OUTPUTS, *SINGLE, *BETWEEN, *REFERENCE
