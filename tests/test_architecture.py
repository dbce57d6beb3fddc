"""The rules of CONTRIBUTING.md that a machine can check, read off the syntax trees."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import metastep
from metastep_lab.catalog import CATALOG
from metastep_lab.experiment import load

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "packages" / "metastep" / "src", ROOT / "packages" / "metastep-lab" / "src")
FILES = sorted(path for source in SOURCES for path in source.rglob("*.py"))
ROW = (
    "types",
    "trees",
    "results",
    "files",
    "compilation",
    "checks",
    "explained",
    "rounding",
    "fingerprint",
)
BOTTOM = {f"metastep.{name}" for name in ROW}
PAPERS = {"wang2021", "shaban2019", "bernacchia2021", "wu2022", "studies"}
EXPERIMENTS = {"catalog", "experiment", "configuration", "tables", "claims", "printed", "parts"}

# A layer may import itself, the layers named here, and the bottom row. The longest prefix decides.
LIBRARY = {
    "types": set(),
    "checks": set(),
    "trees": set(),
    "results": set(),
    "files": set(),
    "compilation": set(),
    "explained": set(),
    "fingerprint": set(),
    "rounding": set(),
    "progress": set(),
    "step_sizes": {"types"},
    "saving": set(),
    "schedules": set(),
    "tasks": set(),
    "optimizers": {"types"},
    "problems.base": set(),
    "problems": {"tasks"},
    "estimators": {"problems.base", "problems.mixed", "schedules"},
    "driven": {
        "estimators",
        "problems.base",
        "problems.batches",
        "problems.mixed",
        "progress",
        "saving",
        "schedules",
    },
    "diagnosis": {"estimators", "problems.base", "problems.mixed", "schedules"},
    "bilevel": {"estimators", "problems"},
    "minimize": {"estimators", "problems.base", "problems.batches", "progress", "saving"},
    "attribution": {"diagnosis", "minimize", "estimators", "problems.base", "saving"},
    "learned": {"optimizers", "problems.base", "problems.mixed", "minimize", "saving"},
    "curvature": set(),
    "pac_bayes": {"curvature"},
    "sparse_coding": set(),
    "anchors": set(),
    "interop": set(),
    "sklearn": {"sparse_coding", "tasks", "problems", "estimators", "minimize"},
}
LABORATORY = {
    "errors": set(),
    "catalog": set(),
    "theory": set(),
    "data": set(),
    "figures": set(),
    "terminal": {"catalog"},
    "configuration": set(),
    "tables": set(),
    "claims": {"tables"},
    "printed": {"tables"},
    "experiment": {"catalog", "figures", "tables", "claims", "printed"},
    "parts": {"experiment", "tables"},
    "runs": {*EXPERIMENTS, "figures", "terminal", "errors"},
    "report": {"runs", "experiment", "figures", "terminal", "errors"},
    "sweep": {"runs", "experiment", "configuration", "catalog", "report", "terminal", "errors"},
    "cleaning": {"runs", "report", "terminal", "errors", "tables"},
    "command_examples": set(),
    "data_commands": {"data", "configuration", "terminal", "errors"},
    "doctor": {"data", "runs", "terminal", "errors"},
    **{paper: {*EXPERIMENTS, "figures", "data", "theory"} for paper in PAPERS},
    "commands": {
        "catalog",
        "runs",
        "report",
        "sweep",
        "cleaning",
        "data_commands",
        "doctor",
        "terminal",
        "errors",
    },
    "cli": {"catalog", "command_examples", "commands", "terminal", "errors"},
    "__main__": {"cli"},
}
ALLOWED = {
    **{f"metastep.{name}": {f"metastep.{one}" for one in below} for name, below in LIBRARY.items()},
    **{
        f"metastep_lab.{name}": {"metastep", *(f"metastep_lab.{one}" for one in below)}
        for name, below in LABORATORY.items()
    },
}
ROOTS = ("metastep", "metastep_lab")
HEAVY = ("matplotlib", "bokeh", "pandas", "pyarrow", "typer", "joblib", "sklearn", "torch")


def module_of(path):
    source = next(source for source in SOURCES if path.is_relative_to(source))
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def within(module, layer):
    return module == layer or module.startswith(layer + ".")


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imported(path):
    """Return the modules that a file imports; `from package import name` counts as both."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module in ROOTS:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_flow_down(path):
    module = module_of(path)
    if module in ROOTS:
        return
    layer = max((name for name in ALLOWED if within(module, name)), key=len, default=None)
    assert layer, f"{module} belongs to no layer; a new paper's folder is one more name in PAPERS"
    allowed = ALLOWED[layer] | BOTTOM | {layer}
    wrong = {
        name
        for name in imported(path)
        if name.split(".")[0] in ROOTS and not any(within(name, ok) for ok in allowed)
    }
    assert not wrong, f"{module} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_imports_neither_the_laboratory_nor_what_draws(path):
    module, text = module_of(path), path.read_text()
    first = {name.split(".")[0] for name in imported(path)}
    if within(module, "metastep"):
        assert not first & {"metastep_lab", "matplotlib", "bokeh", "pandas", "pyarrow", "typer"}
    elif not within(module, "metastep_lab.figures"):
        assert "matplotlib" not in first
    assert "jax._src" not in text and "equinox.internal" not in text


