"""The number that Figure 5 of the paper prints."""

from metastep_lab.bernacchia2021.maml_nonlinear.claims import TRAINED, finest
from metastep_lab.printed import Printed
from metastep_lab.tables import Record, where


def _best_rate(record: Record) -> float | None:
    rows = where(finest(record), limit=TRAINED[0], test_rate=record.config.paper_test_rate)
    rows = rows.dropna(subset="difference")
    if rows.empty:
        return None
    best = rows.loc[rows["difference"].idxmin()]
    # The differences are to rate 0, which has no row.
    return float(best["train_rate"]) if best["difference"] < 0 else 0.0


def printed(record: Record) -> list[Printed]:
    """Return the best train rate; the paper has no other numbers on networks."""
    return [Printed("Figure 5", "train rate with the smallest test loss", -0.0075, _best_rate)]
