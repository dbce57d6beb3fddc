"""Rows of claims: what a run lacks, templates of evidence, and the verdicts that recur."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from metastep_lab.claims import Claim, Statement, beyond, each, evaluate, falls, listed
from metastep_lab.tables import Record, columns, curves

TABLE = columns("window loss error", [(1, 0.5, 0.1), (5, 0.25, 0.2)])
RECORD = Record(SimpleNamespace(steps=7), {"losses": TABLE}, {}, {})
BY_WINDOW = RECORD.frames["losses"].set_index("window")

EVIDENCE = {
    "number": (0.125, "ratio {:.2f}", "ratio 0.12"),
    "names": ({"a": 1.5, "b": "x"}, "{a:g} and {b}", "1.5 and x"),
    "configuration": (1, "{} after {config.steps} steps", "1 after 7 steps"),
    "column": (BY_WINDOW["loss"], "loss {:.2f}", "loss K=1 0.50, K=5 0.25"),
    "columns by name": (BY_WINDOW, "loss {loss:.1f}", "loss K=1 0.5, K=5 0.2"),
    "means of columns": ({"all": BY_WINDOW}, "{all:.3f}", "loss 0.375, error 0.150"),
    "rows": (BY_WINDOW, each("K={window:g} {loss}±{error}", "at "), "at K=1 0.5±0.1; K=5 0.25±0.2"),
    "function": ([1, 2], lambda numbers: f"{len(numbers)} numbers", "2 numbers"),
}


@pytest.mark.parametrize(("numbers", "evidence", "words"), EVIDENCE.values(), ids=EVIDENCE)
def test_numbers_become_words(numbers, evidence, words):
    row = Statement("a", "Text.", lambda record: numbers, lambda numbers: np.True_, evidence)
    assert evaluate((row,), RECORD) == (Claim("a", "Text.", True, words),)


def test_what_is_lacking_leaves_the_claim_open_and_measures_nothing():
    row = Statement(
        "a",
        lambda record: f"After {record.config.steps} steps.",
        measure=lambda record: 1 / 0,
        verdict=lambda numbers: True,
        evidence="never",
        lacks=lambda record: "needs two windows",
    )
    claim = Claim("a", "After 7 steps.", None, "needs two windows")
    assert evaluate(lambda record: (row,), RECORD) == (claim,)


@pytest.mark.parametrize(
    ("verdict", "words"), [(True, "1"), (False, "1. Too small."), (None, "1. Needs more.")]
)
def test_a_verdict_is_explained_after_its_evidence(verdict, words):
    reasons = {False: "Too small.", None: "Needs more."}
    row = Statement("a", "Text.", lambda _: 1, lambda _: verdict, "{}", reasons=reasons)
    assert evaluate((row,), RECORD) == (Claim("a", "Text.", verdict, words),)


@pytest.mark.parametrize(
    ("values", "margins", "verdict"),
    [
        ((1, 2), (0.5, 1), True),
        ((1, -2), (0.5, 1), False),
        ((1, 0.5), (0.5, 1), None),
        ((1, np.nan), (0.5, 1), None),
        ((), (), None),
    ],
)
def test_beyond(values, margins, verdict):
    assert beyond(np.array(values), np.array(margins)) is verdict


def test_curves_come_in_the_order_of_the_rows():
    rows = pd.DataFrame({"method": ["b", "a", "b"], "step": [1, 1, 2], "loss": [3.0, 4.0, 5.0]})
    found = curves(rows, "method", "step", "loss")
    assert [*found] == ["b", "a"] and found["b"][1].tolist() == [3.0, 5.0]


def test_falls_and_listed():
    assert [falls(values) for values in ((2, 1), (1, 1), (1,))] == [True, False, None]
    assert listed(pd.Series({"full": 0.5, "none": 1.0}), ".1f") == "full 0.5, none 1.0"
