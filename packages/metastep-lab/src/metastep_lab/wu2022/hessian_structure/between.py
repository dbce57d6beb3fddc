"""The claims of `hessian-structure` about pairs of networks."""

import numpy as np
import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import (
    GAP,
    LARGE,
    between,
    layers,
    leading,
    rows_of,
    spread,
    spreads,
    true_wide,
)

NARROW = "F-100-8"


def _has_pairs(record: Record, *models: str) -> bool:
    """Whether a run has pairs of networks with true labels, and of some models."""
    config = record.config
    return config.models > 1 and "true" in config.labels and {*models} <= {*config.model}


def _with_and_without(record: Record) -> list[str]:
    return [name for name in true_wide(record) if _has_pairs(record, f"{name}-BN")]


def _normalized(record: Record) -> Frame:
    """Return the overlaps with the product, and between networks in the last layer."""
    rows = []
    for plain in _with_and_without(record):
        last = layers(record, "layers", plain)[-1]
        own, shared = [], []
        for model in (plain, f"{plain}-BN"):
            names = layers(record, "layers", model)[1:]
            own.append(np.mean([leading(record, "overlap", model, one)[:, -1] for one in names]))
            shared.append(between(record, model, last)[GAP - 1])
        rows.append((plain, last, *own, *shared))
    return pd.DataFrame(rows, columns="model last own own_bn shared shared_bn".split())


def _peak(record: Record) -> Numbers:
    values = between(record, NARROW, "fc2")
    pairs = rows_of(record, "pairs", model=NARROW, labels="true", layer="fc2")
    return {
        **spreads(pairs, ["layer"], "alignment").iloc[0],
        "place": int(np.argmax(values)) + 1,
        "peak": values.max(),
        "later": values[15],
        "alone": pairs["alone"].sum(),
        "pairs": len(pairs),
    }


def _output_layers(record: Record) -> Frame:
    """Return the overlaps in the last layer for some dimensions, by network."""
    rows = []
    for model in true_wide(record):
        values = between(record, model, layers(record, "layers", model)[-1])
        chosen = values[[0, 4, GAP - 1]]
        off = np.max(np.abs(chosen / chosen.mean() - 1))
        rows.append((model, *chosen, values[LARGE - 1], off))
    return pd.DataFrame(rows, columns="model first fifth gap large off".split())


def _early(record: Record) -> Numbers:
    values = between(record, "F-200^2", "fc2")
    return {"first": values[GAP - 1], "later": values[LARGE - 1]}


BETWEEN = (
    Statement(
        "batch-normalization-overlap",
        "Figures C.23 and C.24: with batch normalization the Kronecker product describes the top "
        "(c - 1)-dimensional eigenspace worse, and that of the output layer overlaps less between "
        "networks, by a factor of two.",
        lacks=lacking(
            "needs a network with and without it, true labels, two networks", _with_and_without
        ),
        measure=_normalized,
        verdict=every("own_bn < own and shared_bn < shared / 2"),
        evidence=each(
            "{model}: with the Kronecker product {own:.3f} without, {own_bn:.3f} with; between "
            "networks in {last} {shared:.3f} and {shared_bn:.3f}"
        ),
    ),
    Statement(
        "narrow-peak",
        "Figure 4.4, Theorem C.7.1: in a layer of m = 8 units the overlap between networks peaks "
        "at the number of its live units (6 to 8), more than 1.5 times as high as at k = 16.",
        lacks=lacking(
            f"needs {NARROW}, true labels, and at least two networks",
            lambda record: _has_pairs(record, NARROW),
        ),
        measure=_peak,
        verdict=lambda found: 6 <= found["place"] <= 8 and found["peak"] > 1.5 * found["later"],
        evidence="peak {peak:.3f} at k = {place}, {later:.3f} at 16; (t_1 . t_2)^2 is "
        f"{spread('alignment')}, which the theorem has at k = 8; its condition holds in "
        "{alone:.0f} of {pairs} pairs",
    ),
    Statement(
        "output-layer",
        "Appendix C.7.2: in the output layer, whose units cannot be permuted, the overlap between "
        f"networks is level up to k = c - 1 (within 25 %) and falls by a third until {LARGE}.",
        lacks=lacking(
            "needs true labels, no batch normalization, two networks",
            lambda record: _has_pairs(record) and true_wide(record),
        ),
        measure=_output_layers,
        verdict=every("off < 0.25 and large < 2 / 3 * gap"),
        evidence=each(
            f"{{model}}, k = 1, 5, {GAP}, {LARGE}: {{first:.3f}}, {{fifth:.3f}}, {{gap:.3f}}, "
            "{large:.3f}"
        ),
    ),
    Statement(
        "early-peak",
        "Appendix C.7.2, Figure C.19: in fc2 of F-200^2 the overlap between networks does not "
        f"reach its output dimension: about 0.012 at k = {GAP} (within 0.004), lower at {LARGE}.",
        lacks=lacking(
            "needs F-200^2 on MNIST, true labels, and at least two networks",
            lambda record: _has_pairs(record, "F-200^2") and record.config.dataset == "mnist",
        ),
        measure=_early,
        verdict=lambda found: (
            abs(found["first"] - 0.012) < 0.004 and found["later"] < found["first"]
        ),
        evidence="{first:.4f}, then {later:.4f}",
    ),
)
