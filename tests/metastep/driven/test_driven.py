"""Runs driven from outside: the number of one program, from any batches, through interruptions."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep import files
from metastep.driven import states as states_module
from tests.cases import PROBLEMS, TUNED_START
from tests.driven_run import EXAMPLES, HORIZON, OUTER, bits, problem, same_problem
from tests.helpers import relative_distance

ROOT = Path(__file__).resolve().parents[3]
KEY = jax.random.key(0)
REVERSE = {
    "mixed": ms.Reverse(ms.Binomial(3), mixed=True),
    "window-in-segments": ms.TruncatedReverse(11, checkpoint=4),
    "every-step": ms.Reverse(),
    "segments": ms.Reverse(7),
    "sqrt": ms.Reverse("sqrt"),
    "binomial": ms.Reverse("binomial"),
    "window": ms.TruncatedReverse(11),
}


def driven(batches=EXAMPLES, estimator=REVERSE["binomial"], horizon=HORIZON, **options):
    same = batches is EXAMPLES
    one = same_problem(horizon) if same else problem(ms.Batches(batches), horizon)
    return ms.driven_hypergradient(one, OUTER, estimator, key=KEY, **options)


@pytest.mark.parametrize("estimator", REVERSE.values(), ids=REVERSE)
def test_it_is_the_number_of_one_program(estimator, x64):
    inside = problem(lambda t, key: jnp.asarray(EXAMPLES)[t])
    expected = ms.hypergradient(inside, OUTER, estimator, key=KEY)
    found = driven(estimator=estimator)
    assert relative_distance(found.grad, expected.grad) < 1e-12
    assert relative_distance(found.value, expected.value) < 1e-12
    assert found.stats.keys() == expected.stats.keys() and found.result == expected.result
    for name, number in expected.stats.items():
        assert relative_distance(found.stats[name] + 2, number + 2) < 1e-12


@pytest.mark.parametrize("name", ["momentum-batches", "quadratic", "start-momentum-batches"])
def test_problems_without_batches_from_outside(name, x64, key):
    one, outer = (PROBLEMS | TUNED_START)[name]()
    expected = ms.hypergradient(one, outer, ms.Reverse(), key=key)
    found = ms.driven_hypergradient(one, outer, ms.Reverse("sqrt"), key=key)
    assert relative_distance(found.grad, expected.grad) < 1e-12


@pytest.mark.parametrize("given", [True, False], ids=["parameters", "buffers alone"])
@pytest.mark.parametrize("examples", [2, 3])
def test_problems_that_are_averaged_share_their_batches(examples, given, x64, key):
    """Two problems: the two examples of a batch are not one for each."""
    rows = np.sin(np.arange(8.0 * examples)).reshape(4, examples, 2)

    def one(start, batch):
        return ms.TrainingProblem(
            lambda w, outer, batch, _: (jnp.sum((w - outer * batch) ** 2), _),
            lambda w, outer, start: jnp.sum(jnp.sin(w + start)),
            start if given else lambda outer, key: jax.random.normal(key, (2,)),
            optax.sgd(0.1),
            4,
            batch,
            start,
        )

    stack = lambda batch: ms.Averaged(
        eqx.filter_vmap(lambda start: one(start, batch))(jnp.array([[1.0, -1.0], [0.5, 2.0]]))
    )
    inside = stack(lambda t, key: jnp.asarray(rows)[t])
    expected = ms.hypergradient(inside, 0.4, ms.Reverse(), key=key)
    found = ms.driven_hypergradient(stack(ms.Batches(rows)), 0.4, ms.Reverse(), key=key)
    assert relative_distance(found.grad, expected.grad) < 1e-12
    assert relative_distance(found.value, expected.value) < 1e-12


def test_where_states_are_stored_changes_no_bit(tmp_path):
    expected = bits(driven(horizon=9))
    places = {"disk": {"directory": tmp_path / "disk"}}
    places["both"] = {"directory": tmp_path / "both", "memory": 100, "save_every": 0.0}
    places["other schedule"] = {"estimator": ms.Reverse(), "directory": tmp_path / "all"}
    for options in places.values():
        assert bits(driven(horizon=9, **options)) == expected
        left = {path.name for path in options["directory"].iterdir()}
        assert left == {"run", "estimate"}
    assert bits(driven(horizon=9, directory=tmp_path / "disk")) == expected  # read, not computed


class Crash(BaseException):
    """The end of a process, as far as one process can play it."""


def crash_at(monkeypatch, moment):
    """Let the `moment`-th change of a file, counted from 0, end the process; None: count."""
    count = [0]

    def counted(change):
        def changed(*arguments, **options):
            if count[0] == moment:
                raise Crash
            count[0] += 1
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(files.os, "replace", counted(os.replace))
    monkeypatch.setattr(states_module.Path, "unlink", counted(Path.unlink))
    return count


def check_crashes(memory, crashes, tmp_path):
    """Crash at `crashes` changes of files (None: at all of them), and go on; compare the bits."""
    one, estimator = same_problem(9), ms.Reverse(ms.Binomial(3))
    options = {"key": KEY, "memory": memory, "save_every": 0.0}
    run = lambda folder: ms.driven_hypergradient(one, OUTER, estimator, directory=folder, **options)
    with pytest.MonkeyPatch.context() as patch:
        count = crash_at(patch, None)
        expected = bits(run(tmp_path / "whole"))
    moments = range(count[0]) if crashes is None else np.linspace(2, count[0] - 3, crashes)
    for moment in map(int, moments):
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, moment)
            with pytest.raises(Crash):
                run(folder)
        assert bits(run(folder)) == expected
        assert {path.name for path in folder.iterdir()} == {"run", "estimate"}


def test_a_crash_between_files_loses_no_bit(tmp_path):
    check_crashes(64, 3, tmp_path)


@pytest.mark.parametrize("memory", [0, 64])
def test_a_crash_at_any_change_of_a_file_loses_no_bit(memory, tmp_path):
    check_crashes(memory, None, tmp_path)


def test_an_interruption_by_ctrl_c_loses_no_step(tmp_path):
    """Whenever it comes, and however long ago the last saving was."""
    asked, stop = [], [None]  # batches that were loaded; after how many to interrupt

    def load(t):
        if len(asked) == stop[0]:
            raise KeyboardInterrupt
        asked.append(t)
        return EXAMPLES[t]

    one, estimator = problem(ms.Batches(load), 9), REVERSE["binomial"]
    run = lambda folder: ms.driven_hypergradient(
        one, OUTER, estimator, key=KEY, directory=tmp_path / str(folder)
    )
    expected, whole = bits(run("whole")), len(asked)
    for moment in (7, 18):
        asked.clear()
        stop[0] = moment
        with pytest.raises(KeyboardInterrupt):
            run(moment)
        stop[0] = None
        assert bits(run(moment)) == expected
        # Each call looks at the first batch several times, for its shapes and for its digest.
        assert len(asked) <= whole + 4


def test_progress_and_the_plan_are_shown(capsys):
    driven(horizon=3, progress=True)
    shown = capsys.readouterr().out
    assert "3 steps in 3 segments" in shown
    driven(horizon=3)
    assert not capsys.readouterr().out


def killed_again_and_again(directory, kills, savings):
    """Kill a run by SIGKILL, several times after a random number of savings; return its bits."""
    chance = random.Random(0)
    command = [sys.executable, "-m", "tests.driven_run", str(directory)]
    for _ in range(kills):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(chance.randint(*savings)):
                line = child.stdout.readline()
            assert line, "the run was over before it was killed"
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_killed_in_both_passes_it_ends_with_the_same_bits(tmp_path):
    assert killed_again_and_again(tmp_path / "run", 2, (30, 50)) == bits(driven())


def test_fifty_kills(tmp_path):
    assert killed_again_and_again(tmp_path / "run", 50, (3, 5)) == bits(driven())
