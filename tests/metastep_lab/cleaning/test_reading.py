"""What `metastep clean` makes of the cells and pictures of a file."""

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from metastep_lab.cleaning import matrix
from metastep_lab.cleaning.images import read_images
from metastep_lab.cleaning.matrix import make_matrix
from metastep_lab.cleaning.reading import read_labelled, spellings
from metastep_lab.errors import RefusedError


@pytest.mark.parametrize("front", ["", "\n", "\r\n\n", "  \n \r\n", "\ufeff\n"])
def test_blank_lines_before_the_header(tmp_path, front):
    path = tmp_path / "table.csv"
    path.write_bytes(f"{front}x;y\n1;a\n2;b\n".encode())
    table = read_labelled(path, "y").table
    assert table.to_dict("list") == {"x": ["1", "2"], "y": ["a", "b"]}


@pytest.mark.parametrize("name", ["height, cm", '"height, in cm, of a plant"', "a|b"])
def test_signs_in_names_of_columns_are_no_separators(tmp_path, name):
    (tmp_path / "table.csv").write_text(f"{name};y\n1;a\n2;b\n")
    found = read_labelled(tmp_path / "table.csv", "y")
    assert (list(found.table.columns), found.separator) == ([name.strip('"'), "y"], ";")


@pytest.mark.parametrize("zone", [None, UTC])
def test_a_time_is_the_same_number_in_both_files(tmp_path, zone):
    times = pd.date_range("2024-02-27", periods=8, tz=zone)
    table = pd.DataFrame({"when": times, "y": list("abababab")})
    for name, rows in (("whole", table), ("late", table[5:].reset_index(drop=True))):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    files = (read_labelled(tmp_path / f"{name}.parquet", "y") for name in ("whole", "late"))
    made = make_matrix(*files, dense=True)
    np.testing.assert_array_equal(made.validation, made.train[5:])
    np.testing.assert_array_equal(np.diff(made.train[:, 0]), 24 * 3600)


@pytest.mark.parametrize("kind", ["timedelta64[s]", "datetime64[s]", "date"])
def test_missing_times_are_missing(tmp_path, kind):
    whole = np.array([-1, *range(9)], "timedelta64[D]")
    times = pd.Series(np.zeros(10, "datetime64[s]") + whole if "date" in kind else whole)
    times = times.dt.date if kind == "date" else times.astype(kind)
    times = times.mask(whole.astype(int) < 0)
    times[9] = {"date": date.max, "datetime64[s]": datetime(9999, 12, 31)}.get(kind, times[9])
    table = pd.DataFrame({"when": times, "y": list("ababababab")})
    table.to_parquet(tmp_path / "gap.parquet")
    made = make_matrix(read_labelled(tmp_path / "gap.parquet", "y"), None, dense=True)
    median = 4  # of 0 to 8, in place of the gap, which the second column tells
    expected = np.array([median, *range(9)]) * 24 * 3600.0
    if "date" in kind:
        expected[9] = (datetime(9999, 12, 31) - datetime(1970, 1, 1)).total_seconds()
    np.testing.assert_array_equal(made.train, np.stack([expected, np.arange(10) == 0], axis=1))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_gray_of_16_bits_keeps_its_shades(tmp_path, order):
    shades = np.arange(0, 2**16, 2**12, dtype=order).reshape(4, 4)
    Image.fromarray(shades).save(tmp_path / "deep.tif")
    images = read_images(tmp_path, pd.DataFrame({"file": ["deep.tif"]}))
    # 16 bits become 8, of which the upper 4 are set here.
    np.testing.assert_array_equal(images.pixels[0] * 255, np.arange(0, 256, 16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_shape_that_is_only_in_the_transparency(tmp_path, mode):
    """All of its colors are black: every picture was black."""
    shape = np.zeros((8, 8), np.uint8)
    shape[2:6, 2:6] = 255
    black = np.zeros_like(shape)
    path = tmp_path / "shape.png"
    if mode == "P":
        palette = Image.fromarray(shape // 255, "L").convert("P")
        palette.putpalette([0] * 768)
        palette.save(path, transparency=0)
    else:
        Image.fromarray(np.stack([black] * (len(mode) - 1) + [shape], axis=2), mode).save(path)
    pixels = read_images(tmp_path, pd.DataFrame({"file": ["shape.png"]})).pixels
    expected = (1 - shape / 255).repeat(1 if mode == "LA" else 3)
    np.testing.assert_array_equal(pixels[0], expected)


def test_a_named_index_and_names_that_are_numbers_are_columns_of_a_file(tmp_path):
    table = pd.DataFrame({0: [1.5, 2.5, 3.5, 4.5], 1: list("abab")})
    table.to_parquet(tmp_path / "plain.parquet")
    found = read_labelled(tmp_path / "plain.parquet", "1")
    assert list(found.table.columns) == ["0", "1"] and list(found.labels) == list("abab")
    table.index = pd.Index([7, 3, 9, 1], name="patient")
    table.to_parquet(tmp_path / "named.parquet")
    found = read_labelled(tmp_path / "named.parquet", "1")
    assert set(found.table.columns) == {"patient", "0", "1"}
    assert list(found.table["patient"]) == [7, 3, 9, 1]
    table.rename_axis(None).to_parquet(tmp_path / "rows.parquet")
    assert list(read_labelled(tmp_path / "rows.parquet", "1").table.columns) == ["0", "1"]


def test_few_sparse_columns_are_not_projected(tmp_path, monkeypatch):
    """More directions than columns were asked for, an error of scikit-learn."""
    monkeypatch.setattr(matrix, "MOST_DENSE", 10)
    rows = sparse.csr_array(np.eye(20))
    assert np.array_equal(matrix._to_dense(rows)(rows), np.eye(20))


def test_classes_that_look_alike_are_named(tmp_path):
    (tmp_path / "table.csv").write_text("x,y\n1,caf\u00e9\n2,cafe\u0301\n", encoding="utf-8")
    assert len(spellings(read_labelled(tmp_path / "table.csv", "y"))) == 1


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(RefusedError, match="its pixels have 32 bits; allowed are 8 and 16"):
        read_images(tmp_path, pd.DataFrame({"file": ["deep.tif"]}))
