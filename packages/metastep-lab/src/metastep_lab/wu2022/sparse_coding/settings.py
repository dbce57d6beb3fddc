"""The settings that `sparse-coding` compares: their errors by both algorithms."""

import pandas as pd

from metastep_lab.tables import Frame, Record

SYMBOL = {"realization": "p'", "scale": "d", "noise": "sd"}
THESIS = {
    "samples": 1000,
    "dim": 100,
    "atoms": 200,
    "n_nonzero": 5,
    "epochs": 500,
    "batch_size": 200,
    "learning_rate": 0.001,
    "mask_fraction": 0.1,
}


def settings(record: Record) -> Frame:
    """Return one row for each value and start.

    Returns:
        vary, value and initialization; means over seeds of the errors initial, baseline and
        masking, of gap (baseline less masking) and of change (baseline less initial), and their
        standard deviations as `NAME_spread`; seeds; and name, such as `p' = 400, local`.
    """
    keys = ["vary", "initialization", "value"]
    rows = record.frames["recovery"].assign(
        # Categories, so that groups keep the order of the configuration instead of the alphabet's.
        vary=lambda rows: pd.Categorical(rows["vary"], SYMBOL),
        initialization=lambda rows: pd.Categorical(
            rows["initialization"], record.config.initialization
        ),
    )
    errors = rows.pivot(index=[*keys, "seed"], columns="algorithm", values="error")
    # pandas would otherwise give a group to every pair of categories, run or not.
    errors["initial"] = rows.groupby([*keys, "seed"], observed=True)["error_initial"].first()
    errors = errors.eval("gap = baseline - masking\nchange = baseline - initial")
    groups = errors.groupby(keys, observed=True)
    means = groups.mean().join(groups.std().add_suffix("_spread")).assign(seeds=groups.size())
    means = means.reset_index().astype({"vary": str, "initialization": str, "value": float})
    values = means["vary"].map(SYMBOL) + " = " + means["value"].map("{:g}".format)
    return means.assign(name=values + ", " + means["initialization"])


def series(record: Record, vary: str, start: str | None = None) -> Frame:
    """Return the settings of one figure, of one start or of all."""
    rows = settings(record).query("vary == @vary")
    return rows if start is None else rows[rows["initialization"] == start]


def like_the_thesis(record: Record) -> bool:
    """Whether a run has the sizes of the thesis."""
    return all(getattr(record.config, name) == value for name, value in THESIS.items())