def loaded_by(code):
    """Return the packages that a new process has loaded after some code."""
    code += "; import sys; print(); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_library_loads_nothing_heavy():
    assert not loaded_by("import metastep") & {*HEAVY, "metastep_lab"}


def test_every_part_is_an_attribute():
    parts = {name.split(".")[0] for name in LIBRARY} - {"estimators", "problems.base", "problems"}
    code = "import metastep as ms; print([getattr(ms, name).__name__ for name in {parts}])"
    assert loaded_by(code.format(parts=sorted(parts))) > {"metastep", "sklearn"}
    assert not hasattr(metastep, "attributions")


@pytest.mark.parametrize(
    "arguments", (["list"], ["--help"], ["run", "--help"], ["--version"]), ids=str
)
def test_commands_that_compute_nothing_load_nothing_that_computes(arguments):
    code = f"from metastep_lab import cli; cli.invoke({arguments!r}, cli.CATALOG)"
    assert not loaded_by(code) & {*HEAVY, "jax", "scipy", "metastep"} - {"typer"}


def test_every_experiment_is_the_one_that_the_catalogue_names():
    for one in CATALOG:
        assert load(one).listing is one


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_sizes(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            body = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            signature = node.body[0].lineno - node.lineno
            assert body - signature <= 60, f"{node.name} has {body - signature} lines"


def test_folders_are_small():
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {file.parent for file in FILES}}
    assert not {str(folder): count for folder, count in counts.items() if count > 20}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_names_have_docstrings(path):
    tree = parsed(path)
    assert ast.get_docstring(tree), "the module says what it is about"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        assert not public or ast.get_docstring(node), node.name


def test_few_type_errors_are_ignored():
    ignored = sum(path.read_text().count("pyright: ignore") for path in FILES)
    assert ignored <= 10


def test_importing_changes_no_global_setting():
    for path in FILES:
        text = path.read_text()
        assert "jax.config.update" not in text, path
        assert not re.search(r"os\.environ\[[^]]*\] =", text), path


def test_versions_are_pinned_without_addresses():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert name and version and "/" not in line, line


def test_a_relative_tolerance_is_alone_or_says_what_goes_with_it():
    """NumPy adds an absolute 1e-8, which decides for small numbers."""
    missing = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            close = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if close and node.func.attr in ("isclose", "allclose"):
                given = {keyword.arg for keyword in node.keywords}
                if "rtol" in given and "atol" not in given:
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not missing


