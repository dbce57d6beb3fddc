"""The claims of `maml-linear` about what the loss and the best train rate depend on."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pandas as pd

from metastep_lab.bernacchia2021.measures import MORE_RUNS, decided
from metastep_lab.claims import Statement, beyond, each, lacking
from metastep_lab.tables import Frame, Record

LARGEST_SHIFT = 0.1
"""Ours: the relative change of the best train rate that counts as none."""
GROWS = {"noise": 1, "variability": 1, "target_samples": -1}
FALLS = {**GROWS, "validation_samples": -1, "tasks": -1}
"""The signs of the changes of the loss, with more and with fewer parameters than data."""
UNMOVED = "noise", "variability", "test_rate", "validation_samples", "tasks", "start"
"""What Eq. 8 does not have."""


def _of(record: Record, overparameterized: bool) -> Frame:
    settings = {one.figure: one.dim > one.equations for one in record.config.settings()}
    rows = record.frames["sweep"]
    return rows[[settings[figure] == overparameterized for figure in rows["figure"]]]


def _changes(signs: dict[str, int], overparameterized: bool) -> Callable[[Record], Frame]:
    """Return the change of the loss from each value to the next, in the stated direction."""

    def measure(record: Record) -> Frame:
        rows = _of(record, overparameterized)
        found = []
        for (_, varied), part in rows.groupby(["figure", "varied"], sort=False):
            if varied in signs:
                names = ("value", "loss", "standard_error")
                part = part.sort_values("value")
                value, loss, error = (part[name].to_numpy() for name in names)
                change = {
                    "name": [f"{varied} {low:g} to {high:g}" for low, high in pairwise(value)],
                    "change": signs[varied] * np.diff(loss),
                    # Too large, as both share their draws: a change that is decided is decided.
                    "error": np.hypot(error[1:], error[:-1]),
                }
                found.append(pd.DataFrame(change))
        return pd.concat(found, ignore_index=True)

    return measure


def _best(record: Record) -> Frame:
    """Return the relative shifts of the best train rate from that of the setting itself."""
    # The setting itself has neither a shift nor an error.
    return _of(record, True).query("varied != 'target_samples' and shift_error > 0")


def _unmoved(rows: Frame) -> bool | None:
    return decided(rows["shift"], rows["shift_error"], LARGEST_SHIFT)


def _spreads(record: Record) -> Frame:
    """Return the factor between spreads over train rates whenever the number of tasks doubles."""
    rows = _of(record, False).query("varied == 'tasks'").sort_values("value")
    spread, tasks = rows["spread"].to_numpy(), rows["value"].to_numpy()
    # Theorem 2 has 1 / m before all that depends on the train rate.
    part = (spread[1:] / spread[:-1]) ** (np.log(2) / np.log(tasks[1:] / tasks[:-1]))
    return pd.DataFrame({"tasks": tasks[1:], "part": part})


def _needs(overparameterized: bool, varied: Iterable[str]) -> Callable[[Record], str | None]:
    """Say what is missing of an over- or underparameterized setting and of what is varied in it."""
    kind, names = "an over" if overparameterized else "an under", [*varied]
    return lacking(
        f"needs sweeps of {kind}parameterized setting: {', '.join(names)}",
        lambda record: (
            len(record.frames["sweep"]) and {*names} <= {*_of(record, overparameterized)["varied"]}
        ),
    )


CHANGES = each("{name} {change:+.3g}±{error:.1g}", "change in the stated direction: ")

SWEEPS = (
    Statement(
        "monotone-overparameterized",
        "Section 5.1: the loss always increases with the noise and the variability of the tasks, "
        "and decreases with the examples of the target task (here: by three standard errors, from "
        "half to twice the value).",
        lacks=_needs(True, GROWS),
        measure=_changes(GROWS, True),
        verdict=lambda rows: beyond(rows["change"], 3 * rows["error"]),
        evidence=CHANGES,
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "monotone-underparameterized",
        "Section 5.2: the loss always increases with the noise and the variability of the tasks, "
        "and decreases with n_v, n_r and the number of tasks (here: by three standard errors, from "
        "half to twice the value).",
        lacks=_needs(False, FALLS),
        measure=_changes(FALLS, False),
        verdict=lambda rows: beyond(rows["change"], 3 * rows["error"]),
        evidence=CHANGES,
        reasons={None: MORE_RUNS},
    ),
    Statement(
        "best-rate-depends-on-p-and-n_t-alone",
        "Eq. 8: with more parameters than validation examples the best train rate does not depend "
        "on the noise, the variability, the test rate, n_v, the number of tasks and the starting "
        f"point (here: to {LARGEST_SHIFT:.0%} and three standard errors, over a factor of four).",
        lacks=_needs(True, UNMOVED),
        measure=_best,
        verdict=_unmoved,
        evidence=each("{varied} {value:.3g} {shift:+.1%}±{shift_error:.1%}", "relative shift: "),
        reasons={
            None: "The standard errors of these best rates are as large as the shift that is "
            "allowed: more runs would decide.",
            False: "The theorem is leading order; at these sizes what it neglects shifts the "
            "best rate.",
        },
    ),
    Statement(
        "many-tasks-forget-the-train-rate",
        "Section 5.2: with fewer parameters than validation examples and very many tasks the loss "
        "does not depend on the train rate (here: its spread over train rates falls to a half, "
        "give or take an eighth, whenever the tasks double).",
        lacks=_needs(False, ["tasks"]),
        measure=_spreads,
        verdict=lambda rows: rows.eval("0.375 <= part and part <= 0.625").all(),
        evidence=each("m = {tasks:g} {part:.3f}", "factor per doubling: "),
        reasons={
            False: "Theorem 2 has 1 / m for many tasks; with few of them, or few runs, the spread "
            "is another."
        },
    ),
)
