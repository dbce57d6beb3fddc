"""Measure metastep against other libraries: `python benchmarks/run.py CASE`."""

import argparse
import json
import multiprocessing
from pathlib import Path

import report
from measure import measure
from methods import CASES, Method
from rich.console import Console


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of every method")
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds after which a method is left alone"
    )
    parser.add_argument("--out", type=Path, help="also write everything to this JSON file")
    return parser.parse_args()


def _installed(case: str, console: Console) -> list[Method]:
    """Return the methods whose packages are there; say which are not."""
    for method in CASES[case]:
        if method.missing:
            console.print(f"skipped: {method.name} ({method.package} is not installed)")
    return [method for method in CASES[case] if not method.missing]


def main() -> None:
    """Measure one case and print what came out."""
    arguments, console = _arguments(), Console(width=150)
    multiprocessing.set_start_method("spawn")
    methods = _installed(arguments.case, console)
    rows, flop_rate = measure(
        arguments.case, methods, arguments.repeats, arguments.budget, console.print
    )
    console.print(report.table(arguments.case, rows))
    console.print(f"reference product: {flop_rate / 1e9:.0f} GFLOP/s")
    for target in report.targets(arguments.case, rows, flop_rate):
        console.print(report.describe(target))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        found = report.record(arguments.case, rows, flop_rate)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
