"""The table of a sweep: what it holds, and damaged files."""

import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from metastep_lab.errors import RunDirectoryError
from metastep_lab.sweep.grid import Entry
from metastep_lab.sweep.record import Row, read_list, read_row, write_list
from metastep_lab.sweep.table import as_table, read_messages, write_table

ROWS = [
    Row(
        Entry("a", {"rate": 0.1, "windows": [1, 2], "key": "x"}, 0),
        "complete",
        "",
        1,
        2.5,
        {"loss": 0.1 + 0.2, "gap": None},
        {"small": True, "open": None},
    ),
    Row(
        Entry("b", {"rate": 2.0, "windows": [], "key": "y"}, 2**32 - 1), "failed", 'no, "never"', 3
    ),
]


def test_one_row_for_each_run_with_typed_columns():
    table = as_table(ROWS)
    assert table.column_names == [
        *("key", "rate", "windows", "config_key", "seed", "status", "message", "attempts"),
        *("seconds", "metric_loss", "metric_gap", "claim_small", "claim_open"),
    ]
    assert table["metric_loss"].to_pylist() == [0.1 + 0.2, None]
    assert table["claim_small"].to_pylist() == [True, None]
    assert table["claim_open"].type == pa.bool_() and table["metric_gap"].type == pa.float64()
    assert table["windows"].to_pylist() == ["1+2", ""]


def test_both_files_read_back_to_the_same_numbers(tmp_path):
    write_table(tmp_path, ROWS)
    stored = parquet.read_table(io.BytesIO((tmp_path / "sweep.parquet").read_bytes()))
    assert stored.equals(as_table(ROWS))
    text = csv.read_csv(io.BytesIO((tmp_path / "sweep.csv").read_bytes()))
    np.testing.assert_array_equal(text["metric_loss"].to_pylist()[0], 0.1 + 0.2)
    assert text["message"].to_pylist()[1] == 'no, "never"'
    assert read_messages(tmp_path) == {"b": 'no, "never"'}


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    write_table(tmp_path, ROWS[:1])
    before = (tmp_path / "sweep.csv").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path, ROWS)
    assert (tmp_path / "sweep.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.csv", "sweep.parquet"]


def test_the_list_reads_back(tmp_path):
    entries = tuple(row.entry for row in ROWS)
    write_list(tmp_path, "light-walk", entries)
    assert read_list(tmp_path) == ("light-walk", entries)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff", b'{"schema": 9}', b'{"schema": 1, "runs": [{}]}']
)
def test_a_damaged_list_is_one_clear_line(tmp_path, damage):
    (tmp_path / "sweep.json").write_bytes(damage)
    with pytest.raises(RunDirectoryError, match=r"sweep\.json"):
        read_list(tmp_path)


def test_a_damaged_table_and_a_damaged_run(tmp_path):
    for damage in (b"", b"key,status\na,failed\n", b"key,status,message\na,failed\n", b"\xff"):
        (tmp_path / "sweep.csv").write_bytes(damage)
        with pytest.raises(RunDirectoryError, match=r"sweep\.csv (is damaged|cannot be read)"):
            read_messages(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "result.json").write_bytes(b"{")
    row = read_row(tmp_path, ROWS[0].entry)
    assert row.status == "failed" and "damaged" in row.message
    assert read_row(tmp_path, ROWS[1].entry).status == "missing"
