"""Columns of numbers, as spreadsheets of several countries write them."""

import numpy as np
import pandas as pd
import pytest

from metastep_lab.cleaning.numbers import numbers_of

COMMAS = {
    "decimal": (["51,7", "-3,25", ""], ",", [51.7, -3.25, np.nan]),
    "decimal and grouped": (["3.604,43", "1.204", "12"], ";", [3604.43, 1204.0, 12.0]),
    "grouped": (["3,604", "1,204.5", "12"], ",", [3604.0, 1204.5, 12.0]),
    "either, commas": (["3,604", "1,204"], ",", [3604.0, 1204.0]),
    "either, semicolons": (["3,604", "1,204"], ";", [3.604, 1.204]),
    "points": (["3.604", "1.5"], ";", [3.604, 1.5]),
    "lists": (["1,2,3", "4,5"], ",", [np.nan, np.nan]),
    "grouped, and one that is not": (
        ["3,604"] * 9 + ["12,5"],
        ",",
        [3604.0] * 9 + [np.nan],
    ),
    "less than one": (["0,125", "0,250"], ",", [0.125, 0.25]),
    "a point less than one": (["0.125", "51,7", "3,2"], ";", [0.125, 51.7, 3.2]),
    "neither": (["51,7"] * 9 + ["12.34,5"], ";", [51.7] * 9 + [np.nan]),
    "texts": (["red, green", "7"], ",", [np.nan, 7.0]),
}


@pytest.mark.parametrize("name", COMMAS)
def test_commas_of_numbers(name):
    cells, separator, numbers = COMMAS[name]
    assert np.array_equal(numbers_of(pd.Series(cells), separator), numbers, equal_nan=True)
