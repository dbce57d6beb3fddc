"""A tiny run, interrupted and resumed; records that make each claim hold and fail; the models."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metastep as ms
from metastep.attribution import leave_out
from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.studies.data_attribution import experiment as study
from metastep_lab.studies.data_attribution import models
from metastep_lab.studies.data_attribution.examples import images, paragraphs
from metastep_lab.studies.data_attribution.figures import _draw_methods
from metastep_lab.studies.data_attribution.methods import gradient_cosine
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

EXPERIMENT = study.EXPERIMENT
TINY = study.Config(
    models=("linear",),
    dataset="digits",
    train=40,
    queries=2,
    steps=4,
    window=2,
    speeds=(1.0, 30.0),
    subsets=3,
    removed=(0.1,),
    seeds=1,
)


def without_seconds(path):
    frame = read_record(path, EXPERIMENT).frames
    return {name: table.drop(columns="seconds", errors="ignore") for name, table in frame.items()}


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    request = Request(EXPERIMENT, TINY, "quick", (), 0, tmp_path / "whole")
    execute(request)
    undrawn = replace(EXPERIMENT, figures=lambda record: {})
    parts = replace(request, experiment=undrawn, directory=tmp_path / "parts")

    def stop(*arguments):
        raise KeyboardInterrupt

    # What was retrained before the stop is read, and not retrained.
    with monkeypatch.context() as patch:
        patch.setattr(study, "curve_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(parts)
    execute(replace(parts, resume=True))
    first, second = (without_seconds(one.directory) for one in (request, parts))
    assert first.keys() == {"scores", "training", "curves", "recall", "removals"}
    for name, table in first.items():
        assert table.equals(second[name]), name
    record = read_record(tmp_path / "whole", EXPERIMENT)
    assert {claim.id for claim in evaluate(EXPERIMENT.claims, record)} >= EXPERIMENT.reproducible
    curves = record.tables["curves"]
    # A derivative foretells the sign and the size, though a tenth of the examples is much.
    ratio = curves["rise"] / curves["predicted"]
    assert np.all((ratio > 0.7) & (ratio < 1.5))
    assert set(record.tables["scores"]["method"]) == {
        "exact",
        "truncated",
        "implicit",
        "gradient cosine",
    }
    for stem in EXPERIMENT.figures(record):
        assert (tmp_path / "whole" / "figures" / f"{stem}.svg").stat().st_size > 1000


MODELS = ("linear", "network", "transformer")
BASE = {"exact": 0.99, "truncated": 0.5, "gradient cosine": 0.3, "implicit": 0.6}


def handmade(seeds=3, **changes):
    """A run in which every claim holds."""
    sizes = {"seeds": seeds, "subsets": 50, "queries": 20}
    config = SimpleNamespace(models=MODELS, share=0.05, speeds=(1.0, 30.0), planted=0.1, **sizes)
    config = SimpleNamespace(**{**vars(config), **changes})
    nudge = lambda seed: 0.001 * seed
    scores = [
        (model, speed, seed, method, lds * (1 if speed == 1 else 0.1) + nudge(seed), 0.01, 1.0)
        for model in MODELS
        for speed in (1.0, 30.0)
        for seed in range(seeds)
        for method, lds in BASE.items()
    ]
    training = [
        (model, speed, seed, 1.0, 1.0 / speed + nudge(seed), 0.1 * speed - nudge(seed), speed < 2)
        for model in MODELS
        for speed in (1.0, 30.0)
        for seed in range(seeds)
    ]
    curves = [
        (model, seed, method, 0.1, lds + nudge(seed))
        for model in MODELS
        for seed in range(seeds)
        for method, lds in {**BASE, "at random": 0.0}.items()
    ]
    recall = [
        (model, seed, method, checked, min(1.0, 5 * checked))
        for model in MODELS
        for seed in range(seeds)
        for method in BASE
        for checked in (0.05, 0.1, 0.2)
    ]
    tables = {
        "scores": columns(study.COLUMNS["scores"], scores),
        "training": columns("model speed seed loss metasmoothness removal_error trusted", training),
        "curves": columns("model seed method removed rise", curves),
        "recall": columns(study.COLUMNS["recall"], recall),
    }
    tables["training"]["trusted"] = tables["training"]["trusted"].astype(float)
    return Record(config, tables, {}, {})


def test_every_claim_can_hold_and_fail():
    spoiled = [
        *(
            (f"exact-{model}", "scores", f"model == '{model}' and method == 'exact'", {"lds": 0.8})
            for model in MODELS
        ),
        ("exact-leads", "scores", "model == 'network' and method == 'truncated'", {"lds": 1.0}),
        ("warned", "training", "speed == 30", {"trusted": 1.0}),
        (
            "warning-relates",
            "training",
            "",
            {"metasmoothness": lambda rows: -rows["metasmoothness"]},
        ),
        ("leave-out", "curves", "method == 'at random'", {"rise": 2.0}),
        ("finds-spoilt", "recall", "model == 'network'", {"recall": 0.2}),
    ]
    check_every_claim(EXPERIMENT, spoiled, handmade())
    # A warning where nothing is wrong counts as well as a missing one.
    record = handmade()
    record.tables["training"]["trusted"][:] = 0
    assert verdicts(EXPERIMENT, record)["warned"] is False


def test_a_small_run_decides_no_bar():
    bars = {"exact-linear", "exact-network", "exact-transformer"}
    for record in (handmade(seeds=2), handmade(subsets=20), handmade(share=0.2)):
        found = verdicts(EXPERIMENT, record)
        assert {found[name] for name in bars} == {None}
    found = verdicts(EXPERIMENT, handmade(models=("linear",), speeds=(1.0,)))
    assert found["exact-linear"] and found["exact-network"] is None and found["warned"] is None


def test_a_recall_within_its_noise_decides_nothing():
    # By seed 0.2, 0.35 and 0.5, where three times the chance is 0.3.
    rising = lambda rows: 0.2 + 0.15 * rows["seed"]
    record = changed(handmade(), "recall", "model == 'network'", recall=rising)
    assert verdicts(EXPERIMENT, record)["finds-spoilt"] is None


@pytest.mark.parametrize("model", [MODELS, ("network",)])
@pytest.mark.parametrize("seeds", [range(3), (1,)])
def test_exact_scores_that_failed_do_not_vanish_from_a_verdict(model, seeds):
    record = handmade()
    place = "method == 'exact' and model in @model and seed in @seeds"
    tables = dict(record.tables)
    for name in ("curves", "recall"):
        frame = record.frames[name]
        rest = frame.drop(frame.query(place).index)
        tables[name] = {column: rest[column].to_numpy() for column in rest}
    failed = record.frames["scores"]
    failed.loc[failed.query(place).index, "lds"] = np.nan
    tables["scores"] = {column: failed[column].to_numpy() for column in failed}
    found = verdicts(EXPERIMENT, Record(record.config, tables, {}, {}))
    assert [found[name] for name in ("exact-leads", "leave-out", "finds-spoilt")] == [None] * 3


def test_a_training_that_diverged_leaves_its_verdict_open():
    record = changed(handmade(), "curves", "model == 'linear'", rise=np.nan)
    assert verdicts(EXPERIMENT, record)["leave-out"] is None


def test_another_method_that_failed_is_not_compared():
    record = changed(handmade(), "scores", "method == 'implicit' and seed == 1", lds=np.nan)
    assert verdicts(EXPERIMENT, record)["exact-leads"] is True


def test_a_seed_that_failed_does_not_vanish_from_a_line():
    rows = handmade().frames["scores"].query("model == 'linear'").copy()
    rows.loc[(rows["speed"] == 30) & (rows["seed"] == 1), "lds"] = np.nan
    drawn = []
    panel = SimpleNamespace(errorbar=lambda x, y, **look: drawn.append(np.asarray(y)))
    _draw_methods(panel, rows, ["exact"], "speed", "lds")
    np.testing.assert_allclose(drawn[0], [0.991, np.nan])


def setting(name):
    """A model with six examples and two queries."""
    if name == "transformer":
        rows = jax.random.randint(jax.random.key(0), (8, models.CONTEXT), 0, 20)
        model = models.transformer(20, 4, 3)
    else:
        split = images("digits", None, (6, 2), 0.0, (0, 0))
        rows = jax.tree.map(lambda *x: jnp.concatenate(x), split.examples, split.queries)
        model = models.linear(8) if name == "linear" else models.network(8, 3)
    examples, queries = (jax.tree.map(lambda x, s=s: x[s], rows) for s in np.split(range(8), [6]))
    batch = None if name == "linear" else 2
    return models.train(model, examples, 1.0, 3, batch, 0), queries


def test_an_example_with_weight_zero_might_as_well_not_be_there():
    training, queries = setting("network")
    found = leave_out(training, 6, queries, left_out=[[5]], key=jax.random.key(0)).values[0]
    examples = jax.tree.map(lambda x: x.at[5].set(0), training.examples)
    blank = models.Training(training.model, examples, training.batches, training.rate, 3)
    again = leave_out(blank, 6, queries, left_out=[[5]], key=jax.random.key(0)).values[0]
    assert np.array_equal(found, again)


def test_gradient_cosines_are_those_of_a_loop():
    training, queries = setting("linear")
    key = jax.random.key(1)
    found = gradient_cosine(training, queries, key)
    problem = training(jax.tree.map(lambda x: x[0], queries))
    params = ms.unroll(problem, jnp.ones(6), key).params

    def slope(rows, place):
        one = jax.tree.map(lambda x: x[place], rows)
        gradient = jax.grad(training.model.loss)(params, one)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    first, second = slope(queries, 1), slope(training.examples, 4)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found[1, 4] == pytest.approx(-cosine, rel=1e-4)


def test_a_token_sees_no_later_one():
    training, _ = setting("transformer")
    params = training.model.params(jax.random.key(0))
    tokens = jnp.full(models.CONTEXT, 7)
    # The embedding of word 3 has no part in the loss if it comes last, where it is only predicted.
    slope = jax.grad(training.model.loss)(params, tokens.at[-1].set(3))["tokens"]
    before = jax.grad(training.model.loss)(params, tokens.at[-2].set(3))["tokens"]
    assert bool(jnp.any(before[3] != 0)) and bool(jnp.all(slope[3] == 0))


def test_spoilt_examples_are_marked(tmp_path):
    clean = images("digits", None, (100, 10), 0.0, (0, 1))
    split = images("digits", None, (100, 10), 0.2, (0, 1))
    differ = np.asarray(clean.examples[1] != split.examples[1])
    assert np.array_equal(differ, split.planted) and differ.sum() == 20
    rng = np.random.default_rng(0)
    words = lambda: " ".join(rng.choice(["a", "b", "c", "d"], models.CONTEXT + 3))
    lines = [words() for _ in range(30)] + ["= A heading =", "too short"]
    (tmp_path / "wikitext2-valid.txt").write_text("\n".join(lines) + "\n")
    text = paragraphs(tmp_path, 10, (20, 5), 0.3, (0, 1))
    assert text.examples.shape == (20, models.CONTEXT) and text.planted.sum() == 6
    assert text.queries.shape == (5, models.CONTEXT) and int(text.examples.max()) < 10
    with pytest.raises(ValueError, match="at most the 30 examples"):
        paragraphs(tmp_path, 10, (30, 5), 0.3, (0, 1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("models=", "different models"),
        ("models=linear,linear", "different models"),
        ("speeds=3,1", "ascending positive numbers"),
        ("removed=0.5,1", "ascending numbers between 0 and 1"),
        ("share=1", "numbers between 0 and 1"),
        ("window=1000", "1 to the steps, 60"),
        ("width=5", "even integers"),
        ("subsets=2", "integers from 3"),
        ("train=1790", "1797"),
    ],
)
def test_what_is_refused(wrong, words, tmp_path, capsys):
    command = ["run", "data-attribution", "--set", wrong, "--out", str(tmp_path / "run")]
    assert invoke(command, (EXPERIMENT.listing,)) == 2
    error = capsys.readouterr().err
    assert wrong.split("=")[0] in error and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
