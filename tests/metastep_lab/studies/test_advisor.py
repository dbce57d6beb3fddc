"""The advisor held against the truth: problems, truth, a small run, and every claim both ways."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.studies.advisor import experiment as advisor
from metastep_lab.studies.advisor.judging import ADVICE, _relative_error
from metastep_lab.studies.advisor.problems import digits
from metastep_lab.studies.advisor.problems.sequences import characters
from metastep_lab.studies.advisor.problems.table import Sources, cases
from metastep_lab.studies.advisor.truth import _digits_lost, truth
from metastep_lab.tables import Record

EXPERIMENT = advisor.EXPERIMENT
MADE = cases(Sources(50, "descriptions", None))


def test_there_are_at_least_24_problems_and_the_configuration_names_them_all():
    assert set(MADE) == set(EXPERIMENT.presets["paper"].problems)
    assert len(MADE) >= 24 and EXPERIMENT.presets["paper"].seeds == 3


@pytest.mark.parametrize("name", MADE)
def test_a_problem_is_the_same_in_both_precisions(name):
    """Weights, data and batches: one step, and the outcome after it."""

    def after_a_step():
        problem, outer = MADE[name]()
        key, t = jax.random.key(0), jnp.zeros((), jnp.int32)
        inner = problem.step(problem.init(outer, key), outer, t, key)
        return float(problem.objective(inner, outer, key))

    narrow = after_a_step()
    with jax.enable_x64(True):
        # Other batches, weights or data change the second digit.
        assert np.isclose(narrow, after_a_step(), rtol=1e-4, atol=0)


def test_text_is_letters_and_spaces():
    rows, letters = characters("descriptions", None)
    assert rows.shape == (128, 25) and rows.min() == 0 and rows.max() < letters
    assert np.mean(rows == 0) < 0.3


def test_normalisation_forgets_the_scale_of_the_filters_and_equal_rows_lose_no_digit():
    params, images = digits.start(), jnp.sin(jnp.arange(512.0)).reshape(8, 1, 8, 8)
    louder = {**params, "filters": 3 * params["filters"]}
    plain, normalised = (
        [digits.logits(one, images, jax.nn.gelu, normalise=on) for one in (params, louder)]
        for on in (False, True)
    )
    # The variance has 1e-5 added, of about 0.1.
    np.testing.assert_allclose(*normalised, rtol=1e-3, atol=1e-3)
    assert np.max(np.abs(plain[1] - plain[0])) > 0.1
    assert _digits_lost(np.ones((2, 3)), np.ones((2, 3))) == 0
    problem, outer = digits.batch_statistics()
    optimizer, ones = problem.optimizer(outer), jnp.ones(3)
    assert np.all(optimizer.update(ones, optimizer.init(ones), ones)[0] < 0)


def test_truth_knows_chaos_and_the_closed_form_of_a_toy():
    """The counter-example is quadratic: the derivative of f(w(lambda)) is linear in lambda."""
    key = jax.random.key(0)
    assert truth(MADE["logistic-map"], key).chaotic
    found = truth(MADE["counter-example"], key)
    assert not found.chaotic and found.digits_lost < 3
    assert found.disagreement < 1e-9
    # Central differences of a parabola are exact at any distance.
    assert max(found.kinks) < 1e-8
    hessian = np.array([[5.0, -2.0], [-2.0, 1.0]])
    judge = np.array([[1.0, -2.0], [-2.0, 5.0]])
    # After 1000 steps the inner loop is at w = -H^{-1} C lambda, up to sign conventions of C.
    response = np.linalg.solve(hessian, np.diag([1.0, 0.25]))
    slow = (1 - 0.17 * np.linalg.eigvalsh(hessian)[0]) ** 1000
    expected = response.T @ judge @ response @ np.array([1.0, 2.0])
    assert np.allclose(found.gradient, expected, rtol=100 * slow + 1e-9, atol=0)


def test_a_small_run(tmp_path):
    names = "problems=counter-example,logistic-map"
    options = ["--set", names, "--set", "outer_steps=3", "--out", str(tmp_path)]
    assert invoke(["run", "advisor", *options], (EXPERIMENT.listing,)) == 0
    record = read_record(tmp_path, EXPERIMENT)
    claims = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, record)}
    names = ("advice-is-right", "as-predicted", "few-products", "counter-example", "no-misses")
    assert all(claims[name] for name in (*names, "no-false-alarms", "chaos", "digits-lost"))
    # Shaban et al. (2019), section 3: the toy of two dimensions, where a short window ascends.
    windows = record.frames["windows"].query("problem == 'counter-example'")
    assert windows["cosine"].iloc[0] < 0
    assert set(EXPERIMENT.figures(record)) == {"digits", "worth", "windows"}


def test_an_implicit_gradient_without_numbers_is_wrong_and_not_refused():
    true = np.array([3.0, 4.0])
    assert _relative_error(np.array([3.0, 3.0]), true) == 0.2
    assert _relative_error(np.array([np.nan, 4.0]), true) == np.inf


def made_up():
    """Tables on which every claim holds."""
    advice = pd.DataFrame(index=range(3), columns=ADVICE.split())
    advice["problem"] = ["counter-example", "network", "logistic-map"]
    advice["recommended"] = ["Implicit()", "Reverse()", "EvolutionStrategies(sigma=0.01)"]
    advice["warnings"] = ["not-descent", "implicit-wrong", "chaotic implicit-wrong"]
    numbers = {
        "seed": 0,
        "cosine": [1.0, 0.99, np.nan],
        "cosine_predicted": [1.0, 0.99, 0.9],
        "implicit_error": [0.0, 0.5, 1.0],
        "cost": [2.0, 3.0, 4.0],
        "work": [4.0, 4.0, 4.0],
        "digits_lost": [1.0, 2.0, 6.9],
        "true_digits_lost": [1.5, 1.5, 6.9],
        "chaotic": [0, 0, 1],
        "truly_chaotic": [0, 0, 1],
    }
    advice = advice.assign(**numbers).fillna(0.0)
    advice.loc[2, "cosine"] = np.nan
    sizes = pd.DataFrame(
        {
            "problem": ["network"] * 2,
            "what": ["inner state", "Reverse()"],
            "predicted": [100.0, 90.0],
            "true": [100.0, 100.0],
        }
    )
    outcomes = pd.DataFrame(
        {
            "problem": ["network"] * 2 + ["counter-example"] * 2,
            "seed": 0,
            "recommended": [1, 0, 1, 0],
            "improvement": [0.96, 1.0, 2.0, 1.0],
        }
    )
    windows = pd.DataFrame({"problem": ["network"], "seed": 0, "window": 10})
    return {"advice": advice, "windows": windows, "sizes": sizes, "outcomes": outcomes}


def recorded(tables, config):
    tables = {name: {c: frame[c].to_numpy() for c in frame} for name, frame in tables.items()}
    return Record(config, tables, {}, {})


def verdicts(tables):
    record = recorded(tables, EXPERIMENT.presets["quick"])
    return {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}


def test_every_claim_holds_on_tables_made_for_it():
    assert {claim.holds for claim in verdicts(made_up()).values()} == {True}


# Claim, table, row, column and the value that makes it false, and who is to blame.
DOCTORED = (
    ("no-false-alarms", "advice", 1, {"chaotic": 1}, "network (seed 0)"),
    ("no-misses", "advice", 2, {"chaotic": 0}, "logistic-map (seed 0)"),
    ("chaos", "advice", 2, {"recommended": "Reverse()"}, "logistic-map (seed 0)"),
    ("digits-lost", "advice", 0, {"digits_lost": 2.6}, "counter-example 1.10"),
    ("regret", "outcomes", 0, {"improvement": 0.9}, "network 0.90"),
    ("cheap", "advice", 1, {"cost": 4.2}, "network 4.2"),
    ("few-products", "advice", 0, {"work": 5.5}, "counter-example 5.5"),
    ("sizes", "sizes", 1, {"predicted": 79.0}, "network (1)"),
    ("advice-is-right", "advice", 1, {"cosine": 0.9}, "network (seed 0)"),
    ("as-predicted", "advice", 1, {"cosine_predicted": 0.98}, "network (seed 0)"),
    ("counter-example", "advice", 0, {"warnings": "vanishing"}, "counter-example (seed 0)"),
    ("implicit-warned", "advice", 1, {"warnings": "not-descent"}, "network (seed 0)"),
)


def test_every_claim_is_doctored():
    assert {row[0] for row in DOCTORED} == {claim.id for claim in EXPERIMENT.claims}


@pytest.mark.parametrize(("claim", "table", "row", "changes", "blamed"), DOCTORED)
def test_a_doctored_table_makes_its_claim_false(claim, table, row, changes, blamed):
    tables = made_up()
    for column, value in changes.items():
        tables[table].loc[row, column] = value
    found = verdicts(tables)[claim]
    assert found.holds is False and blamed in found.evidence


def test_claims_without_rows_are_undecided():
    tables = made_up()
    tables["advice"] = tables["advice"].iloc[[1]]
    tables["outcomes"] = tables["outcomes"].iloc[:0]
    found = verdicts(tables)
    undecided = {name for name, claim in found.items() if claim.holds is None}
    assert undecided == {"no-misses", "chaos", "regret", "counter-example"}


def test_without_tuning_the_claim_on_regret_is_undecided_and_says_why():
    tables = made_up()
    tables["outcomes"] = tables["outcomes"].iloc[:0]
    record = recorded(tables, replace(EXPERIMENT.presets["quick"], outer_steps=0))
    found = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
    assert {name for name, claim in found.items() if claim.holds is None} == {"regret"}
    assert "outer_steps=0" in found["regret"].evidence
    assert "outer_steps=0" in EXPERIMENT.answer(record)
    assert {"digits", "worth"} <= set(EXPERIMENT.figures(record))


@pytest.mark.parametrize(
    "wrong", ["problems=", "examples=10", "seeds=0", "outer_steps=-1", "problems=moon"]
)
def test_what_is_refused(wrong, tmp_path, capsys):
    command = ["run", "advisor", "--set", wrong, "--out", str(tmp_path / "run")]
    assert invoke(command, (EXPERIMENT.listing,)) == 2
    assert wrong.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
