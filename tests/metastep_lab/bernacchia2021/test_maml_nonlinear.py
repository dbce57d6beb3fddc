"""A tiny run, interrupted and resumed; its statistics and claims."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.bernacchia2021.maml_nonlinear import limits, statistics
from metastep_lab.bernacchia2021.maml_nonlinear.experiment import EXPERIMENT, Config
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.tables import Record, columns, where
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

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


LOSSES = {}
"""The arrays of each stage of the whole run, by run."""


@pytest.fixture(scope="module")
def request_of_whole(tmp_path_factory):
    """The request of an uninterrupted run, which has ended."""
    by_run = limits._by_run

    def kept(arrays, many, what, context, compute):
        LOSSES[what] = by_run(arrays, many, what, context, compute)
        return LOSSES[what]

    directory = tmp_path_factory.mktemp("maml-nonlinear") / "whole"
    undrawn = replace(EXPERIMENT, figures=lambda record: {})
    request = Request(undrawn, TINY, "quick", (), seed=3, directory=directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SAVED_TOGETHER", 4)
        patch.setattr(limits, "_by_run", kept)
        execute(request)
    return request


@pytest.fixture
def record(request_of_whole):
    return read_record(request_of_whole.directory, EXPERIMENT)


def test_a_resumed_run_ends_with_the_same_bits(request_of_whole, tmp_path, monkeypatch):
    """Interrupted in each stage."""
    monkeypatch.setattr(limits, "SAVED_TOGETHER", 4)
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
    names = ["difference", "loss", "printed", "reading", "training"]
    assert [path.stem for path in tables] == names
    for path in tables:
        assert path.read_bytes() == (parts / "tables" / path.name).read_bytes()


def test_the_linearization_is_solved_in_float64(request_of_whole):
    """Differences of 1e-3 of a loss must not be rounding; from float32 every loss would be one."""
    loss = LOSSES["paper, linearized"]["loss"]
    assert np.mean(loss != loss.astype(np.float32)) > 0.9


def test_both_limits_and_all_rates_see_the_same_draws(record):
    """After three small steps a network is its linearization, if the draws are the same."""
    rows = where(record.frames["difference"], limit="trained", epochs=3)
    assert np.all(rows["runs"] == TINY.trained_runs)
    # Five independent pairs are correlated above 0.95 once in 150 times.
    assert np.all(rows["correlation"] > 0.95)


def test_claims_and_figures(record):
    found = verdicts(EXPERIMENT, record)
    assert found.keys() >= EXPERIMENT.reproducible | {"negative-optimum"}
    for figure, text in EXPERIMENT.figures(record).values():
        assert figure.axes and text


def held():
    """Return a run of which every claim holds, with a network of another reading."""
    config = replace(TINY, paper_test_rate=0.05, test_rates=(0.0, 0.05, 0.1), train_rates=RATES)
    difference = [
        (reading, limit, epochs, rate, test_rate, apart, error, apart / error, 50, 0.95)
        for reading in ("paper", "drawn biases")
        for limit, epochs, error in (
            ("linearized", np.inf, 0.05),
            ("trained", 6, 0.06),
            ("controlled", 6, 0.04),
        )
        for test_rate in config.test_rates
        for rate, apart in zip(RATES, (-0.5, -0.6, 0.0, 0.2), strict=True)
        if rate
    ]
    loss = [
        ("paper", "linearized", np.inf, 0.0, test_rate, mean, 0.2, 50)
        for test_rate, mean in zip(config.test_rates, (3.0, 1.0, 1.0), strict=True)
    ]
    names = "reading limit epochs train_rate test_rate"
    tables = {
        "reading": columns("reading", [("paper",), ("drawn biases",)]),
        "difference": columns(f"{names} difference standard_error z runs correlation", difference),
        "loss": columns(f"{names} mean standard_error runs", loss),
        "training": columns("epochs maximum", [(3, 1.0), (6, 0.0004)]),
    }
    return Record(config, tables, {}, {})


RATES = (-0.2, -0.1, 0.0, 0.1)
HIGHER = {"difference": 0.5, "z": 10.0}
# A larger rate is better still.
POSITIVE = {"difference": -0.9}
SPOILED = (
    *(
        (claim, "difference", f"reading == '{reading}' and {limit} and {rates}", values)
        for claim, reading, limit, test_rate, rate in (
            ("negative-optimum", "paper", "limit == 'controlled'", 0.05, -0.1),
            ("negative-optimum-linearized", "paper", "limit == 'linearized'", 0.05, -0.1),
            ("negative-optimum-without-half", "paper", "limit == 'controlled'", 0.1, -0.2),
            ("negative-optimum-test-rate-0", "paper", "limit == 'linearized'", 0, -0.1),
            ("negative-optimum-drawn-biases", "drawn biases", "limit == 'linearized'", 0.05, -0.1),
            (
                "negative-optimum-drawn-biases-trained",
                "drawn biases",
                "limit == 'controlled'",
                0.05,
                -0.1,
            ),
        )
        for rates, values in (
            (f"test_rate == {test_rate} and train_rate == {rate}", HIGHER),
            (f"test_rate == {test_rate} and train_rate == 0.1", POSITIVE),
        )
    ),
    ("training-converged", "training", "epochs == 6", {"maximum": 0.0006}),
    *(
        ("limit-predicts-training", "difference", f"{limit} and test_rate == {test_rate}", values)
        for test_rate in (0.05, 0.1)
        for limit, values in (
            ("limit == 'trained'", {"correlation": 0.9}),
            ("limit == 'controlled'", {"z": 10.0}),
        )
    ),
    ("adaptation-helps", "loss", "test_rate == 0", {"mean": 0.1}),
    ("ten-runs-undecided", "loss", "test_rate == 0.05", {"standard_error": 0.05}),
)


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        # Twelve runs: 3 standard errors become 3.96.
        ({"z": -4.0, "runs": 12}, True),
        ({"z": -3.9, "runs": 12}, None),
        ({"standard_error": np.nan}, None),
    ],
)
def test_the_optimum_is_decided_by_standard_errors(values, verdict):
    found = verdicts(EXPERIMENT, changed(held(), "difference", **values))
    assert found["negative-optimum"] is found["negative-optimum-linearized"] is verdict


def test_rate_0_may_be_the_best():
    """It has no row of its own: the differences are to it."""
    for apart, best in ((-0.5, -0.2), (0.5, 0.0)):
        record = changed(held(), "difference", "limit == 'trained'", difference=apart)
        (row,) = EXPERIMENT.printed(record)
        assert row.here(record) == best


def test_without_training_only_its_claims_are_undecided():
    untrained = changed(held(), "difference", "limit != 'linearized'", reading="none")
    tables = {**untrained.tables, "training": columns("epochs maximum", [])}
    untrained = replace(untrained, tables=tables)
    found = verdicts(EXPERIMENT, untrained)
    undecided = {"negative-optimum", "negative-optimum-without-half", "training-converged"}
    undecided |= {"limit-predicts-training"}
    assert {name for name, holds in found.items() if holds is None} == undecided
    assert "negative-optimum-drawn-biases-trained" not in found
    assert len(EXPERIMENT.figures(untrained)) == 2


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
    first, *others = limits.readings(config)
    assert (first.width, first.hidden_layers, first.bias_scale) == (400, 2, 0.0)
    for other in others:
        changed = [a != b for a, b in zip(first[1:4], other[1:4], strict=True)]
        assert sum(changed) == 1
    assert len(limits.readings(replace(config, reading_runs=0, reading_trained_runs=0))) == 1
