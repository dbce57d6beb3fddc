"""Records with changed cells: every claim of an experiment must be able to hold and to fail."""

from metastep_lab.claims import evaluate
from metastep_lab.tables import Record


def verdicts(experiment, record):
    """Return what each claim says of a record, by its id."""
    return {claim.id: claim.holds for claim in evaluate(experiment.claims, record)}


def changed(record, table, where="", config=None, **values):
    """Return a copy of a record in which a table has other values, in the rows of a query."""
    frame = record.frames[table].copy()
    rows = frame.query(where).index if where else frame.index
    assert len(rows), f"{where} names no row of {table}"
    for name, value in values.items():
        frame.loc[rows, name] = value(frame.loc[rows, name]) if callable(value) else value
    columns = {name: frame[name].to_numpy() for name in frame}
    tables = {**record.tables, table: columns}
    return Record(config or record.config, tables, record.metrics, record.arrays)


def check_every_claim(experiment, good, spoiled, *more):
    """Check that each claim holds in one of the records, and fails where the first is spoiled.

    A row of `spoiled` is the id of a claim and what `changed` takes: a table, rows, and values.
    """
    found = [verdicts(experiment, record) for record in (good, *more)]
    assert found[0].keys() == {name for name, *_ in spoiled}
    for name, table, where, values in spoiled:
        assert any(one.get(name) is True for one in found), f"{name} holds nowhere"
        failed = verdicts(experiment, changed(good, table, where, **values))
        assert failed[name] is False, f"{name} survives {values}"
