"""The errors that the authors of `sparse-coding` and this project's first implementation found.

The authors' errors are read by eye from curves in their repository, means of 5 runs; the thesis
prints no numbers. The first implementation, in JAX, shares no code with the one that is run here,
and nobody else has run it: means over 3 seeds in Figure 2.1 (8 at p' = 400, sample), 1 in
Figure 2.2 and 1 or 2 in Figure 2.3.
"""

import pandas as pd

from metastep_lab.claims import Numbers, Statement, every, lacking
from metastep_lab.printed import Printed
from metastep_lab.tables import Frame, Record, where
from metastep_lab.wu2022.sparse_coding.settings import like_the_thesis, settings

READING_ERROR = 0.005
PUBLISHED = pd.DataFrame(
    [
        ("realization", 200, "sample", 0.468, 0.433, 0.466, 0.431),
        ("realization", 400, "sample", 0.449, 0.376, 0.436, 0.379),
        ("realization", 600, "sample", 0.465, 0.381, 0.458, 0.373),
        ("realization", 800, "sample", 0.51, 0.379, 0.513, 0.383),
        ("realization", 1000, "sample", 0.533, 0.384, 0.531, 0.384),
        ("realization", 200, "local", 0.126, 0.153, 0.128, 0.155),
        ("realization", 400, "local", 0.156, 0.149, 0.158, 0.149),
        ("realization", 600, "local", 0.202, 0.153, 0.201, 0.153),
        ("realization", 800, "local", 0.27, 0.158, 0.274, 0.158),
        ("realization", 1000, "local", 0.331, 0.158, 0.334, 0.161),
        ("scale", 150, "sample", 0.583, 0.509, 0.587, 0.515),
        ("scale", 200, "sample", 0.697, 0.614, 0.693, 0.603),
        ("scale", 250, "sample", 0.742, 0.663, 0.741, 0.659),
        ("scale", 150, "local", 0.267, 0.204, 0.27, 0.203),
        ("scale", 200, "local", 0.4, 0.256, 0.402, 0.256),
        ("scale", 250, "local", 0.46, 0.29, 0.456, 0.289),
        ("noise", 0.01, "sample", 0.007, 0.006, 0.006, 0.004),
        ("noise", 0.0325, "sample", 0.135, 0.062, 0.131, 0.059),
        ("noise", 0.055, "sample", 0.305, 0.165, 0.306, 0.16),
        ("noise", 0.0775, "sample", 0.438, 0.275, 0.438, 0.275),
        ("noise", 0.01, "local", 0.003, 0.004, 0.003, 0.004),
        ("noise", 0.0325, "local", 0.055, 0.037, 0.054, 0.037),
        ("noise", 0.055, "local", 0.175, 0.081, 0.17, 0.082),
        ("noise", 0.0775, "local", 0.273, 0.123, 0.273, 0.123),
    ],
    columns="vary value initialization authors_baseline authors_masking earlier_baseline "
    "earlier_masking".split(),
)


PLACES = {
    "realization": "Figure 2.1, p' =",
    "scale": "Figure 2.2, d =",
    "noise": "Figure 2.3, sigma =",
}


def printed(record: Record) -> list[Printed]:
    """Return the authors' errors, read from their curves, for the thesis's sizes."""
    if not like_the_thesis(record):
        return []
    found = settings(record)

    def mean(row: Numbers, method: str) -> float | None:
        same = where(found, **{name: row[name] for name in ("vary", "value", "initialization")})
        return float(same[method].iloc[0]) if len(same) else None

    return [
        Printed(
            PLACES[row["vary"]] + f" {row['value']:g}",
            f"error, {row['initialization']} start, {method}",
            row[f"authors_{method}"],
            lambda record, row=row, method=method: mean(row, method),
        )
        for row in PUBLISHED.to_dict("records")
        for method in ("baseline", "masking")
    ]


def _compared(record: Record, source: str) -> Frame:
    """Return our mean errors, the published ones, and their distance divided by the allowed one."""
    rows = (
        # A standard deviation of two numbers says too little.
        settings(record).query("seeds > 2").merge(PUBLISHED, on=["vary", "value", "initialization"])
    )
    parts = []
    for name in ("baseline", "masking"):
        part = rows[["name"]].assign(mean=rows[name], printed=rows[f"{source}_{name}"])
        allowed = 3 * rows[f"{name}_spread"] + READING_ERROR
        parts.append(part.assign(ratio=(part["mean"] - part["printed"]).abs() / allowed))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def _farthest(rows: Frame) -> str:
    worst = rows.loc[rows["ratio"].idxmax()]
    return (
        f"{len(rows)} means compared, {(rows['ratio'] > 1).sum()} outside; the farthest is "
        f"{worst['ratio']:.2f} of what is allowed: {worst['name']}: {worst['mean']:.3f} against "
        f"{worst['printed']:g}"
    )


def agrees(source: str, words: str) -> Statement:
    """Return the statement that our errors agree with published ones; both have equal scatter."""
    return Statement(
        f"{source}-values",
        f"Errors agree with {words} within three standard deviations over seeds and the "
        f"{READING_ERROR} of reading a curve.",
        lacks=lacking(
            "needs the thesis's sizes and at least three seeds",
            lambda record: like_the_thesis(record) and len(_compared(record, source)),
        ),
        measure=lambda record: _compared(record, source),
        verdict=every("ratio <= 1"),
        evidence=_farthest,
    )
