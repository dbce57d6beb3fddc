"""Numbers that no experiment can compute with: every field of every experiment, from the catalogue.

Runs with them are in `test_large_numbers.py`.
"""

import pickle
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from metastep_lab.catalog import CATALOG
from metastep_lab.cli import invoke
from metastep_lab.configuration import LARGEST_INTEGER
from metastep_lab.errors import RefusedError
from metastep_lab.experiment import load
from metastep_lab.runs.choosing import configure


def fields_of(kind):
    """The names of the experiments, each with its fields that hold numbers of a kind."""
    for one in CATALOG:
        config = load(one).config
        kinds = get_type_hints(config)
        for field in fields(config):
            if kind in (kinds[field.name], *get_args(kinds[field.name])):
                yield one.name, field.name


INTEGERS = list(fields_of(int))
FLOATS = list(fields_of(float))


@pytest.mark.parametrize("one", CATALOG, ids=lambda one: one.name)
def test_experiments_travel_to_other_processes(one):
    assert pickle.loads(pickle.dumps(load(one))) is load(one)


def test_the_tables_are_not_empty():
    assert {name for name, _ in INTEGERS} == {one.name for one in CATALOG}
    assert ("hypercleaning", "step_size") in FLOATS and ("least-squares", "grid") in FLOATS


@pytest.mark.parametrize(("name", "field"), INTEGERS)
def test_integers_beyond_32_bits_are_refused_in_one_line(name, field, tmp_path, capsys):
    for value in (2**31, 2**63, 99999999999999999999, -(2**31), 10**400):
        directory = tmp_path / "run"
        command = ["run", name, "--set", f"{field}={value}", "--out", str(directory)]
        assert invoke(command, CATALOG) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"metastep: {field} is {str(value)[:100]}; allowed: integers from ")
        assert error.endswith(f" to {LARGEST_INTEGER}\n") and error.count("\n") == 1
        assert not directory.exists()


@pytest.mark.parametrize(("name", "field"), FLOATS)
def test_huge_numbers_make_a_configuration_or_one_line(name, field):
    experiment = load(next(one for one in CATALOG if one.name == name))
    for value in ("1e308", "-1e308", "5e-324"):
        try:
            assert configure(experiment, "quick", [f"{field}={value}"]) is not None
        except RefusedError as error:
            assert field in str(error) and "\n" not in str(error)
