"""Configurations of every experiment, and run directories with damaged files, by the hundred.

Each has a short form and a long one for `make test-slow`, as in `test_fuzz.py`.
"""

import json
import shutil
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metastep_lab.catalog import CATALOG
from metastep_lab.cli import invoke
from metastep_lab.configuration import config_as_json, config_from_json
from metastep_lab.errors import RefusedError
from metastep_lab.experiment import load
from metastep_lab.runs.choosing import configure
from metastep_lab.runs.running import Request, execute
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, TRAP, Config
from tests.test_fuzz import EDITS, SWEEP, edited

NUMBERS = st.one_of(
    st.integers(-3, 100).map(str),
    st.floats(-2, 2).map(repr),
    st.sampled_from(["1e-30", "1e30", "-0.0", "2147483647", "2147483648", "nan", "inf", "1_0"]),
)
WORDS = st.sampled_from(["", "none", "true", "false", "quick", "a b", "1;2", "=", "\N{FULL STOP}"])
LISTS = st.lists(st.one_of(NUMBERS, WORDS), max_size=4).map(",".join)


def choices(kind):
    """Return the words that a type names, in a tuple or beside None, too."""
    inside = [choice for part in get_args(kind) for choice in choices(part)]
    return list(get_args(kind)) if get_origin(kind) is Literal else inside


@st.composite
def requests(draw):
    """Draw an experiment, a preset and changes to it."""
    experiment = load(draw(st.sampled_from(CATALOG)))
    kinds = get_type_hints(experiment.config)
    names = [field.name for field in fields(experiment.config)]
    changes = []
    for name in draw(st.lists(st.sampled_from(names), max_size=4, unique=True)):
        named = [st.sampled_from(sorted(map(str, choices(kinds[name]))))] * bool(
            choices(kinds[name])
        )
        changes.append(f"{name}={draw(st.one_of(*named, NUMBERS, LISTS, WORDS))}")
    return experiment, draw(st.sampled_from(sorted(experiment.presets))), changes


def try_configurations(examples):
    """A configuration that a file gives back, or one line that names a field."""

    @settings(max_examples=examples, deadline=None)
    @given(requests())
    def attempt(request):
        experiment, _, changes = request
        try:
            config = configure(*request)
        except RefusedError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 1000
            assert any(name in line for name in get_type_hints(experiment.config)), line
        else:
            written = json.loads(json.dumps(config_as_json(config), allow_nan=False))
            assert config_from_json(experiment.config, written) == config, changes

    attempt()


def test_configurations():
    try_configurations(100)


def test_many_configurations():
    try_configurations(1000)


def files_of(folder):
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    return {name: path.read_bytes() for name, path in files_of(folder).items()}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Two sweeps of one run: a complete one, and one that was interrupted."""
    made = {}
    for name, stop in {"complete": None, "interrupted": 2}.items():
        made[name] = tmp_path_factory.mktemp(name)
        request = Request(EXPERIMENT, Config(steps=3), "quick", (), 0, made[name] / "runs" / "a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TRAP, "at", stop)
            try:
                execute(request)
            except KeyboardInterrupt:
                assert stop
        (made[name] / "sweep.json").write_text(json.dumps(SWEEP))
    return made


# What reads a run, by name: its arguments, and whether it may change the directory.
COMMANDS = {
    "check": (lambda sweep: ["check", f"{sweep}/runs/a"], False),
    "report": (lambda sweep: ["report", f"{sweep}/runs/a", "--out", f"{sweep}/page.html"], False),
    "status": (lambda sweep: ["sweep", "--status", f"{sweep}"], False),
    "resume": (
        lambda sweep: [
            "run",
            "fake-walk",
            "--set",
            "steps=3",
            "--out",
            f"{sweep}/runs/a",
            "--resume",
        ],
        True,
    ),
}


def damage_directories(sweeps, folder, capsys, examples):
    """Change bytes of one file of a run: one line or none, and nothing half-written."""
    sweep = folder / "sweep"

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.sampled_from(sorted(sweeps)),
        st.integers(0, 100),
        EDITS,
        st.sampled_from(sorted(COMMANDS)),
    )
    def damage(kind, which, edits, command):
        shutil.rmtree(sweep, ignore_errors=True)
        shutil.copytree(sweeps[kind], sweep)
        files = files_of(sweep)
        path = files[sorted(files)[which % len(files)]]
        path.write_bytes(edited(path.read_bytes(), edits))
        before = contents(sweep)
        arguments, writes = COMMANDS[command]
        assert invoke(arguments(sweep), (EXPERIMENT.listing,)) in (0, 1, 2)
        assert capsys.readouterr().err.count("\n") <= 1
        after = contents(sweep)
        page = after.pop(next(iter(sweep.glob("page.html")), sweep).relative_to(sweep), None)
        assert page is None or page.rstrip().endswith(b"</html>")
        assert not [name for name in after if "tmp" in name.name or "part" in name.suffix]
        if not writes:
            assert after == before

    damage()


def test_damaged_directories(sweeps, tmp_path, capsys):
    damage_directories(sweeps, tmp_path, capsys, 40)


def test_many_damaged_directories(sweeps, tmp_path, capsys):
    damage_directories(sweeps, tmp_path, capsys, 500)
