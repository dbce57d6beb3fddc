"""The cost of a sweep, extrapolated from small runs."""

from dataclasses import dataclass, replace

import pytest

from metastep_lab.cli import invoke
from metastep_lab.errors import RefusedError
from metastep_lab.sweep.probe import Cost, doublings, length_field, measure, predict
from tests.metastep_lab.sweep.light_experiment import EXPERIMENT, Config

LONG = Config(steps=1000)


@dataclass(frozen=True)
class Bounded:
    """A configuration that allows only some numbers of steps."""

    steps: int = 1000
    least: int = 30

    def __post_init__(self):
        if self.steps < self.least:
            raise ValueError("too few")


def straight(config):
    """Three seconds to begin with, two hundredths a step."""
    return Cost(3 + 0.02 * config.steps, 2 + 0.01 * config.steps, 1e8 + 1e4 * config.steps)


def test_a_straight_line_is_extrapolated_exactly():
    prediction = predict(LONG, "steps", straight)
    assert [count for count, _ in prediction.probes] == [10, 40, 160, 500]
    whole = straight(LONG)
    assert prediction.whole.seconds == pytest.approx(whole.seconds)
    assert prediction.whole.core_seconds == pytest.approx(whole.core_seconds)
    assert prediction.whole.peak == pytest.approx(whole.peak)
    assert prediction.unit.seconds == pytest.approx(0.02)


def test_without_a_difference_it_stops_at_half():
    prediction = predict(LONG, "steps", lambda config: Cost(3.0, 3.0, 1e8))
    assert [count for count, _ in prediction.probes] == [10, 40, 160, 500]
    assert prediction.whole == Cost(3.0, 3.0, 1e8)


def test_no_more_is_measured_than_tells_the_slope():
    """The difference has to exceed five seconds, and the first run's own time."""
    counts = lambda cost: [count for count, _ in predict(LONG, "steps", cost).probes]
    assert counts(lambda config: Cost(3 + 6 * config.steps, 1, 1)) == [10, 40]
    assert counts(lambda config: Cost(3 + 0.1 * config.steps, 1, 1)) == [10, 40, 160]
    assert counts(lambda config: Cost(60 + 0.3 * config.steps, 1, 1)) == [10, 40, 160, 500]


def test_the_first_run_is_one_that_the_configuration_allows():
    prediction = predict(Bounded(), "steps", straight)
    assert [count for count, _ in prediction.probes] == [40, 160, 500]
    with pytest.raises(RefusedError, match="steps cannot be 500 here: too few"):
        predict(Bounded(least=900), "steps", straight)


def test_the_field_is_chosen_or_refused():
    assert length_field(LONG, None) == "steps"
    assert length_field(replace(LONG, steps=3), None) is None
    with pytest.raises(RefusedError, match="--along is 'rate'; allowed: integers from 4: steps"):
        length_field(LONG, "rate")
    assert predict(LONG, None, straight).whole == straight(LONG)
    assert doublings(LONG, predict(LONG, None, straight), straight) == []


def test_a_real_run_is_measured_and_a_failing_one_refused():
    cost = measure(EXPERIMENT, Config(steps=3, burn=0.2), 0, None, 1)
    assert cost.core_seconds > 0.6 and cost.seconds > 0.6
    assert 5e7 < cost.peak < 5e9, "the packages take some hundred MB"
    with pytest.raises(RefusedError, match="a shortened run of light-walk fails: MNIST"):
        measure(EXPERIMENT, Config(mode="missing"), 0, None, 1)


def test_the_command_says_what_it_extrapolated(capsys, monkeypatch):
    monkeypatch.setattr(
        "metastep_lab.sweep.plan.measure", lambda _, config, *rest: straight(config)
    )
    options = ["--grid", "rate=0.1,0.2,0.3", "--seeds", "0:4", "--set", "steps=1000"]
    assert invoke(["doctor", "--plan", "light-walk", *options], (EXPERIMENT.listing,)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "light-walk rate=0.1" in output and "light-walk rate=0.3" in output
    assert "measured with steps = 160: 6.2 s (3.6 s of processor time), 102 MB" in output
    assert "extrapolated in a straight line to steps = 1000" in output
    assert "predicted for one run: 23 s (12 s of processor time), 110 MB" in output
    assert "12 runs" in output and "3 configurations; the first and the last" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "light-wlak"], "did you mean 'light-walk'?"),
        (["--plan", "light-walk", "--set", "steps=0"], "steps is 0; allowed"),
        (["--plan", "light-walk", "--along", "rate"], "--along is 'rate'"),
        (["--plan", "light-walk", "--grid", "rate="], "--grid is 'rate='"),
    ],
)
def test_bad_input_is_one_line(capsys, options, message):
    assert invoke(["doctor", *options], (EXPERIMENT.listing,)) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
