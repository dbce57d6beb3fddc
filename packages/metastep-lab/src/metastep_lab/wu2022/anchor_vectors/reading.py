"""Functions that read the tables of `anchor-vectors` for its claims and figures."""

from collections.abc import Sequence

from metastep_lab.claims import lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.anchor_vectors.published import without

SHOWN = 100  # words that the bulk of Table 3.1 leaves out


def shown_bulk(top: Sequence[int]) -> int:
    """Return the bulk size that is compared with log Z: 100, or else the largest of a run."""
    return SHOWN if SHOWN in top else max(top)


def model_names(record: Record, trained: bool) -> list[str]:
    """Return the models that were trained, or those that were not, in the order of the run."""
    rows = record.frames["models"].query("trained == @trained")
    return rows["model"].tolist()


def both(record: Record, table: str, trained: bool = True) -> Frame:
    """Return the columns of a table for log Z and for log Z_bulk, `NAME_z` and `NAME_bulk`."""
    rows = record.frames[table].set_index("model")
    z, bulk = (rows[rows["top"] == k] for k in (0, shown_bulk(record.config.top)))
    joined = z.add_suffix("_z").join(bulk.add_suffix("_bulk"))
    return joined.loc[model_names(record, trained)]


def errors(record: Record, table: str = "mse", trained: bool = True) -> Frame:
    """Return `both` with the ratio of the mean squared errors."""
    return both(record, table, trained).assign(ratio=lambda rows: rows.mse_z / rows.mse_bulk)


def selected(record: Record, table: str = "mse") -> Frame:
    """Return `errors` without models of the thesis that Table 3.1 does not select."""
    return without(lambda model: not model.selected, errors(record, table))


needs_trained = lacking("no trained model in this run", lambda record: model_names(record, True))
