"""What the tables of `hessian-structure` say of networks beside each other: claims."""

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.tables import Record, select
from metastep_lab.wu2022.hessian_structure.reading import (
    GAP,
    LARGE,
    between,
    layers,
    leading,
    spread,
    true_models,
    undecided,
    wide,
)

NARROW = "F-100-8"


def between_claims(record: Record) -> tuple[Claim, ...]:
    """Hold the statements about the overlap between networks against the run."""
    return (
        _norm_overlap_claim(record),
        _peak_claim(record),
        _level_claim(record),
        _early_claim(record),
    )


def _norm_overlap_claim(record: Record) -> Claim:
    name = "batch-normalization-overlap"
    text = (
        "Figures C.23 and C.24: with batch normalization the Kronecker product describes the top "
        "(c - 1)-dimensional eigenspace worse, and that of the output layer overlaps less between "
        "networks, by a factor of two."
    )
    pairs = [name for name in wide(record) if f"{name}-BN" in record.config.model]
    if not true_models(record, pairs) or record.config.models < 2:
        return undecided(name, text, "a network with and without it, true labels, two networks")
    verdicts, evidence = [], []
    for plain in pairs:
        last = layers(record.tables["layers"], plain)[-1]
        own, shared = [], []
        for model in (plain, f"{plain}-BN"):
            behind = layers(record.tables["layers"], model)[1:]
            own.append(np.mean([leading(record, "overlap", model, one)[:, -1] for one in behind]))
            shared.append(float(between(record, model, last)[GAP - 1]))
        verdicts.append(own[1] < own[0] and shared[1] < shared[0] / 2)
        evidence.append(
            f"{plain}: with the Kronecker product {own[0]:.3f} without, {own[1]:.3f} with; between "
            f"networks in {last} {shared[0]:.3f} and {shared[1]:.3f}"
        )
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))


def _peak_claim(record: Record) -> Claim:
    name = "narrow-peak"
    text = (
        "Figure 4.4, Theorem C.7.1: in a layer of m = 8 units the overlap between networks peaks "
        "at the number of its live units (6 to 8), more than 1.5 times as high as at k = 16."
    )
    if not true_models(record, {NARROW} & set(record.config.model)) or record.config.models < 2:
        return undecided(name, text, f"{NARROW}, true labels, and at least two networks")
    values = between(record, NARROW, "fc2")
    peak = int(np.argmax(values)) + 1
    pairs = select(record.tables["pairs"], model=NARROW, labels="true", layer="fc2")
    return Claim(
        name,
        text,
        bool(6 <= peak <= 8 and values[peak - 1] > 1.5 * values[15]),
        f"peak {values[peak - 1]:.3f} at k = {peak}, {values[15]:.3f} at 16; (t_1 . t_2)^2 is "
        f"{spread(pairs['alignment'])}, which the theorem has at k = 8; its condition holds in "
        f"{int(pairs['alone'].sum())} of {len(pairs['alone'])} pairs",
    )


def _level_claim(record: Record) -> Claim:
    name = "output-layer"
    text = (
        "Appendix C.7.2: in the output layer, whose units cannot be permuted, the overlap between "
        f"networks is level up to k = c - 1 (within 25 %) and falls by a third until {LARGE}."
    )
    models = true_models(record, wide(record))
    if not models or record.config.models < 2:
        return undecided(name, text, "true labels, no batch normalization, two networks")
    verdicts, evidence = [], []
    for model in models:
        layer = layers(record.tables["layers"], model)[-1]
        values = between(record, model, layer)
        chosen = values[[0, 4, GAP - 1]]
        level = np.max(np.abs(chosen / chosen.mean() - 1)) < 0.25
        verdicts.append(level and values[LARGE - 1] < 2 / 3 * values[GAP - 1])
        listed = ", ".join(f"{value:.3f}" for value in (*chosen, values[LARGE - 1]))
        evidence.append(f"{model}, k = 1, 5, {GAP}, {LARGE}: {listed}")
    return Claim(name, text, bool(np.all(verdicts)), "; ".join(evidence))


def _early_claim(record: Record) -> Claim:
    name = "early-peak"
    text = (
        "Appendix C.7.2, Figure C.19: in fc2 of F-200^2 the overlap between networks does not "
        f"reach its output dimension: about 0.012 at k = {GAP} (within 0.004), lower at {LARGE}."
    )
    fits = "F-200^2" in record.config.model and record.config.dataset == "mnist"
    if not true_models(record, ("F-200^2",) * fits) or record.config.models < 2:
        return undecided(name, text, "F-200^2 on MNIST, true labels, and at least two networks")
    values = between(record, "F-200^2", "fc2")
    first, later = float(values[GAP - 1]), float(values[LARGE - 1])
    return Claim(
        name, text, abs(first - 0.012) < 0.004 and later < first, f"{first:.4f}, then {later:.4f}"
    )
