"""The smallest run of every experiment with a step size that no floating-point number survives."""

from dataclasses import fields
from typing import get_args, get_type_hints

import numpy as np
import pytest

from metastep_lab.catalog import CATALOG
from metastep_lab.cli import invoke
from metastep_lab.experiment import load
from metastep_lab.runs.divergence import ADVICE
from tests.metastep_lab.cases import STEP_SIZES, TINY


def write_characters(folder):
    """Eight characters of noise, for `one-shot`, in the form of the subset of Omniglot."""
    packed = np.random.default_rng(0).integers(0, 256, (8, 20, 105, 14)).astype(np.uint8)
    names = np.array([f"character{number}" for number in range(8)])
    arrays = {"packed": packed, "alphabets": np.full(8, "Greek"), "characters": names}
    np.savez(folder / "omniglot-242.npz", **arrays)


def test_no_step_size_is_left_out():
    assert set(TINY) == {one.name for one in CATALOG}
    for one in CATALOG:
        config = load(one).config
        kinds = get_type_hints(config)
        rates = {
            field.name
            for field in fields(config)
            if float in (kinds[field.name], *get_args(kinds[field.name]))
            and any(word in field.name for word in ("step_size", "rate", "step_scale"))
        }
        # Two only name rates that are run, two must hold 0.
        rates -= {"paper_rate", "paper_test_rate", "train_rates", "trained_rates"}
        assert rates <= set(STEP_SIZES.get(one.name, ())) | {"test_rates"}, one.name


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, rates in STEP_SIZES.items() for field in rates]
)
def test_a_run_with_a_huge_step_size_says_that_it_diverged(name, field, tmp_path, capsys):
    settings = [setting for setting in TINY[name].split() if not setting.startswith(f"{field}=")]
    flags = [f"--set={setting}" for setting in (*settings, f"{field}=1e308")]
    write_characters(tmp_path)
    out = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    status = invoke(["run", name, *flags, *out], CATALOG)
    captured = capsys.readouterr()
    assert "Warning" not in captured.err
    if status == 0:
        assert captured.err == ""
        last = captured.out.splitlines()[-1]
        assert last.startswith("The run diverged: ") and last.endswith(f"{ADVICE}.")
    else:
        assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
        assert field in captured.err or ADVICE in captured.err
