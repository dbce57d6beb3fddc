"""Records with changed cells: every claim of an experiment must be able to hold and to fail."""

from metastep_lab.claims import evaluate
from metastep_lab.tables import Record


def verdicts(experiment, record, *names):
    """Return what each claim says of a record, by its id; of the named ones only, if any are."""
    claims = experiment.claims
    rows = claims(record) if callable(claims) else claims
    chosen = [row for row in rows if not names or row.id in names]
    return {claim.id: claim.holds for claim in evaluate(chosen, record)}


def changed(record, table, where="", config=None, **values):
    """Return a copy of a record in which a table has other values, in the rows of a query.

    A value may be a function of these rows.
    """
    frame = record.frames[table].copy()
    rows = frame.query(where).index if where else frame.index
    assert len(rows), f"{where} names no row of {table}"
    for name, value in values.items():
        frame.loc[rows, name] = value(frame.loc[rows]) if callable(value) else value
    columns = {name: frame[name].to_numpy() for name in frame}
    tables = {**record.tables, table: columns}
    return Record(config or record.config, tables, record.metrics, record.arrays)


def check_every_claim(experiment, spoiled, *records):
    """Check that each claim holds in one of the records, and fails once that one is spoiled.

    A row of `spoiled` is the id of a claim and what `changed` takes: a table, rows, and values.
    """
    found = [verdicts(experiment, record) for record in records]
    assert found[0].keys() == {name for name, *_ in spoiled}
    for name, table, where, values in spoiled:
        holds = (one for one, said in zip(records, found, strict=True) if said[name] is True)
        record = next(holds, None)
        assert record, f"{name} holds nowhere"
        failed = verdicts(experiment, changed(record, table, where, **values), name)
        assert failed[name] is False, f"{name} survives {values}"
