"""The figure of `diagnose`."""

from typing import NamedTuple

import numpy as np

from metastep_lab.figures.diagnosis import diagnosis_figure


class Row(NamedTuple):
    estimator: str
    relative_error: float
    seconds: float
    memory: int


class Window(NamedTuple):
    window: int
    relative_error: float


def test_the_recommended_estimator_is_filled_and_what_has_no_error_left_out():
    options = [Row("one", 0.0, 1e-3, 2**20), Row("two", 0.5, 1e-4, 2**21), Row("no", np.nan, 1, 1)]
    windows = [Window(1, 0.5), Window(10, 0.0)]
    by_time, by_memory, by_window = diagnosis_figure(options, windows, "two").axes
    assert [line.get_label() for line in by_time.lines] == ["one", "two"]
    assert [line.get_markerfacecolor() == "none" for line in by_memory.lines] == [True, False]
    assert np.isclose(by_time.lines[1].get_xdata()[0], 0.1)
    assert by_window.lines[0].get_xdata().tolist() == [1, 10]
