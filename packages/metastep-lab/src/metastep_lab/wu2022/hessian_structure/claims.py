"""What the tables of `hessian-structure` say of single networks: its answer and claims."""

from collections.abc import Iterable

import numpy as np

from metastep_lab.claims import Claim, span, yes_or_no
from metastep_lab.tables import Record, select
from metastep_lab.wu2022.hessian_structure.between import between_claims
from metastep_lab.wu2022.hessian_structure.models import CLASSES
from metastep_lab.wu2022.hessian_structure.printed import (
    TABLE_C7,
    mean_in_the_thesis,
    range_claim,
)
from metastep_lab.wu2022.hessian_structure.reading import (
    GAP,
    LARGE,
    between,
    is_connected,
    is_image_network,
    layers,
    leading,
    measured,
    spread,
    true_models,
    undecided,
    wide,
)
from metastep_lab.wu2022.hessian_structure.reference import reference_claims

LACKING = "a wide network without batch normalization, and true labels"


def answer(record: Record) -> str:
    """Say how near the first network is to the product, and what it shares with others."""
    models = true_models(record, wide(record))
    if not models:
        return f"This run cannot tell: it needs {LACKING}."
    model = models[0]
    every = layers(record.tables["spectra"], model)
    names = [layer for layer in every if is_connected(layer)]
    own = np.array([leading(record, "overlap", model, layer)[:, -1].mean() for layer in names])
    at = {"model": model, "labels": "true"}
    held = [select(record.tables["layers"], layer=x, **at)["output_share"].mean() for x in names]
    near = (own > 0.6) & (np.array(held) > 0.7)
    opening = yes_or_no(near, "Nearly")
    shared = "This run has one network, and nothing to share"
    if record.config.models > 1:
        *others, last = (between(record, model, layer)[GAP - 1] for layer in names)
        rest = f" and {span(np.array(others), '.2f')} in the others" if others else ""
        shared = f"Independently trained networks share {last:.2f} in the last layer{rest}"
    where = "the fully connected layers" if len(names) > 1 else names[0]
    return (
        f"{opening}. In {where} of {model} the {GAP} leading eigenvectors of "
        f"the Hessian overlap by {span(own, '.2f')} with those of the product, where 1 is the same "
        f"space; {GAP} directions hold {span(np.array(held), '.2f')} of the curvature by a layer's "
        f"output. {shared}."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the thesis's statements against the run."""
    return (
        _mean_claim(record),
        range_claim(record),
        *_outlier_claims(record),
        _random_claim(record),
        _eigenvalue_claim(record),
        _eigenspace_claim(record),
        _correspondence_claim(record),
        _rank_claim(record),
        _convolution_claim(record),
        _norm_claim(record),
        _training_claim(record),
        _cluster_claim(record),
        _whole_claim(record),
        *between_claims(record),
        *reference_claims(record),
    )


def _each(record: Record, name: str, models: Iterable[str]) -> dict[str, np.ndarray]:
    """Return `[seeds, c - 1]` of `spectra` for each layer of each network."""
    return {
        f"{model} {layer}": leading(record, name, model, layer)
        for model in models
        for layer in layers(record.tables["spectra"], model)
    }


def _connected(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what belongs to fully connected layers."""
    return {name: value for name, value in values.items() if is_connected(name.split()[-1])}


def _eigenvalue_ratios(record: Record, models: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the eigenvalues of the product by those of the Hessian, layer by layer."""
    true, factored = (_each(record, column, models) for column in ("true", "kronecker"))
    return {layer: factored[layer] / true[layer] for layer in true}


def _listed(values: dict[str, np.ndarray]) -> str:
    return "; ".join(f"{name} {spread(value)}" for name, value in values.items())


def _mean_claim(record: Record) -> Claim:
    name = "mean-input"
    text = (
        "Tables C.5 and C.6: behind a ReLU the first eigenvector of E[x x^T] is the mean input "
        "(here: (v_1 . E[x])^2 above 0.99, and lambda_1 / lambda_2 above 4 on average)."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    deep = {model for model in models if is_image_network(model)}
    if deep:
        text += " VGG11 and ResNet18: above 0.9 and 3, the thesis's smallest being 0.91 and 3.79."
    tables = {model: measured(record, model) for model in models}
    verdicts = [
        np.min(one["alignment"]) > (0.9 if model in deep else 0.99)
        and np.mean(one["ratio"]) > (3 if model in deep else 4)
        for model, one in tables.items()
    ]
    evidence = "; ".join(
        f"{model} {spread(one['alignment'])}, ratio {spread(one['ratio'])}"
        for model, one in tables.items()
    )
    return Claim(name, text, all(verdicts), f"{evidence}; the thesis, {mean_in_the_thesis(record)}")


def _outlier_claims(record: Record) -> tuple[Claim, Claim]:
    texts = {
        "outliers": (
            "Figure 4.3: with true labels the spectrum of E[M] has its gap after c - 1 eigenvalues "
            "in every fully connected layer (the largest ratio of neighbors, most networks)."
        ),
        "low-rank": (
            "Section 4.5.2: in every fully connected layer those c - 1 hold most of the trace of "
            "E[M] (here: more than 0.7), and H has the gap too (here: lambda_(c-1) / lambda_c "
            "above 1.2, mean)."
        ),
    }
    models = true_models(record, wide(record))
    if not models:
        gap, rank = (undecided(name, text, LACKING) for name, text in texts.items())
        return gap, rank
    placed, verdicts, places, evidence = [], [], [], []
    for model in models:
        for layer in layers(record.tables["layers"], model):
            if not is_connected(layer):
                continue
            one = select(record.tables["layers"], model=model, layer=layer, labels="true")
            share, ratio = np.mean(one["output_share"]), np.mean(one["hessian_gap"])
            placed.append(np.median(one["output_outliers"]) == GAP)
            verdicts.append(share > 0.7 and ratio > 1.2)
            after = ", ".join(f"{place:g}" for place in one["output_outliers"])
            places.append(f"{model} {layer} after {after} (ratio {one['output_gap'].mean():.3g})")
            evidence.append(f"{model} {layer} {share:.2f} and {ratio:.3g}")
    gap, rank = (
        Claim(name, texts[name], bool(np.all(fine)), "; ".join(numbers))
        for name, fine, numbers in (
            ("outliers", placed, places),
            ("low-rank", verdicts, evidence),
        )
    )
    return gap, rank


def _random_claim(record: Record) -> Claim:
    name = "random-labels"
    text = (
        "Section 4.5.2: at a minimum for random labels the gap after c - 1 eigenvalues of E[M] "
        "disappears in a network with too few parameters (here: lambda_(c-1) / lambda_c below 1.5)."
    )
    models = wide(record) if "random" in record.config.labels else ()
    if not models:
        return undecided(name, text, "a network without batch normalization, and random labels")
    verdicts, evidence, decided = [], [], True
    for model in models:
        right = select(record.tables["models"], model=model, labels="random")["accuracy"]
        table = measured(record, model, "random")
        gaps = table["output_gap"][table["outputs"] > CLASSES]
        verdicts.append(np.mean(gaps) < 1.5)
        decided = decided and bool(np.min(right) > 0.99)
        evidence.append(f"{model}: training accuracy {spread(right)}, ratio {spread(gaps)}")
    return Claim(
        name,
        text,
        bool(np.all(verdicts)) if decided else None,
        "; ".join(evidence) + ("" if decided else "; this is no minimum: more epochs are needed"),
    )


def _eigenvalue_claim(record: Record) -> Claim:
    name = "kronecker-eigenvalues"
    text = (
        "Figure 4.2: the first c - 1 eigenvalues of E[M] (x) E[x x^T] are those of H (here: within "
        "25 % on average, in every fully connected layer)."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    ratios = _connected(_eigenvalue_ratios(record, models))
    fine = [abs(np.mean(ratio) - 1) < 0.25 for ratio in ratios.values()]
    return Claim(name, text, bool(np.all(fine)), _listed(ratios))


def _eigenspace_claim(record: Record) -> Claim:
    name = "kronecker-eigenspace"
    text = (
        "Figure 4.2: the top (c - 1)-dimensional eigenspaces of H and of the Kronecker product "
        "are close (here: overlap above 0.6, in every fully connected layer)."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    found = _connected(_each(record, "overlap", models))
    found = {layer: value[:, -1] for layer, value in found.items()}
    fine = [np.mean(value) > 0.6 for value in found.values()]
    return Claim(name, text, bool(np.all(fine)), _listed(found))


def _correspondence_claim(record: Record) -> Claim:
    name = "correspondence"
    text = (
        "Figures C.7 to C.11: the first c - 1 eigenvectors of H stand along the first eigenvector "
        "of E[x x^T] (here: mean correspondence above 0.6) and in the span of the first c - 1 of "
        "E[M] (mean above 0.9), in every fully connected layer."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    inputs, inside = (
        _connected(_each(record, column, models)) for column in ("input_correspondence", "inside")
    )
    fine = [np.mean(inputs[layer]) > 0.6 and np.mean(inside[layer]) > 0.9 for layer in inputs]
    evidence = "; ".join(
        f"{layer} {np.mean(inputs[layer]):.3f} and {np.mean(inside[layer]):.3f}" for layer in inputs
    )
    return Claim(name, text, bool(np.all(fine)), evidence)


def _rank_claim(record: Record) -> Claim:
    name = "rank-one"
    text = (
        "Figure C.17: the first c - 1 eigenvectors of H, as matrices, are close to rank 1 (here: "
        "first singular value / norm above 0.5 for every one and above 0.8 on average, in every "
        "fully connected layer)."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    found = _connected(_each(record, "rank_one", models))
    fine = [np.min(value) > 0.5 and np.mean(value) > 0.8 for value in found.values()]
    return Claim(name, text, bool(np.all(fine)), _listed(found))


def _convolution_claim(record: Record) -> Claim:
    name = "convolutions"
    text = (
        "Figures 4.2 and C.17 speak of all layers: the product and rank 1 describe the Hessian of "
        "a convolution as well as that of a fully connected layer (here: the same thresholds)."
    )
    models = true_models(record, wide(record))
    ratios = _eigenvalue_ratios(record, models)
    found = {layer: ratios[layer] for layer in ratios if layer not in _connected(ratios)}
    if not found:
        return undecided(name, text, "a convolutional network without batch normalization")
    overlaps, ranks = (_each(record, column, models) for column in ("overlap", "rank_one"))
    verdicts, evidence = [], []
    for layer, ratio in found.items():
        overlap, rank = overlaps[layer][:, -1], ranks[layer]
        near = abs(np.mean(ratio) - 1) < 0.25 and np.mean(overlap) > 0.6
        verdicts.append(near and np.min(rank) > 0.5 and np.mean(rank) > 0.8)
        evidence.append(
            f"{layer}: eigenvalues {np.mean(ratio):.3f} of the true ones, overlap "
            f"{np.mean(overlap):.3f}, rank 1 {spread(rank)}"
        )
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))


def _norm_claim(record: Record) -> Claim:
    name = "batch-normalization"
    text = (
        "Table C.7: behind batch normalization neither holds (here: the mean of (v_1 . E[x])^2 is "
        "below 0.5 and that of lambda_1 / lambda_2 below 2)."
    )
    models = true_models(record, (model for model in record.config.model if model.endswith("-BN")))
    if not models:
        return undecided(name, text, "a network with batch normalization, and true labels")
    verdicts, evidence = [], []
    for model in models:
        one = measured(record, model)
        verdicts.append(np.mean(one["alignment"]) < 0.5 and np.mean(one["ratio"]) < 2)
        printed = ", ".join(f"{value:g}" for value in TABLE_C7[model])
        evidence.append(
            f"{model} {spread(one['alignment'])}, ratio {spread(one['ratio'])} (the thesis: "
            f"{printed})"
        )
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))


def _training_claim(record: Record) -> Claim:
    name = "training"
    text = (
        "Figures C.15 and C.16: from the first epoch to the last E[x x^T] is close to rank 1 "
        "(here: lambda_1 / lambda_2 above 4 behind a ReLU, fully connected layers) and the first "
        "c - 1 eigenvalues of E[M] are most of its first 20 (here: above 0.8)."
    )
    models = true_models(record, wide(record))
    if not models:
        return undecided(name, text, LACKING)
    ratios, shares = [], []
    for model in models:
        for layer in layers(record.tables["trajectory"], model)[1:]:
            if not is_connected(layer):
                continue
            table = select(record.tables["trajectory"], model=model, labels="true", layer=layer)
            count = len(np.unique(table["index"]))
            inputs, outputs = (table[one].reshape(-1, count) for one in ("input", "output"))
            ratios += (inputs[:, 0] / inputs[:, 1]).tolist()
            shares += (outputs[:, :GAP].sum(axis=1) / outputs.sum(axis=1)).tolist()
    return Claim(
        name,
        text,
        min(ratios) > 4 and min(shares) > 0.8,
        f"smallest ratio {min(ratios):.3g}, smallest share {min(shares):.3f}",
    )


def _cluster_claim(record: Record) -> Claim:
    name = "clusters"
    text = (
        "Figures C.25 and C.26, fc1: at the beginning the rows of N cluster by logit (here: share "
        "above 0.5, by class below 0.1); at the end clustering by class is weak (share below 0.5), "
        "although c - 1 eigenvalues stand out."
    )
    models = true_models(record, (model for model in wide(record) if model.startswith("F")))
    if not models:
        return undecided(name, text, "a fully connected network, true labels")
    verdicts, evidence = [], []
    for model in models:
        one = select(record.tables["clusters"], model=model, labels="true")
        logits, classes = one["logit_share"], one["class_share"]
        verdicts.append(logits[0] > 0.5 and classes[0] < 0.1 and classes[-1] < 0.5)
        evidence.append(
            f"{model}: logits {logits[0]:.2f} to {logits[-1]:.2f}, classes {classes[0]:.3f} to "
            f"{classes[-1]:.2f}"
        )
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))


def _whole_claim(record: Record) -> Claim:
    name = "whole-hessian"
    text = (
        "Figure C.1: for all layers at once the approximation gives the first c - 1 eigenvalues "
        "and eigenvectors (here: within 25 % on average and an overlap above 0.7); at k = "
        f"{LARGE} it is poor (here: below 0.6). "
        "Not in the thesis: the weighted variant is no worse (by more than 0.02, up to c - 1)."
    )
    table = record.tables["whole"]
    models = [model for model in wide(record) if model in set(table["model"].tolist())]
    if not models or record.config.labels[0] != "true":
        return undecided(name, text, "a fully connected network, true labels first")
    verdicts, evidence = [], []
    for model in models:
        one = select(table, model=model)
        ratio = np.mean(one["approximate"][:GAP] / one["true"][:GAP])
        plain, weighted = one["overlap"], one["weighted_overlap"]
        verdicts += [
            abs(ratio - 1) < 0.25 and plain[GAP - 1] > 0.7 and plain[LARGE - 1] < 0.6,
            np.min(weighted[:GAP] - plain[:GAP]) > -0.02,
        ]
        evidence.append(
            f"{model}: eigenvalues {ratio:.3f} of the true ones, overlap {plain[GAP - 1]:.3f} at "
            f"{GAP} ({weighted[GAP - 1]:.3f} weighted), {plain[LARGE - 1]:.3f} at {LARGE}"
        )
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))
