"""Numbers that papers print, beside those of a run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from metastep_lab.catalog import CATALOG
from metastep_lab.experiment import load
from metastep_lab.printed import Printed, beside_the_paper, mean_of
from metastep_lab.report.page import build_page
from metastep_lab.runs.running import Request, execute
from metastep_lab.tables import Record, columns
from metastep_lab.wu2022.sparse_coding.settings import THESIS
from tests.metastep_lab.report import fake_experiment

TABLE = columns("window loss", [(1, 0.5), (5, 0.25), (5, 0.75), (25, np.nan)])
RECORD = Record(None, {"losses": TABLE}, {}, {})


def test_only_numbers_that_a_run_has_stand_beside_the_papers():
    rows = [
        Printed(
            "Table 1", f"K = {window}", 0.4, mean_of("losses", "loss", scale=100, window=window)
        )
        for window in (1, 5, 25, 50)
    ]
    # One of these values is missing: the others are not the mean that the paper prints.
    rows.append(Printed("Table 2", "all", 0.5, mean_of("losses", "loss")))
    rows.append(Printed("Table 2", "infinite", 0.5, lambda record: np.inf))
    found = pd.DataFrame(beside_the_paper(rows, RECORD))
    assert found["what"].tolist() == ["K = 1", "K = 5"]
    assert found["paper"].tolist() == [0.4, 0.4] and found["here"].tolist() == [50, 50]
    assert beside_the_paper(rows[2:4], RECORD) is None


def test_the_table_is_on_the_page(tmp_path):
    rows = [Printed("Table 9", "the first sum", 0.125, mean_of("sums", "sum", step=0))]
    experiment = replace(fake_experiment.EXPERIMENT, printed=lambda record: rows)
    request = Request(experiment, fake_experiment.Config(), "quick", (), 0, tmp_path / "run")
    execute(request)
    page = build_page([tmp_path / "run"])
    beside = page.index("Beside the paper")
    assert beside < page.index("Table 9") < page.index("the first sum")


def hypercleaning(module):
    rows = [("5-RMD", 5, 0.88, 0.9, 0.39, 0.9)]
    names = "method window test_accuracy validation_accuracy validation_loss f1_replaced"
    scores = [(5, -1.0, 150, 0.8), (5, -1.0, 1000, 0.7)]
    tables = {
        "summary": columns(names, rows),
        "thresholds": columns("window threshold step f1_replaced", scores),
    }
    expected = {
        "K = 5, test accuracy": (0.8805, 0.88),
        "K = 5, F1": (0.89, 0.9),
        "K = 5, threshold -1, F1": (0.90, 0.8),
    }
    return module.config(), tables, expected


def task_interaction(module):
    rows = [("1-RMD", 1, trial, 0.6 + 0.01 * trial, 3000.0) for trial in (0, 1)]
    tables = {
        "summary": columns("method window trial stopped_accuracy stopped_step", rows),
        "cost": columns("window seconds", [(1, 0.01)]),
    }
    expected = {
        "K = 1, accuracy": (0.6111, 0.605),
        "K = 1, ±, here the standard deviation over trials": (0.0123, np.sqrt(0.5) * 0.01),
        "K = 1, steps until stopped": (3300, 3000),
        "K = 1, seconds of an outer step, here of a hypergradient": (0.8, 0.01),
    }
    return module.config(), tables, expected


def test_steps_until_stopped_are_not_those_of_the_stopped_trials_alone():
    rows = [("1-RMD", 1, trial, 0.6, step) for trial, step in enumerate((3000.0, np.nan))]
    names = "method window trial stopped_accuracy stopped_step"
    tables = {"summary": columns(names, rows), "cost": columns("window seconds", [(1, 0.01)])}
    experiment = next(load(one) for one in CATALOG if one.name == "task-interaction")
    record = Record(experiment.config(), tables, {}, {})
    found = set(pd.DataFrame(beside_the_paper(experiment.printed(record), record))["what"])
    assert "K = 1, accuracy" in found and "K = 1, steps until stopped" not in found


def one_shot(module):
    rows = [("full", 0.9, 2.0), ("full", 0.92, 2.0)]
    tables = {"summary": columns("method accuracy seconds_per_step", rows)}
    return (
        module.config(),
        tables,
        {"full, accuracy in %": (95.8, 91), "full, seconds of a step": (2.2, 2)},
    )


def sparse_coding(module):
    names = "vary initialization value seed algorithm error error_initial"
    rows = [
        ("realization", "local", 400.0, 0, name, error, 0.1)
        for name, error in (("baseline", 0.16), ("masking", 0.15))
    ]
    expected = {
        "error, local start, baseline": (0.156, 0.16),
        "error, local start, masking": (0.149, 0.15),
    }
    return module.config(**THESIS), {"recovery": columns(names, rows)}, expected


def anchor_vectors(module):
    tables = {
        "models": columns("model parameters hidden perplexity", [("gpt2", 124e6, 768, 30.0)]),
        "every_position": columns("model top mse", [("gpt2", 0, 600.0), ("gpt2", 100, 650.0)]),
    }
    expected = {
        "GPT-2, million parameters": (124, 124),
        "GPT-2, hidden dimension": (768, 768),
        "GPT-2, perplexity": (25.92, 30),
        "GPT-2, MSE at k = 0": (625.8, 600),
        "GPT-2, MSE at k = 100": (665.2, 650),
    }
    return module.config(), tables, expected


def maml_nonlinear(module):
    names = "reading limit epochs train_rate test_rate difference"
    rows = [("paper", "trained", 500, rate, 0.01, rate) for rate in (-0.01, 0.005)]
    expected = {"train rate with the smallest test loss": (-0.0075, -0.01)}
    return module.config(), {"difference": columns(names, rows)}, expected


def estimator_costs(module):
    names = "estimator varied quantity measured stated source"
    rows = [("RMD", "T", "memory", 1.02, 1.0, "table"), ("ours", "T", "time", 1.0, 1.0, "ours")]
    expected = {"RMD, exponent of memory in T": (1, 1.02)}
    return module.config(), {"exponents": columns(names, rows)}, expected


MAKERS = {
    "estimator-costs": estimator_costs,
    "hypercleaning": hypercleaning,
    "task-interaction": task_interaction,
    "one-shot": one_shot,
    "sparse-coding": sparse_coding,
    "anchor-vectors": anchor_vectors,
    "maml-nonlinear": maml_nonlinear,
}


@pytest.mark.parametrize("name", MAKERS)
def test_printed_numbers_of_experiments(name):
    experiment = next(load(one) for one in CATALOG if one.name == name)
    config, tables, expected = MAKERS[name](experiment)
    record = Record(config, tables, {}, {})
    found = pd.DataFrame(beside_the_paper(experiment.printed(record), record)).set_index("what")
    for what, pair in expected.items():
        assert np.allclose(found.loc[what, ["paper", "here"]].astype(float), pair), what
    if name in ("anchor-vectors", "estimator-costs"):
        assert len(found) == len(expected)
    if name == "hypercleaning":
        digits = replace(record, config=replace(config, dataset="digits"))
        assert beside_the_paper(experiment.printed(digits), digits) is None
