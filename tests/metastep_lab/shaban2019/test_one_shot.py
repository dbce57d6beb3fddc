"""A tiny run on invented characters, interrupted and resumed; claims on tables made by hand."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metastep as ms
from metastep_lab.claims import evaluate
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.shaban2019.one_shot import training as one_shot_training
from metastep_lab.shaban2019.one_shot.experiment import EXPERIMENT, Config
from metastep_lab.shaban2019.one_shot.figures import figures
from metastep_lab.shaban2019.one_shot.measures import truncations
from metastep_lab.shaban2019.one_shot.problem import AbstractEncodedProblem, Once
from metastep_lab.shaban2019.one_shot.setup import methods, split
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

TINY = Config(
    channels=2,
    ways=2,
    queries=2,
    test_queries=2,
    horizon=2,
    windows=(1,),
    full=False,
    short_horizon=False,
    study=False,
    outer_steps=4,
    meta_batch=2,
    repetitions=2,
    validation_characters=2,
    test_characters=3,
    rotations=False,
    measure_every=2,
    measured_tasks=2,
    gradient_tasks=2,
    test_tasks=4,
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """One uninterrupted run, and one that was stopped between two repetitions and resumed."""
    base = tmp_path_factory.mktemp("one-shot")
    packed = np.random.default_rng(0).integers(0, 256, (8, 20, 105, 14)).astype(np.uint8)
    names = np.array([f"character{number}" for number in range(8)])
    arrays = {"packed": packed, "alphabets": np.full(8, "Greek"), "characters": names}
    np.savez(base / "omniglot-242.npz", **arrays)
    patch = pytest.MonkeyPatch()
    # Compiling them takes long, and a test of their own is below.
    made_up = lambda tasks, keys, outer, windows: 4 * (np.linspace(0.9, 0.5, len(windows)),)
    patch.setattr(one_shot_training, "truncations", made_up)
    bare = replace(EXPERIMENT, figures=lambda record: {}, claims=lambda record: ())
    whole = Request(bare, TINY, "quick", (), seed=0, directory=base / "whole", data=base)

    def keep(message):
        if message.endswith("repetition 1"):
            shutil.copytree(base / "whole", base / "parts")

    execute(whole, say=keep)
    execute(replace(whole, directory=base / "parts", resume=True))
    patch.undo()
    return base / "whole", base / "parts"


def test_a_resumed_run_ends_with_the_same_bits(directories):
    for name in ("curve", "training", "cosine", "depth", "paired"):
        first, second = (path / "tables" / f"{name}.csv" for path in directories)
        assert first.read_bytes() == second.read_bytes()
    first, second = (read_record(path, EXPERIMENT).tables["summary"] for path in directories)
    assert np.array_equal(first["loss"], second["loss"])


def test_tables(directories):
    tables = read_record(directories[0], EXPERIMENT).tables
    assert sorted(set(tables["curve"]["step"])) == [0, 2, 4]
    assert list(tables["training"]["step"]) == [0, 0]
    first = tables["cosine"]["window"] == 1
    assert np.allclose(tables["cosine"]["relative_error"][first], 0.9)
    assert set(tables["depth"]["regularization"]) == {"tuned", "none", "strong"}
    assert np.all(tables["summary"]["rate"] != TINY.rate)


class Tracking(ms.AbstractProblem):
    """Descent whose target and start are known through a code alone."""

    horizon: int = 3

    def init(self, outer, key):
        return outer["start"]

    def step(self, inner, outer, t, key):
        return inner - 0.3 * (inner - outer["target"]) + 0.1 * outer["start"]

    def objective(self, inner, outer, key):
        return jnp.sum(inner**2) + jnp.sum(outer["target"])


class Squared(AbstractEncodedProblem):
    head: Tracking = Tracking()
    horizon: int = 3

    def encode(self, outer):
        return {"start": jnp.sin(outer), "target": outer**2}


@pytest.mark.parametrize("estimator", [ms.Reverse(), ms.TruncatedReverse(2)])
def test_encoding_once_is_the_same_gradient(key, estimator):
    """Against the problem that encodes the hyperparameters at every step."""
    outer = jnp.array([0.5, -1.5])
    direct, once = (
        ms.hypergradient(Squared(), outer, one, key=key) for one in (estimator, Once(estimator))
    )
    # Rounding of float32 in another order of summation.
    np.testing.assert_allclose(once.grad, direct.grad, rtol=1e-5)
    assert once.value == direct.value
    assert np.isclose(once.stats["gradient_norm"], direct.stats["gradient_norm"], rtol=1e-5, atol=0)


def test_a_problem_without_encoding_is_refused(key):
    with pytest.raises(ValueError, match="problem is a Tracking; Once needs"):
        ms.hypergradient(Tracking(), {"start": 0.1, "target": 0.2}, Once(ms.Reverse()), key=key)


def test_truncations_are_the_estimators(key):
    outer, windows = jnp.array([0.5, -1.5]), (1, 3)
    keys = jax.random.split(key, 2)
    averaged, angles, errors, cosines = truncations(lambda key: Squared(), keys, outer, windows)
    exact = ms.hypergradient(Squared(), outer, ms.Reverse(), key=key).grad
    for place, window in enumerate(windows):
        grad = ms.hypergradient(Squared(), outer, ms.TruncatedReverse(window), key=key).grad
        # The window of the whole horizon lacks the start, which is tuned: an error remains.
        expected = np.linalg.norm(grad - exact) / np.linalg.norm(exact)
        assert expected > 0.01
        # Rounding of float32.
        np.testing.assert_allclose([averaged[place], errors[place]], expected, rtol=1e-5)
        expected = grad @ exact / np.linalg.norm(grad) / np.linalg.norm(exact)
        np.testing.assert_allclose([angles[place], cosines[place]], expected, rtol=1e-5)


def invented(accuracy, repetitions=3, noise=0.0, error=0.01, seconds=0.15):
    """A record in which every method has a given accuracy throughout."""
    config = Config(repetitions=repetitions, test_characters=50)
    rng = np.random.default_rng(0)
    summary, paired, curve, training = [], [], [], []
    for method in methods(config):
        name = method.name
        level = accuracy.get(name, 0.8)
        row = (name, method.window or np.nan, method.horizon)
        for repetition in range(repetitions):
            took = 1.0 if name == "full" else seconds
            ends = (level, 0.005, 0.5, 0.05, 1.0, 0, took)
            summary.append((*row, repetition, method.steps, *ends))
            training += [(name, repetition, step, 1.0, 1.0) for step in (0, 10)]
            for step in (0, config.study_steps):
                for part in ("validation", "test"):
                    curve.append((name, repetition, step, part, level, error, 1.0))
            for other in methods(config):
                if other.name != name and other.steps == method.steps:
                    difference = level - accuracy.get(other.name, 0.8)
                    difference += noise * rng.standard_normal()
                    paired.append((name, other.name, repetition, difference, error / 2))
    depth = [
        (point, kind, 0, window, 10.0 ** (-window / 10) if kind != "none" else 1.0, 0.5)
        for point in ("start", "tuned")
        for kind in ("tuned", "none", "strong")
        for window in (1, 25, 50)
    ]
    cosine = [
        (f"{method}-RMD", 0, step, window, 0.5, 0.4)
        for method in config.windows
        for step in (0, 100)
        for window in (*config.windows, config.horizon)
    ]
    names = "method window horizon repetition steps accuracy standard_error loss rate "
    tables = {
        "summary": columns(names + "gradient_norm failed_steps seconds_per_step", summary),
        "paired": columns("method other repetition difference standard_error", paired),
        "curve": columns("method repetition step split accuracy standard_error loss", curve),
        "training": columns("method repetition step loss gradient_norm", training),
        "cosine": columns("method repetition step window relative_error cosine", cosine),
        "depth": columns("point regularization repetition window relative_error cosine", depth),
    }
    return Record(config, tables, {}, {})


AS_PRINTED = {"1-RMD": 0.956, "10-RMD": 0.963, "25-RMD": 0.961, "full": 0.958}
BEHIND = {"full": 0.5, "full, plain head": 0.5, "full, clipped": 0.5, "10-RMD, plain head": 0.8}


@pytest.mark.parametrize(
    ("accuracy", "other", "name", "verdict"),
    [
        (AS_PRINTED, {}, "table-4-accuracy", True),
        (AS_PRINTED | {"full": 0.94}, {}, "table-4-accuracy", False),
        (AS_PRINTED | {"short horizon": 0.5}, {}, "table-4-accuracy", True),
        ({"short horizon": 0.7}, {}, "window-ten-beats-short-horizon", True),
        ({"short horizon": 0.9}, {}, "window-ten-beats-short-horizon", False),
        ({"short horizon": 0.78}, {"noise": 0.2}, "window-ten-beats-short-horizon", None),
        ({}, {"error": 0.008}, "truncation-equals-full", True),
        ({}, {}, "truncation-equals-full", None),
        (BEHIND, {}, "truncation-equals-full", False),
        ({}, {}, "window-one-is-cheaper", True),
        ({}, {"seconds": 0.2}, "window-one-is-cheaper", False),
        ({}, {}, "cosines-are-positive", True),
        ({}, {}, "start-term-is-large", True),
        ({}, {"repetitions": 2}, "start-term-is-large", None),
        ({}, {}, "error-decays-with-regularization", True),
        (BEHIND, {}, "start-term-holds-back", True),
        (BEHIND, {"repetitions": 2}, "start-term-holds-back", None),
        (BEHIND | {"full, start detached": 0.5}, {}, "start-term-holds-back", False),
        ({}, {}, "start-term-holds-back", None),
        (BEHIND, {}, "clipping-helps", False),
        (BEHIND, {}, "normalization-holds-back", False),
        (BEHIND | {"full, plain head": 0.8}, {}, "normalization-holds-back", True),
    ],
)
def test_claims(accuracy, other, name, verdict):
    found = {
        claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, invented(accuracy, **other))
    }
    assert found[name] is verdict


def test_the_time_of_window_one_needs_window_one():
    record = invented({})
    config = replace(record.config, windows=record.config.windows[1:])
    assert verdicts(EXPERIMENT, replace(record, config=config))["window-one-is-cheaper"] is None


def test_claims_about_gradients_can_fail():
    spoiled = (
        ("cosines-are-positive", "cosine", "window == 1", {"cosine": -0.1}),
        ("start-term-is-large", "cosine", "window == 50", {"relative_error": 0.4}),
        ("error-decays-with-regularization", "depth", "window == 25", {"relative_error": 0.2}),
    )
    names = {name for name, *_ in spoiled}
    rows = [row for row in EXPERIMENT.claims(invented({})) if row.id in names]
    check_every_claim(replace(EXPERIMENT, claims=rows), spoiled, invented({}))


@pytest.mark.parametrize(("before", "holds"), [(0.7, True), (0.9, False), (0.8, None)])
def test_more_steps_help_where_there_are_15000(before, holds):
    record = invented({})
    assert "more-steps-help" not in verdicts(EXPERIMENT, record)
    last = record.config.study_steps
    long = changed(
        record,
        "curve",
        config=replace(record.config, outer_steps=15000, study=False),
        step=lambda rows: rows["step"].replace({0: 5000, last: 15000}),
    )
    early = changed(long, "curve", "step == 5000", accuracy=before)
    assert verdicts(EXPERIMENT, early)["more-steps-help"] is holds
    assert verdicts(EXPERIMENT, changed(early, "curve", step=15000))["more-steps-help"] is None


def test_figures_draw_the_study_where_there_is_one():
    record = invented({})
    found = figures(record)
    assert set(found) == {"figure-7", "study"}
    assert all(figure.axes and text for figure, text in found.values())


def test_characters_for_training_must_be_left(tmp_path):
    with pytest.raises(ValueError, match="leaves at least 5 of the 73 characters"):
        split(Config(), np.zeros((73, 1, 105, 105), np.uint8), np.random.default_rng(0))
