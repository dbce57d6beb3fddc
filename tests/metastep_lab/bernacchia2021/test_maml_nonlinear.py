"""A tiny run, interrupted and resumed; its statistics, claims and bad configurations."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.bernacchia2021.maml_nonlinear import experiment as maml_nonlinear
from metastep_lab.bernacchia2021.maml_nonlinear import statistics as statistics
from metastep_lab.bernacchia2021.maml_nonlinear.experiment import EXPERIMENT, Config, readings
from metastep_lab.claims import evaluate
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.tables import select

TINY = Config(
    dim=5,
    train_samples=4,
    tasks=2,
    target_samples=4,
    width=8,
    epochs=(3, 6),
    train_rates=(-0.2, -0.1, 0.0, 0.1),
    trained_rates=(-0.1, 0.0, 0.1),
    test_rates=(0.0, 0.1),
    paper_rate=-0.1,
    paper_test_rate=0.1,
    linearized_runs=8,
    trained_runs=5,
    reading_runs=0,
    reading_trained_runs=0,
    test_tasks=3,
    test_samples=2,
)


@pytest.fixture(scope="module")
def request_of_whole(tmp_path_factory):
    """The request of an uninterrupted run, which has ended."""
    directory = tmp_path_factory.mktemp("maml-nonlinear") / "whole"
    undrawn = replace(EXPERIMENT, figures=lambda record: {})
    request = Request(undrawn, TINY, "quick", (), seed=3, directory=directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maml_nonlinear, "SAVED_TOGETHER", 4)
        execute(request)
    return request


@pytest.fixture
def record(request_of_whole):
    return read_record(request_of_whole.directory, EXPERIMENT)


@pytest.fixture(scope="module")
def drawn_record(tmp_path_factory):
    """The tables of losses that are drawn instead of simulated: no network is compiled."""
    rng, tests = np.random.default_rng(0), len(TINY.test_rates)
    epochs, rates = len(TINY.epochs), len(TINY.trained_rates)
    losses = rng.random((TINY.linearized_runs, epochs + 1, len(TINY.train_rates), tests))
    trained = rng.random((TINY.trained_runs, epochs, rates, tests))
    directory = tmp_path_factory.mktemp("maml-nonlinear") / "drawn"
    undrawn = replace(EXPERIMENT, figures=lambda record: {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maml_nonlinear, "_linearized", lambda *_: losses)
        patch.setattr(maml_nonlinear, "_trained", lambda *_: (trained, trained[..., 0]))
        execute(Request(undrawn, TINY, "quick", (), seed=3, directory=directory))
    return read_record(directory, EXPERIMENT)


def test_a_resumed_run_ends_with_the_same_bits(request_of_whole, tmp_path, monkeypatch):
    """Interrupted in each stage."""
    monkeypatch.setattr(maml_nonlinear, "SAVED_TOGETHER", 4)
    whole, parts = request_of_whole.directory, tmp_path / "parts"
    for stop in ((6, "paper, linearized"), (2, "paper, trained"), None):

        def interrupt(done, total, what, stop=stop):
            if (done, what) == stop:
                raise KeyboardInterrupt

        resumed = replace(request_of_whole, directory=parts, resume=True)
        if stop is None:
            execute(resumed, show=interrupt)
        else:
            with pytest.raises(KeyboardInterrupt):
                execute(resumed, show=interrupt)
    tables = sorted((whole / "tables").iterdir())
    assert [path.stem for path in tables] == ["difference", "loss", "reading", "training"]
    for path in tables:
        assert path.read_bytes() == (parts / "tables" / path.name).read_bytes()


def test_both_limits_and_all_rates_see_the_same_draws(record):
    """After three small steps a network is its linearization, if the draws are the same."""
    rows = select(record.tables["difference"], limit="trained", epochs=3)
    assert np.all(rows["runs"] == TINY.trained_runs)
    # Five independent pairs are correlated above 0.95 once in 150 times.
    assert np.all(rows["correlation"] > 0.95)


def test_claims_and_figures(record):
    found = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
    assert found.keys() >= EXPERIMENT.reproducible | {"negative-optimum"}
    assert all(claim.evidence for claim in found.values())
    for figure, text in EXPERIMENT.figures(record).values():
        assert figure.axes and text


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [(-0.5, 0.1, True), (0.5, 0.1, False), (-0.5, 0.2, None), (0.1, np.nan, None)],
)
def test_the_optimum_is_decided_by_standard_errors(drawn_record, difference, error, verdict):
    record = drawn_record
    table = {name: column.copy() for name, column in record.tables["difference"].items()}
    table["difference"] = np.where(table["train_rate"] == -0.1, difference, 0.2)
    table["standard_error"][:] = error
    table["z"] = table["difference"] / error
    # Twelve runs: 3 standard errors become 3.96.
    table["runs"][:] = 12
    changed = replace(record, tables={**record.tables, "difference": table})
    claims = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, changed)}
    assert claims["negative-optimum-linearized"] is verdict
    assert claims["negative-optimum-test-rate-0"] is verdict
    assert claims["negative-optimum-without-half"] is None


@pytest.mark.parametrize(
    ("correlations", "verdict"), [((0.95, 0.95), True), ((0.95, -0.5), False), ((0.8, 0.95), False)]
)
def test_the_limit_is_judged_at_the_test_rate_and_at_twice_it(drawn_record, correlations, verdict):
    table = {name: column.copy() for name, column in drawn_record.tables["difference"].items()}
    doubled = table["test_rate"] == 0.1
    table["test_rate"] = np.where(doubled, 0.1, 0.05)
    table["correlation"] = np.where(doubled, correlations[1], correlations[0])
    table["z"][:] = 0.1  # no sign is decided
    config = replace(TINY, paper_test_rate=0.05, test_rates=(0.05, 0.1))
    changed = replace(
        drawn_record, config=config, tables={**drawn_record.tables, "difference": table}
    )
    claims = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, changed)}
    assert claims["limit-predicts-training"] is verdict


def test_without_training_only_its_claims_are_undecided(drawn_record):
    record, limits = drawn_record, ("linearized",)
    keep = lambda table: {
        name: column[np.isin(table["limit"], limits)] for name, column in table.items()
    }
    empty = {name: column[:0] for name, column in record.tables["training"].items()}
    tables = {name: keep(record.tables[name]) for name in ("loss", "difference")}
    bare = replace(record, tables={**record.tables, **tables, "training": empty})
    claims = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, bare)}
    for name in ("negative-optimum", "training-converged", "limit-predicts-training"):
        assert claims[name] is None
    assert len(EXPERIMENT.figures(bare)) == 2


def test_the_control_variate_is_unbiased_and_knows_its_error():
    rng, found = np.random.default_rng(0), []
    rates = (0.0, 1.0), (0.5,)
    for _ in range(1500):
        shared = rng.standard_normal(200)
        own = 0.7 + 2 * shared[:20] + 0.5 * rng.standard_normal(20)
        losses, control = (np.stack([0 * x, x], axis=1)[..., None] for x in (own, shared))
        plain = statistics.difference_rows(*rates, losses, control[:20])[0]
        better = statistics.controlled_rows(*rates, losses, control)[0]
        found.append((plain[2:4], better[2:4]))
    means, errors = np.moveaxis(np.array(found), 0, -1).swapaxes(0, 1)
    truth, spread = 0.7, means.std(axis=1)
    assert np.all(abs(means.mean(axis=1) - truth) < 4 * spread / np.sqrt(means.shape[1]))
    # 1500 repetitions know a standard deviation to 2%; the reported error is right to order 1 / n.
    np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=1)), spread, rtol=0.08)
    # sqrt((2^2 / 200 + 0.5^2 / 20) / ((2^2 + 0.5^2) / 20)) = 0.39 of the plain error.
    assert 0.35 < spread[1] / spread[0] < 0.45


def test_differences_are_paired_and_one_run_has_no_error():
    rng = np.random.default_rng(0)
    level = 100 * rng.standard_normal((50, 1, 1))
    losses = level + np.array([0.3, 0.0, -0.2])[:, None] + 0.01 * rng.standard_normal((50, 3, 1))
    first, second = statistics.difference_rows((-1.0, 0.0, 1.0), (0.0,), losses)
    assert first[:2] == (-1.0, 0.0) and second[:2] == (1.0, 0.0)
    # The level of 100 has cancelled: errors of 0.01 sqrt(2 / 50) = 0.002.
    assert abs(first[2] - 0.3) < 0.008 and abs(second[2] + 0.2) < 0.008
    assert 0.001 < first[3] < 0.003
    assert np.isnan(statistics.difference_rows((0.0, 1.0), (0.0,), losses[:1, :2])[0][3])
    assert statistics.controlled_rows((0.0, 1.0), (0.0,), losses[:3, :2], losses[:, :2]) == []


def test_readings_change_one_thing_each():
    config = Config()
    first, *others = readings(config)
    assert (first.width, first.hidden_layers, first.bias_scale) == (400, 2, 0.0)
    for other in others:
        changed = [a != b for a, b in zip(first[1:4], other[1:4], strict=True)]
        assert sum(changed) == 1
    assert len(readings(replace(config, reading_runs=0, reading_trained_runs=0))) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"width": 0}, "width is 0"),
        ({"linearized_runs": 1}, "linearized_runs is 1"),
        ({"trained_runs": 2000}, "trained_runs is 2000"),
        ({"reading_runs": 3}, "reading_trained_runs is"),
        ({"noise": -1.0}, "noise is"),
        ({"step_size": 0.0}, "step_size is"),
        ({"epochs": (5, 5)}, "epochs is"),
        ({"epochs": ()}, "epochs is"),
        ({"epochs": (0, 5)}, "epochs is"),
        ({"train_rates": (0.1,)}, "train_rates is"),
        ({"trained_rates": (0.0, 0.3)}, "trained_rates is"),
        ({"test_rates": (0.1, 0.1)}, "test_rates is"),
    ],
)
def test_bad_configuration(changed, message):
    with pytest.raises(ValueError, match=message):
        Config(**changed)
