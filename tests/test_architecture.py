"""The rules of CONTRIBUTING.md that a machine can check, read off the syntax trees."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "metastep"
FILES = sorted(PACKAGE.rglob("*.py"))
BOTTOM = {"types", "trees", "results", "files", "compilation", "explained"}

# A layer may import itself, the layers named here, and the bottom row. The longest prefix decides.
ALLOWED = {
    "types": set(),
    "trees": set(),
    "results": set(),
    "files": set(),
    "compilation": set(),
    "explained": set(),
    "step_sizes": set(),
    "checkpoint": set(),
    "theory": set(),
    "data": set(),
    "report": {"experiments.base"},
    "bilevel": {"hypergradient", "problems"},
    "sparse_coding": set(),
    "anchors": set(),
    "curvature": set(),
    "sklearn": {
        "sparse_coding",
        "tasks",
        "problems",
        "objectives",
        "hypergradient",
        "outer",
        "outer_loop",
        "theory",
    },
    "optimizers": set(),
    "tasks": set(),
    "objectives": set(),
    "problems.base": set(),
    "problems": {"tasks", "objectives", "optimizers"},
    "hypergradient": {"problems.base", "problems.mixed"},
    "outer_loop": {"hypergradient", "problems.base"},
    "outer": {"outer_loop", "hypergradient", "problems.base", "checkpoint"},
    "meta_training_segment": {"optimizers", "problems.base", "problems.mixed"},
    "meta_training_setting": {"meta_training_segment", "optimizers"},
    "meta_training": {
        "meta_training_setting",
        "meta_training_segment",
        "optimizers",
        "problems.base",
        "checkpoint",
        "outer",
    },
}
TOP = ("experiments", "sweep", "cli", "__init__", "__main__")


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def within(module, layer):
    return module == layer or module.startswith(layer + ".")


def imported(path):
    """Return the modules of this package that a file imports, relative to the package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "metastep":
            found += [f"metastep.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module)
    return {name.removeprefix("metastep.") for name in found if name.startswith("metastep.")}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_flow_down(path):
    module = module_of(path)
    if module == "" or any(within(module, top) for top in TOP):
        return
    layer = max((name for name in ALLOWED if within(module, name)), key=len)
    allowed = ALLOWED[layer] | BOTTOM | {layer}
    wrong = {name for name in imported(path) if not any(within(name, ok) for ok in allowed)}
    assert not wrong, f"{module} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_report_imports_matplotlib_and_only_data_and_cli_import_heavy_parts(path):
    text = path.read_text()
    if not within(module_of(path), "report"):
        assert "import matplotlib" not in text and "from matplotlib" not in text
    assert "jax._src" not in text and "equinox.internal" not in text


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_sizes(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            body = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            signature = node.body[0].lineno - node.lineno
            assert body - signature <= 60, f"{node.name} has {body - signature} lines"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
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
