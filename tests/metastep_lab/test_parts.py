"""The parts of a run: their progress, what survives an interruption, and the time that is left."""

from io import StringIO
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metastep_lab import terminal
from metastep_lab.parts import in_turn, kept, no_rows, repetition_seeds, write_tables


def test_parts_are_shown_before_each_and_at_the_end():
    shown = []
    context = SimpleNamespace(progress=lambda *state: shown.append(state))
    assert list(in_turn(context, "ab", "part {}".format)) == ["a", "b"]
    assert shown == [(0, 2, "part a"), (1, 2, "part b"), (2, 2, "part b")]
    assert list(in_turn(context, [], "nothing")) == [] and len(shown) == 3


def test_a_kept_part_is_computed_once(tmp_path):
    context = SimpleNamespace(checkpoint=lambda name: tmp_path / name, resume=False)
    calls = []

    def compute():
        calls.append(0)
        return jnp.arange(3.0), {"numbers": [1, len(calls)]}

    for resume, number in ((False, 1), (True, 1), (False, 2)):
        context.resume = resume
        arrays, notes = kept(context, "F-2^2", compute, jnp.zeros(3))
        np.testing.assert_array_equal(arrays, [0, 1, 2])
        assert notes == {"numbers": [1, number]}
    assert [path.name for path in tmp_path.iterdir()] == ["F-2_2"]
    assert kept(context, "notes", lambda: ({}, {"only": 1})) == ({}, {"only": 1})


def test_tables_from_rows():
    found, headers = {}, {"one": "a b", "none": "c"}
    rows = no_rows(headers)
    rows["one"].append((1, "x"))
    write_tables(SimpleNamespace(table=found.__setitem__), headers, rows)
    assert found["one"]["b"].tolist() == ["x"] and found["none"]["c"].size == 0


def test_the_time_that_is_left_is_that_of_a_stage_whose_parts_have_names(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(terminal, "perf_counter", lambda: next(times))
    console = Console(file=StringIO(), width=80)
    display = terminal.Display(console)
    for done, name in ((0, "a"), (1, "b"), (4, "d"), (0, "second stage"), (1, "second stage")):
        display.show(done, 4, name)
    lines = [line.split("s  ", 1)[1] for line in console.file.getvalue().splitlines()]
    # Every look at the clock is a second later: two for each line.
    assert lines[:3] == ["a: 0 of 4", "b: 1 of 4, 6.0 s left", "d: 4 of 4"]
    assert lines[3:] == ["second stage: 0 of 4", "second stage: 1 of 4, 6.0 s left"]


def test_runs_of_neighbouring_seeds_have_no_repetition_in_common():
    found = [seed for run in range(4) for seed in repetition_seeds(run, 3)]
    assert found == list(range(12))
    assert max(repetition_seeds(2**32 - 1, 3)) < 2**32
