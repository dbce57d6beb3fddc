"""Numbers that the specification measured on two networks, beside those of `hessian-structure`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.tables import Record, select
from metastep_lab.wu2022.hessian_structure.reading import between, curve, leading, undecided

MODEL = "F-200^2"
LAYERS = ("fc1", "fc2", "fc3")
SETTING = {
    "dataset": "mnist",
    "scaling": "normalized",
    "examples": 10_000,
    "epochs": 60,
    "step_size": 0.05,
}
SPREAD = 0.15  # the two networks of the specification differ by up to 11 %, in the gap of H
PLACES = (1, 9, 10, 20, 50)

MEASURED = {
    # name: fc1, fc2, fc3
    "alignment": (0.9948, 0.9989, 0.9991),
    "ratio": (5.02, 8.15, 8.81),
    "hessian_gap": (1.18, 2.20, 4.00),
    "trace_ratio": (1.158, 1.208, 1.237),
    "input_correspondence": (0.75, 0.86, 0.86),
    "inside": (0.971, 0.994, 1.000),
    "rank_one": (0.92, 0.965, 0.96),
    "eigenvalue 1": (0.97, 1.06, 1.07),
    "eigenvalue 9": (0.95, 1.08, 1.11),
    "eigenvalue 50": (1.01, 1.33, 2.28),
    "overlap 1": (0.76, 0.85, 0.84),
    "overlap 9": (0.74, 0.86, 0.86),
    "overlap 10": (0.69, 0.81, 0.83),
    "overlap 20": (0.51, 0.56, 0.62),
    "overlap 50": (0.45, 0.52, 0.64),
    "between 9": (0.033, 0.0117, 0.325),
    "between 20": (np.nan, 0.0102, 0.155),
}


def reference_claims(record: Record) -> tuple[Claim, Claim]:
    """Hold every number against the run, where it has the same setting."""
    within = f"within {100 * SPREAD:.0f} %"
    texts = {
        "reference": f"The specification's numbers for {MODEL}, of each layer, {within}.",
        "reference-between": (
            f"The specification's overlaps between two networks, {within} of the mean over pairs."
        ),
    }
    same = all(getattr(record.config, name) == value for name, value in SETTING.items())
    fits = MODEL in record.config.model and "true" in record.config.labels
    if not (same and fits and record.config.models > 1):
        setting = ", ".join(f"{name} {value}" for name, value in SETTING.items())
        lacking = f"{MODEL}, true labels, two networks, {setting}"
        own, between = (undecided(name, text, lacking) for name, text in texts.items())
        return own, between
    found = {layer: _found(record, layer) for layer in LAYERS}
    own, between = (
        _compared(name, text, found, name == "reference-between") for name, text in texts.items()
    )
    return own, between


def _compared(name: str, text: str, found: Mapping[str, Mapping[str, float]], pairs: bool) -> Claim:
    off, outside = [], []
    for i, layer in enumerate(LAYERS):
        for quantity, value in found[layer].items():
            expected = MEASURED[quantity][i]
            if quantity.startswith("between") != pairs or np.isnan(expected):
                continue
            off.append(abs(value / expected - 1))
            if off[-1] > SPREAD:
                outside.append(f"{layer} {quantity} {value:.4g} for {expected:g}")
    evidence = f"{len(off) - len(outside)} of {len(off)} are, largest deviation {max(off):.2f}"
    return Claim(name, text, not outside, "; ".join([evidence, *outside]))


def _found(record: Record, layer: str) -> Mapping[str, float]:
    """Return this run's means over networks, by the names of `MEASURED`."""
    which = {"model": MODEL, "labels": "true", "layer": layer}
    table = select(record.tables["layers"], **which)
    found = {
        name: float(np.mean(table[name]))
        for name in ("alignment", "ratio", "hessian_gap", "trace_ratio")
    }
    for name in ("input_correspondence", "inside", "rank_one"):
        found[name] = float(np.mean(leading(record, name, MODEL, layer)))
    columns = {
        name: curve(record, "spectra", name, **which)[1]
        for name in ("true", "kronecker", "overlap")
    }
    ratios = np.mean(columns["kronecker"] / columns["true"], axis=0)
    overlaps, others = np.mean(columns["overlap"], axis=0), between(record, MODEL, layer)
    for kind, values in (("eigenvalue", ratios), ("overlap", overlaps), ("between", others)):
        for place in PLACES:
            if f"{kind} {place}" in MEASURED and place <= len(values):
                found[f"{kind} {place}"] = float(values[place - 1])
    return found
