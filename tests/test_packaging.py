"""Both wheels: built, complete, and sufficient in an environment that holds nothing else."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = {"metastep": "metastep", "metastep-lab": "metastep_lab"}
# Where the name of a distribution is not that of what it holds.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "annotated_types": "annotated-types",
    "sklearn": "scikit-learn",
    "metastep_lab": "metastep-lab",
}
# Imported inside functions only, and named by an extra.
OPTIONAL = {"torch", "torchax", "transformers", "ray", "cleanlab"}


def requirements(project):
    """Return the names that a distribution declares, those of its extras apart."""
    declared = tomllib.loads((ROOT / "packages" / project / "pyproject.toml").read_text())
    name = lambda text: re.match(r"[A-Za-z0-9_-]+", text)[0].lower()
    extras = declared["project"]["optional-dependencies"].values()
    return (
        {name(one) for one in declared["project"]["dependencies"]},
        {name(one) for extra in extras for one in extra},
    )


def imported(project):
    """Return the distributions that the modules of a project import."""
    found = set()
    for path in (ROOT / "packages" / project / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    own = {PROJECTS[project], *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(name, name) for name in found - own}


@pytest.mark.parametrize("project", PROJECTS)
def test_what_is_imported_is_declared(project):
    declared, extras = requirements(project)
    if project == "metastep-lab":
        declared |= requirements("metastep")[0]
    assert imported(project) - OPTIONAL <= declared
    assert imported(project) & OPTIONAL <= extras | requirements("metastep")[1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    projects = [str(ROOT / "packages" / project) for project in PROJECTS]
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    run(sys.executable, "-m", "pip", *build, *projects)
    return sorted(folder.glob("*.whl"))


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheels_hold_every_file_of_the_sources(wheels):
    for wheel, project in zip(wheels, PROJECTS, strict=True):
        source = ROOT / "packages" / project / "src"
        files = {
            str(path.relative_to(source))
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert held == files, wheel.name


USE = """
import sys, jax, metastep as ms, metastep.anchors, metastep.learned, metastep.sklearn
assert ms.__file__.startswith(sys.prefix), ms.__file__
one = jax.numpy.ones(1)
problem = ms.QuadraticProblem(one[None], one[None], one, lambda w, outer: w.sum(), 0.1, 3)
print(ms.hypergradient(problem, one, ms.Reverse(), key=jax.random.key(0)).value)
"""


def environment(folder):
    """Make an environment; return its Python and how it installs."""
    run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    return python, (python, "-m", "pip", "install", "--quiet", "--no-compile", *constraints)


def test_the_wheels_work_without_the_sources(wheels, tmp_path):
    """Third-party packages come from this environment: the test needs no network."""
    python, install = environment(tmp_path / "env")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    run(*install, "--no-index", "--no-deps", *map(str, wheels))
    assert float(run(python, "-c", USE, cwd=tmp_path)) == pytest.approx(1.0)
    assert "hypercleaning" in run(str(Path(python).with_name("metastep")), "list", cwd=tmp_path)


def test_the_library_needs_no_laboratory_and_brings_what_it_needs(wheels, tmp_path):
    """The environment is empty: pip brings the dependencies."""
    python, install = environment(tmp_path / "env")
    run(*install, str(wheels[0]))
    assert float(run(python, "-c", USE, cwd=tmp_path)) == pytest.approx(1.0)
    listed = run(python, "-m", "pip", "list")
    assert not [name for name in ("matplotlib", "bokeh", "pandas", "pyarrow") if name in listed]
    run(*install, *map(str, wheels))
    assert "hypercleaning" in run(str(Path(python).with_name("metastep")), "list", cwd=tmp_path)