TABLE = "rows of one table of tests"
PRIVATE = "a part of the public function that is tested"
# Modules of the library without a test file at the same path: the file that tests them, and why.
TESTED_ELSEWHERE = {
    "anchors.bulk": ("anchors/test_transfer.py", "its anchors are judged by the transfer"),
    "anchors.checks": ("anchors/test_fit.py", PRIVATE),
    "anchors.synthetic": ("anchors/test_transfer.py", "the task of these tests"),
    "attribution.queries": ("attribution/test_attribute.py", PRIVATE),
    "attribution.units": ("attribution/test_attribute.py", PRIVATE),
    "bilevel": ("bilevel/test_solvers.py", TABLE),
    "bilevel.oracles": ("bilevel/test_solvers.py", PRIVATE),
    "bilevel.state": ("bilevel/test_solvers.py", PRIVATE),
    "curvature.eigen": ("curvature/test_spectra.py", TABLE),
    "curvature.eigen.method": ("curvature/test_spectra.py", PRIVATE),
    "curvature.layers.findings": ("curvature/layers/test_capture.py", PRIVATE),
    "curvature.layers.kfac": ("curvature/test_operators.py", TABLE),
    "curvature.layers.kronecker": ("curvature/test_operators.py", TABLE),
    "curvature.layers.layerwise": ("curvature/test_operators.py", TABLE),
    "curvature.layers.layouts": ("curvature/layers/test_capture.py", PRIVATE),
    "curvature.layers.tracing": ("curvature/layers/test_capture.py", PRIVATE),
    "curvature.operators.base": ("curvature/test_spectra.py", "the matrix of these tests"),
    "curvature.operators.hessian": ("curvature/test_operators.py", TABLE),
    "curvature.operators.risk": ("curvature/layers/test_capture.py", "what layers are found in"),
    "curvature.random.stochastic": ("curvature/test_spectra.py", TABLE),
    "diagnosis": ("diagnosis/test_diagnose.py", PRIVATE),
    "driven": ("driven/test_driven.py", PRIVATE),
    "estimators.base": ("estimators/test_trust.py", TABLE),
    "estimators.central_differences": ("estimators/test_complex.py", TABLE),
    "estimators.evolution": ("estimators/test_sampled.py", TABLE),
    "estimators.forward": ("estimators/test_exact.py", TABLE),
    "estimators.growth": ("estimators/test_scaled.py", PRIVATE),
    "estimators.persistent": ("estimators/test_sampled.py", TABLE),
    "estimators.random_directions": ("estimators/test_sampled.py", TABLE),
    "estimators.reverse": ("estimators/test_exact.py", TABLE),
    "estimators.widened": ("estimators/test_precision.py", PRIVATE),
    "files": ("learned/test_saving.py", PRIVATE),
    "learned.features": ("learned/test_learned.py", TABLE),
    "learned.hyperparameters": ("learned/test_learned.py", TABLE),
    "learned.lstm": ("learned/test_learned.py", TABLE),
    "learned.meta_state": ("learned/test_meta_training.py", PRIVATE),
    "learned.mlp_optimizer": ("learned/test_learned.py", TABLE),
    "learned.segment": ("learned/test_meta_training.py", PRIVATE),
    "learned.setting": ("learned/test_meta_training.py", PRIVATE),
    "minimize.driving": ("minimize/test_minimize.py", PRIVATE),
    "minimize.loop": ("minimize/test_minimize.py", PRIVATE),
    "pac_bayes.basis": ("pac_bayes/test_posterior.py", "the coordinates of a posterior"),
    "pac_bayes.certify": ("pac_bayes/test_certificate.py", "it makes the certificate"),
    "pac_bayes.errors": ("pac_bayes/test_posterior.py", PRIVATE),
    "pac_bayes.examples": ("pac_bayes/test_certificate.py", "the data that it is from"),
    "pac_bayes.optimize": ("pac_bayes/test_posterior.py", "what it optimizes is the posterior"),
    "problems.averaged": ("problems/test_maml.py", "the average over tasks"),
    "problems.base": ("problems/test_training.py", TABLE),
    "problems.linear_map": ("problems/test_mixed.py", PRIVATE),
    "problems.quadratic": ("estimators/test_exact.py", "a problem of the table of estimators"),
    "problems.residuals": ("estimators/test_log_domain.py", "the problem of this estimator"),
    "results": ("estimators/test_trust.py", TABLE),
    "sklearn._fold_training": ("sklearn/test_hypercleaned_model.py", PRIVATE),
    "sklearn._linear_classifier": ("sklearn/test_hypercleaned_classifier.py", PRIVATE),
    "sklearn._parts": ("sklearn/test_hypergradient_estimators.py", PRIVATE),
    "sklearn._regularization": ("sklearn/test_hypergradient_estimators.py", PRIVATE),
    "sklearn._weighted_ridge": ("sklearn/test_hypercleaned_regressor.py", PRIVATE),
    "sklearn._weighted_training": ("sklearn/test_hypercleaned_classifier.py", PRIVATE),
    "sklearn.hypergradient_logistic_regression": (
        "sklearn/test_hypergradient_estimators.py",
        TABLE,
    ),
    "sklearn.hypergradient_ridge": ("sklearn/test_hypergradient_estimators.py", TABLE),
    "sparse_coding.pursuit_forms": ("sparse_coding/test_matching_pursuit.py", PRIVATE),
    "sparse_coding.pursuit_searches": ("sparse_coding/test_matching_pursuit.py", PRIVATE),
    "sparse_coding.synthetic": ("sparse_coding/test_recovery.py", "the signals of these tests"),
    "tasks.stored_twice": ("tasks/test_classification.py", "the storage of this task"),
    "types": ("../conftest.py", "aliases, which the runtime type checker of the tests uses"),
}
MODULES = {module_of(path): path for path in FILES if path.name != "__init__.py"}


def own_tests(module):
    """Where the tests of a module of the library are expected."""
    *folders, name = module.split(".")
    return ROOT.joinpath("tests", *folders, f"test_{name.lstrip('_')}.py")


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "metastep")])
def test_every_module_of_the_library_is_tested_at_its_path_or_where_the_table_says(module):
    if own_tests(module).exists():
        return
    listed = [name for name in TESTED_ELSEWHERE if within(module, f"metastep.{name}")]
    assert listed, f"{own_tests(module)} is missing"
    file, reason = TESTED_ELSEWHERE[max(listed, key=len)]
    tests = (ROOT / "tests" / "metastep" / file).read_text()
    tree = parsed(MODULES[module])
    public = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    named = any(re.search(rf"\b{name}\b", tests) for name in public)
    assert named or reason == PRIVATE or not public, f"{file} names none of {public}"


def test_the_table_of_other_tests_is_needed():
    for name in TESTED_ELSEWHERE:
        modules = [module for module in MODULES if within(module, f"metastep.{name}")]
        assert any(not own_tests(module).exists() for module in modules), name
