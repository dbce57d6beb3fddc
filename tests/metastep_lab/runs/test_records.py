"""The files of a run come back to the same numbers; damaged ones are one sentence."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep_lab.errors import RefusedError
from metastep_lab.runs import records
from metastep_lab.runs.directories import check_output

LINE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=8
)
INTEGER = st.integers(-(2**53), 2**53)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def round_trip(folder, columns):
    records.write_table(folder, "table", columns)
    return records.read_table(folder / "tables" / "table.csv")


@given(st.lists(st.floats(), max_size=20))
@settings(max_examples=200, deadline=None)
def test_floats_come_back_to_the_same_bits(folder, values):
    column = np.array(values, float)
    back = round_trip(folder, {"x": column, "y": column[::-1]})["x"]
    assert back.dtype == np.float64
    nan = np.isnan(column)
    np.testing.assert_array_equal(np.isnan(back), nan)
    assert back[~nan].tobytes() == column[~nan].tobytes()


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_single_precision_comes_back(folder, values):
    column = np.array(values, np.float32)
    np.testing.assert_array_equal(round_trip(folder, {"x": column})["x"], column)


@given(st.lists(INTEGER, max_size=20), st.booleans())
@settings(max_examples=50, deadline=None)
def test_integers_and_booleans_come_back(folder, values, flag):
    columns = {"x": np.array(values, np.int64), "flag": np.full(len(values), flag)}
    back = round_trip(folder, columns)
    assert back["x"].tolist() == values
    assert back["flag"].tolist() == [float(flag)] * len(values)


@given(LINE, st.lists(LINE, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_text_and_names_come_back(folder, name, values):
    back = round_trip(folder, {name: ["a word", *values]})
    assert list(back) == [name]
    assert back[name].tolist() == ["a word", *values]


@pytest.mark.parametrize("text", ["1_000", " 1", "1e", "nan", "Infinity", "٣", "0x1p3", "+1"])
def test_what_only_python_takes_for_a_number_stays_text(folder, text):
    assert round_trip(folder, {"x": [text]})["x"].tolist() == [text]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("../outside", {"x": [1]}),
        ("", {"x": [1]}),
        (".hidden", {"x": [1]}),
        ("t", {}),
        ("t", {"x": [1, 2], "y": [1]}),
        ("t", {"x": [[1, 2]]}),
        ("t", {"x": 1}),
        ("t", {"x": [2**53 + 1]}),
        ("t", {"x": [-(2**60)]}),
        ("t", {"x": ["two\nlines"]}),
        ("t", {"two\nlines": [1]}),
    ],
)
def test_what_cannot_be_a_table_is_refused_and_nothing_written(tmp_path, name, columns):
    with pytest.raises(ValueError):
        records.write_table(tmp_path, name, columns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n", b"a\n1,2\n", b"a\n\xff\n", b"\xff\n1\n"])
def test_damaged_table_is_one_sentence_with_its_name(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(records.RunDirectoryError, match=r"t\.csv"):
        records.read_table(path)


def test_arrays_come_back_and_the_file_does_not_depend_on_the_time(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.array(["x", "y"])}
    records.write_arrays(tmp_path, arrays)
    first = (tmp_path / "arrays.npz").read_bytes()
    records.write_arrays(tmp_path, dict(reversed(arrays.items())))
    assert (tmp_path / "arrays.npz").read_bytes() == first
    back = records.read_arrays(tmp_path)
    np.testing.assert_array_equal(back["b"], arrays["b"])
    np.testing.assert_array_equal(back["a"], arrays["a"])


DTYPES = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 U3 >f8".split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_come_back_to_the_bit(tmp_path, dtype):
    array = np.array([1 / 3, -0.0, 77.0, 1.0]).astype(jnp.dtype(dtype)).reshape(2, 2)
    records.write_arrays(tmp_path, {"a": array, "empty": array[:0], "scalar": array[0, 0]})
    back = records.read_arrays(tmp_path)
    for name, expected in (("a", array), ("empty", array[:0]), ("scalar", array[0, 0])):
        assert (back[name].dtype, back[name].shape) == (expected.dtype, expected.shape)
        assert back[name].tobytes() == expected.tobytes()


def test_numbers_that_numpy_cannot_write_come_back_in_float32(tmp_path):
    numbers = [1 / 3, -0.0, 3e38, -1e-38]
    for dtype in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.int4):
        array = np.array(numbers if dtype is jnp.bfloat16 else [0.5, -3, 4, 7]).astype(dtype)
        records.write_arrays(tmp_path, {"a": array})
        back = records.read_arrays(tmp_path)["a"]
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back.astype(dtype).view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "bfloat16", "i1", "u4", "i8"])
def test_columns_read_back_to_the_same_numbers(tmp_path, dtype):
    column = np.array([1 / 3, 3e-5, 77.7, 0.0, 1.0]).astype(jnp.dtype(dtype))
    records.write_table(tmp_path, "t", {"x": column})
    back = records.read_table(tmp_path / "tables" / "t.csv")["x"]
    assert back.dtype == np.float64
    assert back.tolist() == [float(value) for value in column]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x93NUMPY"])
def test_damaged_arrays_are_one_sentence(tmp_path, content):
    (tmp_path / "arrays.npz").write_bytes(content)
    with pytest.raises(records.RunDirectoryError, match=r"arrays\.npz is damaged"):
        records.read_arrays(tmp_path)


def test_objects_are_no_arrays(tmp_path):
    with pytest.raises(ValueError):
        records.write_arrays(tmp_path, {"a": np.array([{}])})
    assert list(tmp_path.iterdir()) == []


def test_json_holds_plain_finite_numbers():
    value = {"a": np.float32(0.5), "b": [float("nan"), np.inf, np.int64(3)], "c": (True, None)}
    assert records.finite(value) == {"a": 0.5, "b": [None, None, 3], "c": [True, None]}


@pytest.mark.parametrize("part", ["arrays.npz", "tables/page.html", "figures/a/page.html"])
def test_no_page_becomes_a_part_of_a_run(part, tmp_path):
    check_output(tmp_path / part, [], page=True)
    (tmp_path / "result.json").touch()
    with pytest.raises(RefusedError, match="a part of the run in"):
        check_output(tmp_path / part, [], page=True)
    check_output(tmp_path / "page.html", [], page=True)
