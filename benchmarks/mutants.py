"""Which small faults would the tests not notice?

Draws a fixed sample of mutants by cosmic-ray: in one line an operator, number, condition or
decorator is changed. Each is tried in a copy of the tree by the tests that execute the line.
`.mutants/` keeps the copy, what each test executes, and the results; what is there is not done
again. A survivor is a missing test, or belongs in tests/survivors.toml with a reason.

    python benchmarks/mutants.py --most 50         # fifty of those that are left
    python benchmarks/mutants.py --survivors       # survivors once more, with the tests as they are
"""

import argparse
import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".mutants"
TREE, TESTS, RESULTS = PLACE / "tree", PLACE / "tests", PLACE / "results.jsonl"
OUTPUT = PLACE / "output"
SOURCES = [f"packages/{name}/src" for name in ("metastep", "metastep-lab")]
# How many mutants are drawn of each kind, and the share that the tests must catch.
KINDS = {"library": (180, 0.9), "claims": (50, 0.9), "laboratory": (110, 0.8)}
# Types are joined by |, and numbers have no bits: such mutants end at once, whatever is tested.
NOT_ASKED = ("Bit", "Shift", "VariableReplacer", "VariableInserter")
OPERATORS = [one for one in operator_names() if not any(word in one for word in NOT_ASKED)]
SIGNATURES = ("parameters", "lambdef")
MOST_SECONDS = 240  # of processor time; four times as much by the clock
MOST_BYTES = 24_000_000_000
PYTEST = ["-q", "-rfE", "-p", "no:cacheprovider"]
# Half of the time of a short test; what is imported here is shared by the forks that run tests.
IMPORTED = ("jax", "scipy.stats", "sklearn.linear_model", "beartype")
SETTINGS = {
    "JAX_COMPILATION_CACHE_DIR": str(PLACE / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}


class Mutant(NamedTuple):
    """One change of one line: the place, the texts, and cosmic-ray's names for it."""

    path: str
    line: int
    before: str
    after: str
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        """What stays the same while other lines of the file change."""
        return f"{self.path.split('/', 3)[3]}: {self.before} -> {self.after}"

    @property
    def folder(self) -> str:
        """The part of a distribution that the file belongs to."""
        return "/".join(Path(self.name.split(":")[0]).parts[:-1][:2])


def kind_of(path: str) -> str:
    """Which bar the mutants of a file count for."""
    part = "laboratory" if "/metastep_lab/" in path else "library"
    return "claims" if path.endswith("claims.py") else part


def copied() -> None:
    """Bring the copy of the tree up to date."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        source, target = ROOT / name, TREE / name
        now = source.read_bytes() if source.is_file() else b""
        if not target.exists() or target.read_bytes() != now:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(now)


def number(text: str) -> int:
    """A number that is always the same for the same text, and as good as random."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


@functools.cache
def nodes(path: str) -> list:
    """All nodes of the syntax tree of a file."""
    return list(ast_nodes(get_ast(Path(path).read_text())))


def mutant(path: str, line: int) -> Mutant | None:
    """One of the changes that cosmic-ray can make in a line, if there is any."""
    text = Path(path).read_text()
    before = text.splitlines()[line - 1].strip()
    found = defaultdict(list)
    here = [node for node in nodes(path) if node.start_pos[0] == line]
    # A * or / between parameters is not an operator.
    here = [node for node in here if getattr(node.parent, "type", "") not in SIGNATURES]
    for operator, node in itertools.product(OPERATORS, here):
        for index, (start, _) in enumerate(get_operator(operator)().mutation_positions(node)):
            found[start].append((operator, node, index))
    if not found:
        return None
    seed = number(f"{path} {before}")
    there = found[sorted(found)[seed % len(found)]]
    operator, chosen, index = there[seed // len(found) % len(there)]
    made = get_operator(operator)()
    earlier = itertools.takewhile(lambda node: node is not chosen, nodes(path))
    occurrence = index + sum(1 for node in earlier for _ in made.mutation_positions(node))
    changed = mutate_code(text, made, occurrence).splitlines()
    after = changed[line - 1].strip() if len(changed) == len(text.splitlines()) else ""
    return None if after == before else Mutant(path, line, before, after, operator, occurrence)


def drawn() -> Iterator[Mutant]:
    """Of each kind the first lines, in a fixed random order, that have a mutant: a minute."""
    lines = defaultdict(dict)
    for path in sorted(str(one) for folder in SOURCES for one in Path(folder).rglob("*.py")):
        for place, text in enumerate(Path(path).read_text().splitlines(), start=1):
            lines[kind_of(path)].setdefault(number(f"{path} {text.strip()}"), (path, place))
    for kind, (many, _) in KINDS.items():
        order = (mutant(*lines[kind][key]) for key in sorted(lines[kind]))
        yield from sorted(itertools.islice((one for one in order if one), many))


def sample() -> list[Mutant]:
    """The fixed sample, drawn again only if the code has changed."""
    code = "".join(one.read_text() for one in sorted(Path("packages").rglob("*.py")))
    file = PLACE / f"sample-{number(code) % 2**64:x}.json"
    if not file.exists():
        file.write_text(json.dumps(list(drawn())))
    return [Mutant(*one) for one in json.loads(file.read_text())]


def run_tests(arguments: list[str], rules: Path | None) -> None:
    """Run pytest in this process, its output in a file, and exit as it does."""
    # So that a mutant that computes or allocates for ever ends alone.
    if rules is None:
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with OUTPUT.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    watched = coverage.Coverage(config_file=str(rules)) if rules else None
    with watched.collect() if watched else nullcontext():
        status = pytest.main([*PYTEST, *arguments])
    if watched:
        watched.save()
    sys.exit(int(status))


def forked(arguments: list[str], rules: Path | None = None) -> int:
    """The exit status of pytest in a fork, with what it executes on record if there are rules."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(arguments, rules))
    process.start()
    process.join(None if rules else 4 * MOST_SECONDS)
    process.kill()
    process.join()
    return process.exitcode


@functools.cache
def recorded(test: str) -> tuple[coverage.CoverageData, dict[str, float]]:
    """Which lines the tests of a file execute, and how long each takes that passes."""
    data, report, rules = (
        TESTS / f"{test.replace('/', '.')}.{end}" for end in ("cov", "xml", "rc")
    )
    if not data.exists() or data.stat().st_mtime < Path(test).stat().st_mtime:
        part = data.with_suffix(".part")
        part.unlink(missing_ok=True)
        rules.write_text(
            f"[run]\nsource=packages\ndynamic_context=test_function\ndata_file={part}\n"
        )
        forked(["--junitxml", str(report), test], rules)
        part.rename(data)
    lines = coverage.CoverageData(str(data))
    lines.read()
    seconds, failed = defaultdict(float), set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name').split('[')[0]}"
        seconds[name] += float(case.get("time"))
        failed |= {name} if len(case) else set()
    return lines, {name: took for name, took in seconds.items() if name not in failed}


def mirrored(path: str) -> list[str]:
    """The files of tests in the folder that mirrors the file's."""
    folder = Path("tests", *Path(path).parts[3:-1])
    while not folder.is_dir():
        folder = folder.parent
    return sorted(str(one) for one in folder.glob("test_*.py"))


def tests_of(mutant: Mutant, most: float) -> list[str]:
    """Tests that execute the line: those that mirror the file first, then others on record."""
    near, found = mirrored(mutant.path), {}
    every = sorted(str(one) for one in Path("tests").glob("metastep*/**/test_*.py"))
    known = [test for test in every if (TESTS / f"{test.replace('/', '.')}.cov").exists()]
    for test in {*near, *known}:
        lines, seconds = recorded(test)
        by_line = lines.contexts_by_lineno(str(TREE / mutant.path))
        # A statement of several lines may be recorded under its first.
        executed = [n for n in range(mutant.line, max(mutant.line - 30, 0), -1) if n in by_line]
        for name in by_line[executed[0]] if executed else ():
            # What is executed outside a test belongs to a fixture or to an import.
            for one in {name} & seconds.keys() if name else seconds:
                rank = (test not in near, not name, seconds[one])
                found[one] = min(rank, found.get(one, rank))
    ordered = sorted(found, key=lambda one: (found[one], one))
    total = itertools.accumulate(found[one][2] for one in ordered)
    chosen = [one for one, so_far in zip(ordered, total, strict=True) if so_far < most]
    split = (one.rpartition(".") for one in chosen or ordered[:1])
    return [f"{file.replace('.', '/')}.py::{function}" for file, _, function in split]


def tried(mutant: Mutant, most: float) -> dict:
    """Change the line, run the tests that execute it, and say which noticed."""
    tests, caught, path = tests_of(mutant, most), "", Path(mutant.path)
    if tests:
        text = path.read_text()
        made = get_operator(mutant.operator)()
        path.write_text(mutate_code(text, made, mutant.occurrence))
        try:
            status = forked(["-x", *tests])
        finally:
            path.write_text(text)
        said = [*OUTPUT.read_text(errors="replace").splitlines(), "ended"]
        named = [line for line in said if line.startswith(("FAILED", "ERROR"))]
        if status:
            caught = (named or said)[0][:200]
    return {"name": mutant.name, "line": mutant.line, "tests": len(tests), "caught": caught}


def table(whole: list[Mutant], known: dict[str, dict], accepted: set[str]) -> str:
    """The share caught of those not accepted, by kind and folder, in Markdown; the survivors."""
    rows = ["| part | tried | caught | share | accepted | bar |", "|---|---|---|---|---|---|"]
    done, groups = [one for one in whole if one.name in known], defaultdict(list)
    for one in [*((kind_of(m.path), m) for m in done), *((m.folder, m) for m in done)]:
        groups[one[0]].append(one[1])
    for name, group in groups.items():
        caught = sum(bool(known[one.name]["caught"]) for one in group)
        kept = sum(one.name in accepted for one in group if not known[one.name]["caught"])
        bar = f"{KINDS[name][1]:.0%}" if name in KINDS else ""
        share = f"{caught / (len(group) - kept):.0%}" if len(group) > kept else ""
        rows.append(f"| {name} | {len(group)} | {caught} | {share} | {kept} | {bar} |")
    left = [m for m in done if not known[m.name]["caught"] and m.name not in accepted]
    return "\n".join([*rows, "", "Survivors:", *(f"{m.name}  (line {m.line})" for m in left)])


def main() -> None:
    """Try what is left of the sample, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, help="how many mutants; all that are left if none")
    parser.add_argument("--survivors", action="store_true", help="try survivors once more")
    parser.add_argument("--only", default="", help="a part of the name of the mutants")
    parser.add_argument(
        "--seconds", type=float, default=240, help="of tests for each mutant, as recorded"
    )
    given = parser.parse_args()
    TESTS.mkdir(parents=True, exist_ok=True)
    copied()
    os.chdir(TREE)
    sources = [str(TREE / folder) for folder in SOURCES]
    sys.path[:1] = [str(TREE), *sources]
    os.environ.update({**SETTINGS, **os.environ, "PYTHONPATH": os.pathsep.join(sources)})
    for name in IMPORTED:
        importlib.import_module(name)
    listed = tomllib.loads(Path("tests/survivors.toml").read_text())["accepted"]
    accepted, whole = {one["mutant"] for one in listed}, sample()
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {one["name"]: one for one in map(json.loads, lines)}
    again = {name for name, one in known.items() if not one["caught"]} - accepted
    left = again if given.survivors else {one.name for one in whole} - known.keys()
    todo = [one for one in whole if one.name in left and given.only in one.name]
    for one in todo[: given.most]:
        known[one.name] = tried(one, given.seconds)
        with RESULTS.open("a") as file:
            print(json.dumps(known[one.name]), file=file)
        print(known[one.name]["caught"] or "SURVIVED", "|", one.name, flush=True)
    print(table(whole, known, accepted))


if __name__ == "__main__":
    main()
