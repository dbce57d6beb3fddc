"""Claims of `hypercleaning` on a record made by hand, its counts of flags, its thresholds."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from metastep_lab.shaban2019.hypercleaning import claims
from metastep_lab.shaban2019.hypercleaning.experiment import COLUMNS, EXPERIMENT, Config
from metastep_lab.shaban2019.hypercleaning.identification import (
    count_flagged,
    f1_scores,
    identification_rows,
)
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

TRAIN, TEST, WRONG = 100, 400, 40
WINDOWS = (1, 5, 100)


def held():
    """Return a run of which every claim holds: the longer the window, the better."""
    replaced, given = np.arange(TRAIN) < 50, np.arange(TRAIN) < WRONG
    summary, identification = [], []
    for place, window in enumerate(WINDOWS):
        row = (0.85 + 0.02 * place, 0.9, 0.5 - 0.01 * place, 0.9, 0.85, 1e-2 / window)
        summary.append((f"{window}-RMD", window, *row, 0.1 * window))
        identification += [
            (window, threshold, step, 44, 43, 38, 0.915, 0.905)
            for threshold in claims.PAPER_THRESHOLDS
            for step in (0, 150)
        ]
    summary.append(("noisy labels", np.nan, 0.7, 0.7, 0.9, np.nan, np.nan, 1.0, np.nan))
    summary.append(("clean labels", np.nan, 0.92, 0.92, 0.4, np.nan, np.nan, 1.0, np.nan))
    history = [(window, 0, 0.9, 0.0, 0.0, 0.1, 0.1) for window in WINDOWS]
    rows = {"summary": summary, "history": history, "identification": identification}
    rows["thresholds"] = [row for row in identification if row[2] == 150]
    tables = {name: columns(COLUMNS[name], some) for name, some in rows.items()}
    # Examples are right up to a row's accuracy, so that no two rows err on different ones.
    right = [np.arange(TEST) < round(row[2] * TEST) for row in summary]
    arrays = {
        "given": given.astype(int),
        "true": np.zeros(TRAIN, int),
        "replaced": replaced,
        "weights": np.where(given, 0.01, 0.5)[None].repeat(len(WINDOWS), axis=0),
        "correct": np.array(right),
    }
    return Record(Config(windows=WINDOWS), tables, {"test_examples": TEST}, arrays)


TUNED = "window == window"  # rows with a window
SPOILED = (
    ("finds-corrupted-labels", "summary", "window == 5", {"f1_replaced": 0.88}),
    ("threshold-hardly-matters", "thresholds", "threshold == -1", {"f1_replaced": 0.89}),
    ("most-are-identified", "identification", TUNED, {"wrong": 20}),
    ("most-are-identified", "identification", TUNED, {"replaced": 39}),
    ("loss-falls-with-window", "summary", "window == 5", {"validation_loss": 0.6}),
    ("stationarity-improves", "summary", "window == 100", {"gradient_norm": 0.05}),
    ("window-five-suffices", "summary", "window == 5", {"validation_loss": 0.6}),
    ("window-five-is-cheaper", "summary", "window == 5", {"seconds_per_step": 6.0}),
)
BY_EXAMPLES = ("better-model", "accuracy-order")
"""Claims about `correct`, an array."""


def test_every_claim_can_fail():
    record = held()
    reversed_rows = {**record.arrays, "correct": record.arrays["correct"][::-1]}
    worse = Record(record.config, record.tables, record.metrics, reversed_rows)
    for name in BY_EXAMPLES:
        assert verdicts(EXPERIMENT, record)[name] is True
        assert verdicts(EXPERIMENT, worse)[name] is False
    rest = replace(
        EXPERIMENT, claims=[row for row in EXPERIMENT.claims if row.id not in BY_EXAMPLES]
    )
    check_every_claim(rest, SPOILED, record)


def test_the_numbers_of_table_2_are_those_of_its_windows_and_differ_as_the_paper_says():
    rows = (claims.PAPER_LOSS, claims.PAPER_ACCURACY, claims.PAPER_VALIDATION, claims.PAPER_F1)
    assert all([*row] == [1, 5, 25, 50, 100] for row in rows)
    assert all(max(row.values()) < 1.1 * min(row.values()) for row in rows)
    losses, accuracies = ([*row.values()] for row in rows[:2])
    assert sorted(losses, reverse=True) == losses and sorted(accuracies) == accuracies


def test_the_thresholds_are_those_of_the_appendix_and_its_scores_are_similar():
    rows = claims.PAPER_THRESHOLDS
    assert [*rows] == [-4.0, -3.0, -1.0] == [*Config().thresholds]
    assert all([*row] == [*claims.PAPER_F1] for row in rows.values())
    for window in claims.PAPER_F1:
        scores = [row[window] for row in rows.values()]
        # The bar of the claim is what the table itself satisfies, once its rounding is allowed.
        assert max(scores) - min(scores) + 2 * claims.ROUNDING <= claims.SIMILAR + 1e-12
    found = {row.what: row.here(held()) for row in EXPERIMENT.printed(held())}
    assert found["K = 5, threshold -1, F1"] == 0.915
    assert found["K = 25, threshold -1, F1"] is None


def test_the_claims_of_the_appendix_need_its_steps():
    early = changed(held(), "identification", step=10)
    assert verdicts(EXPERIMENT, changed(early, "thresholds", step=10)).items() >= {
        ("threshold-hardly-matters", None),
        ("most-are-identified", None),
    }


def test_flags_are_counted_for_every_threshold():
    outer = jnp.array([-5.0, -3.5, -2.5, 0.0, -5.0])
    replaced, wrong = (jnp.array(one, bool) for one in ([1, 1, 0, 1, 0], [1, 0, 0, 1, 0]))
    counts = np.asarray(count_flagged(outer, (-2.0, -3.0), replaced, wrong))
    assert counts.tolist() == [[4, 2, 1], [3, 2, 1]]
    scores = f1_scores(counts[None], replaced, wrong)
    # 2 hits / (flagged + positives)
    assert np.allclose(scores[0], [[4 / 7, 4 / 6]]) and np.allclose(scores[1], [[2 / 6, 2 / 5]])
    nothing = f1_scores(np.zeros((1, 1, 3)), jnp.zeros(3, bool), jnp.zeros(3, bool))
    assert nothing[0] == nothing[1] == 0


def test_rows_of_the_appendix_at_its_step_every_tenth_and_the_last():
    points = np.arange(24).reshape(24, 1, 1) + np.zeros((24, 1, 3))
    rows = identification_rows(1, (-4.0,), points, 15, (points[..., 0], points[..., 0]))
    assert [row[2] for row in rows] == [0, 10, 15, 20, 23]
    assert all(row[3] == row[2] == row[6] for row in rows)
