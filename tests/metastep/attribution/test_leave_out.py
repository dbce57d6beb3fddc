"""Retraining without examples: the closed form, resuming, and what is refused."""

import hashlib

import jax
import numpy as np
import pytest

from metastep.attribution import leave_out, random_removals
from metastep.minimize import Checkpoint
from metastep.saving import CheckpointError
from tests.metastep.attribution.cases import ASKED, EXAMPLES, Ridge, fitted

KEY = jax.random.key(4)
pytestmark = pytest.mark.usefixtures("x64")


def test_leaving_one_out_is_the_closed_form():
    found = leave_out(Ridge(), EXAMPLES, ASKED, left_out=np.eye(EXAMPLES, dtype=bool), key=KEY)
    for removed, row in enumerate((None, *range(EXAMPLES))):
        weights = np.ones(EXAMPLES)
        if row is not None:
            weights[row] = 0
        solution, _ = fitted(weights)
        expected = (ASKED[0] @ solution - ASKED[1]) ** 2 / 2
        values = found.baseline if row is None else found.values[removed - 1]
        # After 600 steps (1 - 0.2 * 0.1)^600 = 5e-6 of the way are left at most.
        assert np.allclose(values, expected, rtol=0, atol=1e-4)
    assert np.array_equal(found.changes, found.values - found.baseline)


SHORT = Ridge(horizon=20)
MASKS = random_removals(EXAMPLES, 0.3, 9, jax.random.key(1))


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "removals", every=4)
    run = lambda **more: leave_out(
        SHORT, EXAMPLES, ASKED, left_out=MASKS, key=KEY, batch_size=3, **more
    )
    whole = run()
    module = __import__("sys").modules["metastep.attribution.leave_out"]
    retrain, calls = module._retrain, []

    def until_killed(*args):
        calls.append(args)
        if len(calls) == 3:
            raise Killed
        return retrain(*args)

    monkeypatch.setattr(module, "_retrain", until_killed)
    with pytest.raises(Killed):
        run(checkpoint=checkpoint)
    monkeypatch.setattr(module, "_retrain", lambda *args: calls.append(args) or retrain(*args))
    calls.clear()
    resumed = run(checkpoint=Checkpoint(checkpoint.path, every=4, resume=True))
    assert len(calls) == 2  # ten rows in batches of three; six were saved
    assert np.array_equal(resumed.values, whole.values)
    assert np.array_equal(resumed.baseline, whole.baseline)
    before = hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    again = run(checkpoint=Checkpoint(checkpoint.path, resume=True))
    assert len(calls) == 2 and np.array_equal(again.values, whole.values)
    assert hashlib.sha256(checkpoint.path.read_bytes()).hexdigest() == before

    with pytest.raises(FileExistsError, match="resume=True"):
        run(checkpoint=checkpoint)
    longer = Ridge(horizon=21)
    for training, masks in ((SHORT, ~MASKS), (longer, MASKS)):
        with pytest.raises(CheckpointError, match="its training, removals"):
            leave_out(
                training,
                EXAMPLES,
                ASKED,
                left_out=masks,
                key=KEY,
                batch_size=3,
                checkpoint=Checkpoint(checkpoint.path, resume=True),
            )


def test_indices_and_booleans_say_the_same():
    run = lambda left_out: leave_out(SHORT, EXAMPLES, ASKED, left_out=left_out, key=KEY)
    mask = np.zeros((2, EXAMPLES), bool)
    mask[0, [1, 5]] = mask[1, 7] = True
    assert np.array_equal(run([[1, 5], np.array([7])]).values, run(mask).values)


def test_random_removals_have_their_size():
    masks = random_removals(40, 0.05, 30, jax.random.key(0))
    assert masks.shape == (30, 40) and set(masks.sum(axis=1)) == {2}
    assert len(np.unique(masks, axis=0)) > 25
    assert random_removals(3, 0.01, 1, jax.random.key(0)).sum() == 1
    assert random_removals(3, 0.99, 1, jax.random.key(0)).sum() == 2


WRONG = {
    "no removal": ({"left_out": []}, "left_out is empty"),
    "an index too large": ({"left_out": [[EXAMPLES]]}, "left_out holds 12 to 12"),
    "a negative index": ({"left_out": [[-1]]}, "left_out holds -1"),
    "a mask of another length": ({"left_out": np.ones((1, 5), bool)}, "row of bool[5]"),
    "one array of indices": ({"left_out": np.array([1, 2])}, "row of int64[]"),
    "zeros and ones": ({"left_out": np.eye(EXAMPLES, dtype=int)}, "repeats an index; allowed are"),
    "floats": ({"left_out": [[0.5]]}, "left_out holds 0.5"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(change, words):
    arguments = {"problem": SHORT, "examples": EXAMPLES, "queries": ASKED, "left_out": [[0]]}
    with pytest.raises(ValueError) as caught:
        leave_out(**{**arguments, "key": KEY, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((5, 0.0, 1), "share is 0.0"), ((5, 1, 1), "share is 1"), ((1, 0.5, 1), "units is 1")],
)
def test_random_removals_refuse(arguments, words):
    with pytest.raises(ValueError, match=words):
        random_removals(*arguments, jax.random.key(0))
