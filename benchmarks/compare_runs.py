"""Compare two trees of run directories, or what today's code says of finished runs.

`compare_runs.py OLD NEW` pairs the runs under both folders by their path. `compare_runs.py OLD`
holds the claims of the installed code against the tables of each run under OLD. Both print every
difference in claims, verdicts, texts, answer, metrics and figures, and end with status 1 if there
is one. Numbers are the same if they differ by a relative 1e-6, also inside texts. Seconds and
memory differ from run to run: `--ignore ID` leaves out the evidence and verdict of such a claim.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metastep_lab.catalog import CATALOG
from metastep_lab.claims import evaluate
from metastep_lab.errors import RunDirectoryError
from metastep_lab.runs.choosing import find
from metastep_lab.runs.records import finite, read_result
from metastep_lab.runs.running import read_record

PARTS = ("status", "config", "answer", "metrics", "claims", "figures")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
ROUNDING = 1e-6


def said_today(directory: Path) -> dict[str, Any]:
    """Return what the installed code says of a finished run, as `result.json` would hold it."""
    result = read_result(directory)
    experiment = find(CATALOG, result["experiment"])
    record = read_record(directory, experiment)
    drawn = experiment.figures(record).items()
    answer = experiment.answer(record) if experiment.answer else None
    claims = [asdict(claim) for claim in evaluate(experiment.claims, record)]
    figures = [{"name": name, "alt": text} for name, (_, text) in drawn]
    return {**result, "answer": answer, "claims": claims, "figures": figures}


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield one line for each place at which two JSON values differ by more than rounding."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name), new.get(name), f"{place}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{place}[{index}]")
    elif not same(old, new):
        yield f"{place}:\n  old: {old}\n  new: {new}"


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal to rounding; texts may differ in the numbers they contain."""
    if isinstance(old, str) and isinstance(new, str):
        numbers = zip(NUMBER.findall(old), NUMBER.findall(new), strict=False)
        alike = NUMBER.sub("0", old) == NUMBER.sub("0", new)
        return old == new or (alike and all(same(float(a), float(b)) for a, b in numbers))
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=ROUNDING, abs_tol=1e-12)
    return old == new


def keyed(result: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Return the compared parts, claims by id and in their order."""
    parts = {part: result.get(part) for part in PARTS}
    claims = {
        claim["id"]: {"text": claim["text"]} if claim["id"] in ignored else claim
        for claim in result["claims"]
    }
    return finite({**parts, "claims": claims, "order": list(claims)})


def main() -> int:
    """Compare and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--ignore", action="append", default=[], metavar="ID")
    options = parser.parse_args()
    found = sorted(path.parent for path in options.old.rglob("result.json"))
    if not found:
        parser.error(f"{options.old} holds no runs")
    status = 0
    for directory in found:
        other = options.new / directory.relative_to(options.old) if options.new else directory
        try:
            new = read_result(other) if options.new else said_today(directory)
        except RunDirectoryError as error:
            lines = [str(error)]
        else:
            said, says = (keyed(one, options.ignore) for one in (read_result(directory), new))
            lines = list(differences(said, says))
        print(f"{directory}: {len(lines) or 'no'} differences", *lines, sep="\n")
        status = 1 if lines else status
    return status


if __name__ == "__main__":
    sys.exit(main())
