"""The documentation: it builds, its code runs and prints what it says, its commands exist."""

import contextlib
import importlib.util
import inspect
import io
import math
import re
import shlex
import zlib

import pytest
import typer
from mkdocs.commands.build import build
from mkdocs.config import load_config

import metastep as ms
from metastep_lab.catalog import CATALOG, listing
from metastep_lab.cli import build_app
from metastep_lab.configuration import parse_settings
from metastep_lab.data.fetching import HOMES
from metastep_lab.experiment import load
from tests.docs.pages import GALLERY, PAGES, ROOT, blocks, gallery

# Python runs; `output` is what the block before it prints; `sh` is read; `text` is not.
KINDS = {"python", "output", "sh", "bash", "text"}
LIBRARY = ROOT / "packages" / "metastep" / "src" / "metastep"
LABORATORY = ROOT / "packages" / "metastep-lab" / "src" / "metastep_lab"
DOCUMENTED = [
    "metastep",
    "metastep.learned.setting",
    "metastep.optimizers",
    "metastep.problems.objectives",
    "metastep.step_sizes",
    "metastep_lab.data",
    *sorted(f"metastep.{path.parent.name}" for path in LIBRARY.glob("*/__init__.py")),
]
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'> ]+)"""
    r"""|(?:url\(|@import )["']?((?:https?:)?//[^"') ]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site strictly: a missing page, link or docstring target is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_nothing_is_loaded_from_elsewhere(site):
    pages = [path for kind in ("*.html", "*.css") for path in site.rglob(kind)]
    assert len(pages) > 30
    for path in pages:
        found = [a or b for a, b in LOADED.findall(path.read_text())]
        assert not found, path


def public_names(name):
    """Return what a module defines or re-exports for users."""
    module = importlib.import_module(name)
    ours = lambda value: getattr(value, "__module__", "").startswith("metastep")
    named = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    if hasattr(module, "__all__"):
        named = {key: named[key] for key in module.__all__}
    return [pair for pair in named.items() if not inspect.ismodule(pair[1]) and ours(pair[1])]


@pytest.mark.parametrize("module", DOCUMENTED)
def test_the_reference_is_complete(site, module):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    described = {line.split()[0] for line in inventory.splitlines()}
    missing = []
    for name, value in public_names(module):
        home = f"{value.__module__}.{getattr(value, '__qualname__', name)}"
        if not {f"{module}.{name}", home} & described:
            missing.append(name)
    assert not missing


def same(printed, expected):
    """Whether two texts agree word for word, and their numbers as `close` has it."""
    words, wanted = printed.split(), expected.split()
    return len(words) == len(wanted) and all(
        a == b or close(a.strip("(),[]%"), b.strip("(),[]%"))
        for a, b in zip(words, wanted, strict=True)
    )


def close(a, b):
    """Other processors sum in another order: 2 %, or one unit of the last decimal that is shown."""
    _, point, decimals = b.partition(".")
    last = 1.01 * 10.0 ** -len(decimals) if point and decimals.isdecimal() else 1e-6
    with contextlib.suppress(ValueError):
        return math.isclose(float(a), float(b), rel_tol=0.02, abs_tol=last)
    return False


NEEDS = dict.fromkeys(
    ("docs/guides/models-of-pytorch.md", "docs/guides/certify-your-model.md"), "torchax"
)
WITH_PYTHON = [name for name in PAGES if any(b.kind == "python" for b in blocks(PAGES[name]))]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    if page in NEEDS and importlib.util.find_spec(NEEDS[page]) is None:
        pytest.skip(f"{NEEDS[page]} is missing")
    monkeypatch.chdir(tmp_path)
    namespace, printed = {"__name__": "page"}, ""
    for block in blocks(PAGES[page]):
        where = f"{page}, line {block.line}"
        if block.kind == "python":
            code = compile("\n" * (block.line - 1) + block.text, page, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, namespace)
            printed = output.getvalue()
        elif block.kind == "output":
            assert same(printed, block.text), f"{where}: the code prints\n{printed}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    application = typer.main.get_command(build_app(CATALOG))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for block in blocks(PAGES[page]):
        assert block.kind in KINDS or page == "README.md", f"{page}, line {block.line}"
    text = PAGES[page].read_text()
    lines = re.findall(r"`((?:metastep|make|python) [^`\n]+)`", text)
    for block in blocks(PAGES[page]):
        lines += block.text.splitlines() if block.kind in ("sh", "bash", "") else []
    for words in (shlex.split(line.split("  ")[0], comments=True) for line in lines):
        match words:
            case ["metastep", command, *arguments]:
                check_command(application, command, arguments)
            case ["make", target]:
                assert target in targets
            case ["python", file, *_] if "/" in file:
                assert (ROOT / file).exists(), file


def test_the_page_of_data_sets_names_every_experiment_that_reads_one():
    text = PAGES["docs/guides/data-sets.md"].read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", text, flags=re.MULTILINE))
    assert set(rows) == set(HOMES)
    for one in CATALOG:
        for preset in load(one).presets.values():
            named = {getattr(preset, field, None) for field in ("dataset", "text")}
            for name in named & set(rows):
                assert f"`{one.name}`" in rows[name], (one.name, name)


def check_command(application, command, arguments):
    """Parse a command line as typer does, without running it, and look at what it names."""
    assert command in application.commands
    if not arguments:  # prose names a command so
        return
    if isinstance(application.commands[command], typer.core.TyperGroup):
        check_command(application.commands[command], *arguments[:1], arguments[1:])
        return
    found = application.commands[command].make_context(command, list(arguments))
    if command == "run":
        experiment = load(listing(found.params["name"]))
        parse_settings(experiment.presets[found.params["preset"]], found.params["settings"] or [])
    if command == "fetch":
        assert found.params["name"] in {*HOMES, "NAME"}


def test_claims_that_are_named_exist():
    source = "\n".join(path.read_text() for path in LABORATORY.glob("*/*/*.py"))
    # An identifier may have one part that is filled in, such as f"{method}-below-base".
    written = re.findall(r'"((?:\{\w+\}(?=-))?[a-z0-9-]+)"', source)
    known = re.compile("|".join({re.sub(r"\{\w+\}", "[a-z0-9-]+", text) for text in written}))
    named = [
        claim
        for path in PAGES.values()
        for sentence in re.findall(
            r"\bclaims? (`[a-z0-9-]+`(?: and `[a-z0-9-]+`)?)", path.read_text()
        )
        for claim in re.findall(r"`([^`]+)`", sentence)
    ]
    assert len(named) > 15
    assert [claim for claim in named if not known.fullmatch(claim)] == []


def test_the_gallery_lists_every_experiment():
    assert GALLERY.read_text() == gallery(), "run: python -m tests.docs.pages"


def test_the_result_table_names_every_result():
    text = (ROOT / "docs" / "concepts.md").read_text()
    missing = [name for name in ms.RESULTS._name_to_item if f"`{name}`" not in text]
    assert not missing
