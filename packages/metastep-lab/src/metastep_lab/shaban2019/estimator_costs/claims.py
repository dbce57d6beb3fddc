"""The claims of `estimator-costs`, Table 1 of Shaban et al. 2019, and its answer."""

from collections.abc import Callable

from metastep_lab.claims import Numbers, Statement, each
from metastep_lab.tables import Frame, Record, where

NEAR = {"memory": 0.1, "time": 0.25}
"""Ours: how far a measured exponent may be from the stated one."""
LARGEST_FACTOR = 2.0
"""Of the time of checkpointing over that of reverse mode (Table 1, footnote)."""


def _exponents(quantity: str, source: str) -> Callable[[Record], Frame]:
    return lambda record: where(record.frames["exponents"], quantity=quantity, source=source)


def _near(quantity: str) -> Callable[[Frame], bool | None]:
    """Whether every exponent is near the stated one; open where one could not be measured."""
    return lambda rows: _within((rows["measured"] - rows["stated"]).abs(), NEAR[quantity])


def _at_most(quantity: str) -> Callable[[Frame], bool | None]:
    """Whether no exponent is larger than stated: orders are upper bounds."""
    return lambda rows: _within(rows["measured"] - rows["stated"], NEAR[quantity])


def _within(distances: Frame, most: float) -> bool | None:
    if (distances > most).any():
        return False
    return None if distances.isna().any() else True


MEASURED = each("{estimator} {varied}^{measured:.2f} ({stated:g})", "measured (stated): ")


def checkpointing(record: Record) -> Numbers:
    """Return the additional time of checkpointing over that of reverse mode at the longest T."""
    rows = where(record.frames["costs"], varied="T", value=max(record.config.horizons))
    seconds = rows.set_index("estimator")["seconds"]
    return {"factor": seconds["checkpointing"] / seconds["RMD"], "horizon": rows["value"].iloc[0]}


def answer(record: Record) -> str:
    """Say the memory of the methods of Table 1 at the longest training."""
    longest = max(record.config.horizons)
    rows = where(record.frames["costs"], varied="T", value=longest).set_index("estimator")
    memory = rows["memory"] / 2**20
    wrong = record.frames["exponents"].query("source == 'table' and quantity == 'memory'")
    opening = "Yes" if _near("memory")(wrong) else "No"
    return (
        f"{opening} for memory: with {longest} steps of {record.config.parameters} parameters, "
        + ", ".join(
            f"{name} needs {memory[name]:.2g} MiB"
            for name in ("RMD", "checkpointing", "K-RMD", "FMD")
        )
        + f". Checkpointing takes {checkpointing(record)['factor']:.2f} times the additional time."
    )


CLAIMS = (
    Statement(
        "table-1-memory",
        "Table 1: the memory of FMD is of order M N, of RMD M T, with checkpoints M sqrt(T), and "
        f"of K-RMD M K (here: exponents in T, K and N within {NEAR['memory']:g}).",
        measure=_exponents("memory", "table"),
        verdict=_near("memory"),
        evidence=MEASURED,
    ),
    Statement(
        "table-1-time",
        "Table 1: the additional time of FMD is of order c N T, of RMD and with checkpoints c T, "
        f"and of K-RMD c K (here: exponents in T, K and N within {NEAR['time']:g}).",
        measure=_exponents("time", "table"),
        verdict=_near("time"),
        evidence=MEASURED,
    ),
    Statement(
        "checkpointing-doubles-the-time",
        "Table 1, footnote: checkpointing doubles the constant of the time (here: at most doubles "
        "the additional time, at the longest T).",
        measure=checkpointing,
        verdict=lambda found: (
            None if found["factor"] != found["factor"] else found["factor"] <= LARGEST_FACTOR
        ),
        evidence="{factor:.2f} times that of RMD at T = {horizon:g}",
    ),
    Statement(
        "other-estimators-memory",
        "Not in the paper: the memory of the other estimators grows at most as their documentation "
        f"says (here: exponents at most {NEAR['memory']:g} above it).",
        measure=_exponents("memory", "ours"),
        verdict=_at_most("memory"),
        evidence=MEASURED,
    ),
    Statement(
        "other-estimators-time",
        "Not in the paper: the additional time of the other estimators grows at most as their "
        f"documentation says (here: exponents at most {NEAR['time']:g} above it).",
        measure=_exponents("time", "ours"),
        verdict=_at_most("time"),
        evidence=MEASURED,
    ),
)
