"""Two of the advisor's problems from the command line: ascent by truncation, and chaos."""

import numpy as np
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.figures.comparison import Point, comparison_figure
from metastep_lab.runs.running import read_record
from metastep_lab.studies.advisor import experiment as advisor
from metastep_lab.tables import select

EXPERIMENT = advisor.EXPERIMENT


def test_warned_where_truncation_ascends_and_where_nothing_is_meaningful(tmp_path):
    names = "problems=counter-example,logistic-map"
    assert (
        invoke(["run", "advisor", "--set", names, "--out", str(tmp_path)], (EXPERIMENT.listing,))
        == 0
    )
    record = read_record(tmp_path, EXPERIMENT)
    claims = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, record)}
    names = ("advice-is-right", "as-predicted", "few-products", "counter-example", "chaos")
    assert all(claims[name] for name in names)
    # Shaban et al. (2019), section 3: the toy of two dimensions, where a short window ascends.
    assert select(record.tables["windows"], problem="counter-example")["cosine"][0] < 0
    assert set(EXPERIMENT.figures(record)) == {"windows"}


def test_the_figure_of_a_comparison_shows_every_estimator():
    rows = [
        Point("one", error, seconds, size)
        for error, seconds, size in ((0.0, 1e-3, 2**20), (0.5, 1e-4, None))
    ]
    by_time, by_memory = comparison_figure({"two": rows}).axes
    assert [len(axes.lines) for axes in (by_time, by_memory)] == [2, 1]
    assert np.isclose(by_time.lines[1].get_xdata()[0], 0.1)


@pytest.mark.parametrize("wrong", ["problems=", "examples=10", "repeats=0", "problems=moon"])
def test_what_is_refused(wrong, tmp_path, capsys):
    command = ["run", "advisor", "--set", wrong, "--out", str(tmp_path / "run")]
    assert invoke(command, (EXPERIMENT.listing,)) == 2
    assert wrong.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
