"""Tables and targets from what was measured."""

import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator

from measure import Row
from methods import OURS, OURS_SQRT, OURS_TRUNCATED
from rich.table import Table

MEBIBYTE = 2**20
PACKAGES = ("metastep", "jax", "jaxlib", "optax", "jaxopt", "torch", "higher", "torchopt", "numpy")
FLOPS_PER_PRODUCT = 2 * 5000 * 785 * 10
STEPS = 100


def table(case: str, rows: list[Row]) -> Table:
    """Return the table of a case; ratios are to the method that a row is compared with."""
    result = Table(title=case)
    result.add_column("method")
    headings = "threads calls wall_s min cpu_s wall_ratio cpu_ratio peak_MiB temp_MiB distance"
    for heading in headings.split():
        result.add_column(heading.replace("_", " "), justify="right")
    by_name = {row.method.name: row for row in rows}
    for row in rows:
        result.add_row(row.method.name, *_cells(row, by_name[row.method.versus]))
    return result


def _cells(row: Row, base: Row) -> list[str]:
    mebibytes = lambda count: "-" if count is None else f"{count / MEBIBYTE:.1f}"
    return [
        "-" if row.threads is None else str(row.threads),
        str(len(row.walls)),
        f"{row.wall:.4f}",
        f"{min(row.walls):.4f}",
        f"{row.cpu:.4f}",
        f"{row.wall / base.wall:.2f}",
        f"{row.cpu / base.cpu:.2f}",
        mebibytes(row.peak),
        mebibytes(row.temporary),
        f"{row.distance:.1e}",
    ]


def targets(case: str, rows: list[Row], flop_rate: float) -> list[dict]:
    """Return what the case aims at: a description, the value, the bound, and whether it is kept."""
    if case == "meta-batch":
        return []
    by_name = {row.method.name: row for row in rows}
    found = list(_targets(case, rows, by_name, flop_rate))
    distances = [row.distance for row in rows if row.method.exact]
    distance = math.inf if any(map(math.isnan, distances)) else max(distances)
    found.append(_at_most("largest distance between exact methods", distance, 1e-5))
    return found


def _targets(
    case: str, rows: list[Row], by_name: dict[str, Row], flop_rate: float
) -> Iterator[dict]:
    ours, sqrt, truncated = (by_name[name] for name in (OURS, OURS_SQRT, OURS_TRUNCATED))
    torch = [row for row in rows if row.method.exact and row.method.module == "peers_torch"]
    if torch:
        peer = min(torch, key=lambda row: row.wall)
        name = f"wall time of the fastest torch method ({peer.method.name}, {peer.threads} threads)"
        yield _at_least(f"{name} to {OURS}", peer.wall / ours.wall, 2.5 if case == "mlp" else 2.0)
    if case == "hypercleaning":
        rates = [count * FLOPS_PER_PRODUCT * STEPS / ours.wall / flop_rate for count in (6, 4)]
        done = f"6 products a step (with the 4 that are done: {rates[1]:.3g})"
        yield _at_least(f"flop rate to a large product's, counting {done}", rates[0], 0.5)
        yield _at_most("wall time of K = 5 to all steps", truncated.wall / ours.wall, 0.65)
        small = truncated.temporary / ours.temporary
        yield _at_most("temporary buffer of K = 5 to all steps", small, 0.1)
        small = sqrt.temporary / ours.temporary
        yield _at_most("temporary buffer of sqrt checkpoints to all steps", small, 0.2)


def _at_least(description: str, value: float, bound: float) -> dict:
    return {"target": description, "value": value, "at_least": bound, "reached": value >= bound}


def _at_most(description: str, value: float, bound: float) -> dict:
    return {"target": description, "value": value, "at_most": bound, "reached": value <= bound}


def describe(target: dict) -> str:
    """Return one line about a target."""
    sign, bound = (">=", "at_least") if "at_least" in target else ("<=", "at_most")
    verdict = "reached" if target["reached"] else "missed"
    value = f"{target['value']:.3g} {sign} {target[bound]:g}"
    return f"target {target['target']}: {value}: {verdict}"


def record(case: str, rows: list[Row], flop_rate: float) -> dict:
    """Return everything as a JSON-compatible dictionary."""
    return {
        "case": case,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": _versions(),
        "reference_gflops": flop_rate / 1e9,
        "targets": targets(case, rows, flop_rate),
        "rows": [
            {
                "method": row.method.name,
                "threads": row.threads,
                "wall_seconds": row.walls,
                "cpu_seconds": row.cpus,
                "peak_bytes": row.peak,
                "temporary_bytes": row.temporary,
                "distance": row.distance,
            }
            for row in rows
        ],
    }


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version()} | installed
