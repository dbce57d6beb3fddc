"""The claims of `hessian-structure`, statements of the thesis, and its answer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.cluster_claims import CLUSTERS
from metastep_lab.wu2022.hessian_structure.printed import (
    SPECTRAL_RATIO,
    batch_normalized_in_the_thesis,
    mean_in_the_thesis,
)
from metastep_lab.wu2022.hessian_structure.products import OUTPUTS, PRODUCTS
from metastep_lab.wu2022.hessian_structure.reading import (
    OF_WIDTH,
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
)
from metastep_lab.wu2022.hessian_structure.reference import REFERENCE
from metastep_lab.wu2022.hessian_structure.whole_claims import WHOLE


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


def _inputs(rows: Frame, models: Sequence[str]) -> Frame:
    """Return the alignment of the inputs of layers with their mean, by network."""
    return spreads(rows, ["model"], "alignment", "ratio").loc[models]


def _is_deep(model: str) -> bool:
    """Whether the thesis prints smaller numbers for a network than for shallow ones."""
    return is_image_network(model) or model == "F-600^8"


def _mean_input(record: Record) -> Numbers:
    rows = _inputs(behind(record), true_wide(record))
    rows["deep"] = rows.index.map(_is_deep)
    printed = mean_in_the_thesis(record)
    return {"rows": rows, "listed": f"{each(INPUTS)(rows)}; the thesis, {printed}"}


def _mean_text(record: Record) -> str:
    deep = any(map(_is_deep, true_wide(record)))
    return (
        "Tables C.5 and C.6: behind a ReLU the first eigenvector of E[x x^T] is the mean input "
        "(here: (v_1 . E[x])^2 above 0.99, and lambda_1 / lambda_2 above 4 on average)."
        + " F-600^8, VGG11, ResNet18: above 0.9 and 3, the thesis's smallest being 0.91 and 3.79."
        * deep
    )


def _random_labels(record: Record) -> Numbers:
    # With c outputs E[M] has rank c - 1, whatever the labels: its ratio says nothing.
    rows = record.rows("layers", labels="random").query(f"outputs > {gap(record) + 1}")
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
    rows = behind(record)
    # Table C.7 counts fully connected layers only.
    found = _inputs(rows[rows["layer"].map(is_connected)], _with_normalization(record))
    return found.assign(printed=found.index.map(batch_normalized_in_the_thesis))


def _training(record: Record) -> Numbers:
    """Return the smallest ratio behind a ReLU and the smallest share, of the whole training."""
    ratios, shares = [], []
    for model in true_wide(record):
        names = layers(record, "trajectory", model)
        for layer in filter(is_connected, names):
            rows = record.rows("trajectory", model=model, labels="true", layer=layer)
            inputs, outputs = (
                rows.pivot(index="epoch", columns="index", values=one)
                for one in ("input", "output")
            )
            # The inputs of the first layer are images, not the outputs of a ReLU.
            if layer != names[0]:
                ratios.append((inputs[1] / inputs[2]).min())
            shares.append((outputs.loc[:, : gap(record)].sum(axis=1) / outputs.sum(axis=1)).min())
    return {"ratio": min(ratios), "share": min(shares)}


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
        reasons={
            False: "The statement is about minima: the training accuracy and the epochs tell how "
            "far from one these networks are."
        },
    ),
    Statement(
        "batch-normalization",
        "Table C.7: behind batch normalization neither holds (here: in fully connected layers the "
        "mean of (v_1 . E[x])^2 is below 0.5 and that of lambda_1 / lambda_2 below 2).",
        lacks=lacking(
            "needs a network with batch normalization, and true labels", _with_normalization
        ),
        measure=_normalized,
        verdict=every("alignment_mean < 0.5 and ratio_mean < 2"),
        evidence=each(f"{INPUTS} ({{printed}})"),
        reasons={False: "The bars are ours: single layers in Table C.7 reach 0.803 and 1.89."},
    ),
    Statement(
        "batch-normalization-product",
        "Figure C.24: with batch normalization the Kronecker product describes the top "
        "(c - 1)-dimensional eigenspace worse than without, mean over the layers behind it.",
        lacks=lacking(
            f"needs a network {OF_WIDTH}, with and without it, true labels, and top at least twice "
            "the classes",
            _with_and_without,
        ),
        measure=_normalized_products,
        verdict=every("own_bn < own"),
        evidence=each("{model}: overlap {own:.3f} without, {own_bn:.3f} with"),
        reasons={False: "Figure C.24 is of one network, LeNet5-BN on CIFAR-10."},
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
        reasons={
            False: "The bars are ours, and the figures are of fc1 of LeNet5. Narrow layers have "
            "smaller ratios, most of all after the first epochs."
        },
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
    reasons={
        False: "By (C.257) lambda_1 / lambda_2 is small only where the covariance of the inputs is "
        "not small against |E[x]|^2."
    },
)


CLAIMS = MEAN_INPUT, SPECTRAL_RATIO, *OUTPUTS, *PRODUCTS, *SINGLE, *WHOLE, *CLUSTERS, *REFERENCE
