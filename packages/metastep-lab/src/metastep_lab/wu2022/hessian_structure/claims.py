"""The claims of `hessian-structure`, statements of the thesis, and its answer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.printed import (
    ON_CIFAR10,
    ON_MNIST,
    TABLE_C7,
    mean_in_the_thesis,
)
from metastep_lab.wu2022.hessian_structure.products import OUTPUTS, PRODUCTS
from metastep_lab.wu2022.hessian_structure.reading import (
    behind,
    gap,
    is_connected,
    is_image_network,
    large,
    layers,
    leading,
    needs_spectra,
    needs_wide,
    plain,
    spread,
    spreads,
    true_wide,
    wide,
)
from metastep_lab.wu2022.hessian_structure.reference import REFERENCE


def answer(record: Record) -> str:
    """Say how near the first network is to the product, and how low its rank."""
    if lacking := needs_spectra(record):
        return f"This run cannot tell: it {lacking}."
    model = true_wide(record)[0]
    names = [layer for layer in layers(record, "spectra", model) if is_connected(layer)]
    own = np.array([leading(record, "overlap", model, layer)[:, -1].mean() for layer in names])
    rows = record.rows("layers", model=model, labels="true")
    held = rows.groupby("layer")["output_share"].mean().loc[names].to_numpy()
    # The bars of the claims `kronecker-eigenspace` and `low-rank`.
    opening, first = yes_or_no((own > 0.6) & (held > 0.7), "Nearly"), gap(record)
    where = "the fully connected layers" if len(names) > 1 else names[0]
    return (
        f"{opening}. In {where} of {model} the {first} leading eigenvectors of "
        f"the Hessian overlap by {span(own, '.2f')} with those of the product, where 1 is the same "
        f"space; {first} directions hold {span(held, '.2f')} of the curvature by a layer's "
        "output."
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
    # With c outputs E[M] has rank c - 1, whatever the labels: its ratio says nothing.
    rows = behind(record, "random").query(f"outputs > {gap(record) + 1}")
    fits = spreads(record.rows("models", labels="random"), ["model"], "accuracy")
    found = fits.join(spreads(rows, ["model"], "output_gap")).loc[_too_small(record)]
    words = "{model}: training accuracy " + spread("accuracy") + ", ratio " + spread("output_gap")
    return {"gap": found["output_gap_mean"], "listed": each(words)(found)}


def _too_small(record: Record) -> list[str]:
    """Return the networks with fewer parameters than examples, and random labels."""
    if "random" not in record.config.labels:
        return []
    one = record.rows("layers", labels="random").drop_duplicates(["model", "layer"])
    # One bias for each output.
    sizes = (one["outputs"] * (one["inputs"] + 1)).groupby(one["model"]).sum()
    return [model for model in plain(record) if sizes[model] < record.config.examples]


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
        # The inputs of the first layer are images, not the outputs of a ReLU.
        for layer in filter(is_connected, layers(record, "trajectory", model)[1:]):
            rows = record.rows("trajectory", model=model, labels="true", layer=layer)
            inputs, outputs = (
                rows.pivot(index="epoch", columns="index", values=one)
                for one in ("input", "output")
            )
            ratios.append((inputs[1] / inputs[2]).min())
            shares.append((outputs.loc[:, : gap(record)].sum(axis=1) / outputs.sum(axis=1)).min())
    return {"ratio": min(ratios), "share": min(shares)}


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


def _whole_models(record: Record) -> list[str]:
    measured = {*record.frames["whole"]["model"]} if record.config.labels[0] == "true" else ()
    return [model for model in wide(record) if model in measured]


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
        lowest = one["overlap"].min(), int(one["overlap"].idxmin())
        rows.append((model, one["ratio"].loc[:first].mean(), *overlaps, gain, *lowest))
    names = "model ratio overlap weighted large gain lowest place"
    return pd.DataFrame(rows, columns=names.split())


def _normalized_products(record: Record) -> Frame:
    """Return the overlaps with the product, with batch normalization and without."""
    rows = []
    for name in _with_and_without(record):
        own = []
        for model in (name, f"{name}-BN"):
            # Images, the inputs of the first layer, are not batch-normalized.
            names = layers(record, "layers", model)[1:]
            own.append(np.mean([leading(record, "overlap", model, one)[:, -1] for one in names]))
        rows.append((name, *own))
    return pd.DataFrame(rows, columns="model own own_bn".split())


def _with_and_without(record: Record) -> list[str]:
    models = {*record.config.model} if record.config.top >= large(record) else set()
    return [name for name in true_wide(record) if f"{name}-BN" in models]


SINGLE = (
    Statement(
        "random-labels",
        "Section 4.5.2: at a minimum for random labels the gap after c - 1 eigenvalues of E[M] "
        "disappears in a network with too few parameters (here: fewer than examples; "
        "lambda_(c-1) / lambda_c below 1.5).",
        lacks=lacking(
            "needs random labels and a network, without batch normalization, with fewer "
            "parameters than examples",
            _too_small,
        ),
        measure=_random_labels,
        verdict=lambda found: (found["gap"] < 1.5).all(),
        evidence="{listed}; after {config.epochs} epochs, in the thesis 1000",
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
        "batch-normalization-product",
        "Figure C.24: with batch normalization the Kronecker product describes the top "
        "(c - 1)-dimensional eigenspace worse than without, mean over the layers behind it.",
        lacks=lacking(
            "needs a network with and without it, true labels, and top at least twice the classes",
            _with_and_without,
        ),
        measure=_normalized_products,
        verdict=every("own_bn < own"),
        evidence=each("{model}: overlap {own:.3f} without, {own_bn:.3f} with"),
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
        "and eigenvectors (here: within 25 % on average and an overlap above 0.7). "
        "Not in the thesis: the weighted variant is no worse (by more than 0.02, up to c - 1).",
        lacks=lacking("needs a fully connected network, true labels first", _whole_models),
        measure=_whole,
        verdict=every("abs(ratio - 1) < 0.25 and overlap > 0.7 and gain > -0.02"),
        evidence=each(
            "{model}: eigenvalues {ratio:.3f} of the true ones, overlap {overlap:.3f} at c - 1 "
            "({weighted:.3f} weighted), {large:.3f} at 2 c"
        ),
    ),
    Statement(
        "whole-hessian-50",
        "Figure C.1: the approximations of the top eigenspaces of 1 to 50 dimensions are "
        "reasonably accurate (here: every overlap above 0.5).",
        lacks=lacking("needs a fully connected network, true labels first", _whole_models),
        measure=_whole,
        verdict=every("lowest > 0.5"),
        evidence=each("{model}: lowest overlap {lowest:.3f}, at {place}"),
    ),
    Statement(
        "centers",
        "Figure C.25, (C.266), fc1: at the beginning the logit centers correspond to the "
        "approximate eigenvectors that follow from the weights (here: mean squared cosine above "
        "0.8).",
        lacks=lacking("needs a fully connected network, true labels", _fully_connected),
        measure=_centers,
        verdict=every("by_output > 0.8 and by_weight > 0.8"),
        evidence=each(
            "{model}: by output {by_output:.3f}, by weight {by_weight:.3f}; at the end "
            "{by_output_end:.3f}, {by_weight_end:.3f}"
        ),
    ),
)
MEAN_INPUT = Statement(
    "mean-input",
    _mean_text,
    lacks=needs_wide,
    measure=_mean_input,
    # `deep` is 0 or 1: the two pairs of bars that the text names.
    verdict=lambda found: every("ratio_mean > 4 - deep and alignment_min > 0.99 - 0.09 * deep")(
        found["rows"]
    ),
    evidence="{listed}",
)


def claims(record: Record) -> tuple[Statement, ...]:
    """Return the thesis's statements; one of them depends on the data set."""
    printed = ON_CIFAR10 if record.config.dataset == "cifar10" else ON_MNIST
    return MEAN_INPUT, printed, *OUTPUTS, *SINGLE, *REFERENCE
