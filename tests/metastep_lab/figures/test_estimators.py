"""The figures of `compare` and of `diagnose`."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from metastep_lab.figures.estimators import comparison_figure, diagnosis_figure


def rows(columns: str, *values: tuple) -> Any:
    return [SimpleNamespace(**dict(zip(columns.split(), row, strict=True))) for row in values]


def test_what_has_no_memory_is_drawn_against_time_only():
    names = "estimator relative_error seconds temporary_bytes"
    compared: Any = SimpleNamespace(
        rows=rows(names, ("one", 0.0, 1e-3, 2**20), ("two", 0.5, 1e-4, None))
    )
    by_time, by_memory = comparison_figure(compared).axes
    assert [len(axes.lines) for axes in (by_time, by_memory)] == [2, 1]
    assert np.isclose(by_time.lines[1].get_xdata()[0], 0.1)


def test_the_recommended_estimator_is_filled_and_what_has_no_error_left_out():
    names = "estimator relative_error seconds memory"
    options = rows(
        names, ("one", 0.0, 1e-3, 2**20), ("two", 0.5, 1e-4, 2**21), ("no", np.nan, 1, 1)
    )
    diagnosis: Any = SimpleNamespace(
        options=options,
        windows=rows("window relative_error", (1, 0.5), (10, 0.0)),
        recommendation=SimpleNamespace(estimator="two"),
    )
    by_time, by_memory, by_window = diagnosis_figure(diagnosis).axes
    assert [line.get_label() for line in by_time.lines] == ["one", "two"]
    assert [line.get_markerfacecolor() == "none" for line in by_memory.lines] == [True, False]
    assert np.isclose(by_time.lines[1].get_xdata()[0], 0.1)
    assert by_window.lines[0].get_xdata().tolist() == [1, 10]
