"""The claims of `estimator-costs`, Table 1 of Shaban et al. 2019, and its answer."""

from collections.abc import Callable

import numpy as np

from metastep_lab.claims import Numbers, Statement, each, yes_or_no
from metastep_lab.tables import Frame, Record, where

NEAR = 0.1
"""Ours: how far a measured exponent may be from the stated one."""
LARGEST_FACTOR = 2.0
"""Of the time of checkpointing over that of reverse mode (Table 1, footnote)."""


def _exponents(quantity: str, source: str) -> Callable[[Record], Frame]:
    return lambda record: record.rows("exponents", quantity=quantity, source=source)


def _near(rows: Frame) -> bool:
    return ((rows["measured"] - rows["stated"]).abs() <= NEAR).all()


def _at_most(rows: Frame) -> bool:
    """Whether no exponent is larger than stated: orders are upper bounds."""
    return (rows["measured"] - rows["stated"] <= NEAR).all()


MEASURED = each("{estimator} {varied}^{measured:.2f} ({stated:g})", "measured (stated): ")


def checkpointing(record: Record) -> Numbers:
    """Return the additional time of checkpointing over that of reverse mode at the longest T."""
    rows = record.rows("costs", varied="T", value=max(record.config.horizons))
    operations = rows.set_index("estimator")["operations"]
    return {
        "factor": operations["checkpointing"] / operations["RMD"],
        "horizon": rows["value"].iloc[0],
    }


def answer(record: Record) -> str:
    """Say the memory of the methods of Table 1 at the longest training, and what their time is."""
    longest = max(record.config.horizons)
    costs, exponents = record.rows("costs", varied="T"), record.frames["exponents"]
    memory = where(costs, value=longest).set_index("estimator")["memory"] / 2**20
    table = where(exponents, source="table")
    verdicts = [_near(where(table, quantity=name)) for name in ("memory", "time")]
    seconds = where(costs, estimator="RMD").set_index("value")["seconds"].iloc[-2:]
    growth = np.log(seconds.iloc[1] / seconds.iloc[0]) / np.log(seconds.index[1] / seconds.index[0])
    return (
        f"Do they grow as Table 1 says? {yes_or_no(verdicts)}. With {longest} steps of "
        f"{record.config.parameters} parameters, "
        + ", ".join(
            f"{name} needs {memory[name]:.2g} MiB"
            for name in ("RMD", "checkpointing", "K-RMD", "FMD")
        )
        + f". Checkpointing computes {checkpointing(record)['factor']:.2f} times as many "
        f"additional numbers as RMD. Processor time also depends on caches: that of RMD grew as "
        f"T^{growth:.2f}."
    )


CLAIMS = (
    Statement(
        "table-1-memory",
        "Table 1: the memory of FMD is of order M N, of RMD M T, with checkpoints M sqrt(T), and "
        f"of K-RMD M K (here: exponents in T, K and N within {NEAR:g}).",
        measure=_exponents("memory", "table"),
        verdict=_near,
        evidence=MEASURED,
    ),
    Statement(
        "table-1-time",
        "Table 1: the additional time of FMD is of order c N T, of RMD and with checkpoints c T, "
        f"and of K-RMD c K (here: in arithmetic operations, exponents in T, K and N within "
        f"{NEAR:g}).",
        measure=_exponents("time", "table"),
        verdict=_near,
        evidence=MEASURED,
    ),
    Statement(
        "checkpointing-doubles-the-time",
        "Table 1, footnote: checkpointing doubles the constant of the time (here: at most doubles "
        "the additional operations, at the longest T).",
        measure=checkpointing,
        verdict=lambda found: found["factor"] <= LARGEST_FACTOR,
        evidence="{factor:.2f} times those of RMD at T = {horizon:g}",
        reasons={
            False: "The step, which checkpointing repeats, has more operations here than the "
            "derivative that RMD adds, since that shares parts with the step."
        },
    ),
    Statement(
        "other-estimators-memory",
        "Not in the paper: the memory of the other estimators grows at most as their documentation "
        f"says (here: exponents at most {NEAR:g} above it).",
        measure=_exponents("memory", "ours"),
        verdict=_at_most,
        evidence=MEASURED,
    ),
    Statement(
        "other-estimators-time",
        "Not in the paper: the additional time of the other estimators grows at most as their "
        f"documentation says (here: exponents at most {NEAR:g} above it).",
        measure=_exponents("time", "ours"),
        verdict=_at_most,
        evidence=MEASURED,
    ),
)
