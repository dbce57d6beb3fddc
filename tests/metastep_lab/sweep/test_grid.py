"""Grids and seeds: every combination once, and what is refused."""

import pytest

from metastep_lab.errors import RefusedError
from metastep_lab.sweep.grid import LARGEST_SWEEP, cells, read_seeds
from tests.metastep_lab.sweep.light_experiment import EXPERIMENT


def keys(grid, seeds=None, settings=(), preset="quick"):
    return [cell.entry.key for cell in cells(EXPERIMENT, preset, settings, grid, seeds)]


def test_every_combination_once_with_its_configuration():
    found = cells(EXPERIMENT, "quick", ["steps=7"], ["rate=0.1,2", "mode=plain,flaky"], "3:5")
    content = [(one.config.rate, one.config.mode, one.entry.seed) for one in found]
    assert content == [(r, m, s) for r in (0.1, 2.0) for m in ("plain", "flaky") for s in (3, 4)]
    assert {one.config.steps for one in found} == {7}
    assert len({one.entry.key for one in found}) == 8
    assert found[0].entry.values == {"rate": 0.1, "mode": "plain"}
    assert found[0].settings == ("steps=7", "rate=0.1", "mode=plain")


def test_lists_are_separated_by_semicolons():
    found = cells(EXPERIMENT, "quick", (), ["windows=1,2;3"], None)
    assert [one.config.windows for one in found] == [(1, 2), (3,)]
    assert "windows=1+2,seed=0-" in found[0].entry.key


def test_a_name_depends_on_everything_that_matters_and_on_nothing_else():
    grid = ["rate=0.1,0.2", "steps=5,6"]
    assert keys(grid) == keys(grid)
    assert set(keys(grid)) == set(keys(["steps=6,5", "rate=1e-1,0.20"]))
    for other in (keys(grid, "1:2"), keys(grid, None, ["pause=1"]), keys(grid, None, (), "long")):
        assert not set(keys(grid)) & set(other)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:3", [0, 1, 2]), ("7", [7]), ("4,2", [4, 2]), ("5:6", [5])]
)
def test_seeds(text, seeds):
    assert list(read_seeds(text)) == seeds


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "3:",
        ":3",
        "5:5",
        "5:2",
        "a",
        "1,",
        "-1",
        "0:99999999999",
        "4294967296",
        "1.5",
        "1,9999999999,2",
    ],
)
def test_malformed_seeds(text):
    with pytest.raises(RefusedError, match="--seeds is"):
        read_seeds(text)


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ([], None, "the sweep is empty"),
        (["rate="], None, "--grid is 'rate='; allowed: field=value,value"),
        (["rate"], None, "--grid is 'rate'"),
        (["rte=1"], None, "unknown field 'rte' (did you mean 'rate'?)"),
        (["rate=0.1,x"], None, "rate is 'x'; allowed: a finite number"),
        (["rate=0.1,"], None, "rate is ''; allowed: a finite number"),
        (["rate=0.1", "steps=5,0"], None, "steps is 0; allowed: integers from 1 to 10000"),
        (["mode=plain,fast"], None, "mode is 'fast'; allowed: plain, failing"),
        (["rate=0.1,1e-1"], None, "the grid holds rate=0.1,seed=0 twice"),
        (["rate=0.1", "rate=0.2"], None, "rate is set twice"),
        (["pause=1"], None, "pause is set twice"),
        (["rate=1"], "2,2", "the grid holds rate=1.0,seed=2 twice"),
        (["rate=1"], f"0:{LARGEST_SWEEP + 1}", "the sweep has 100,001 runs"),
    ],
)
def test_impossible_grids(grid, seeds, message):
    with pytest.raises(RefusedError) as caught:
        cells(EXPERIMENT, "quick", ["pause=0"], grid, seeds)
    assert message in str(caught.value)
