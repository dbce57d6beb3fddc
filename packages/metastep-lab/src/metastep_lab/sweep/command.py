"""`metastep sweep`: many runs of one experiment, and one table over them."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from rich.console import Console

from metastep_lab import terminal
from metastep_lab.catalog import Listing
from metastep_lab.errors import INTERRUPTED, RefusedError
from metastep_lab.experiment import Experiment
from metastep_lab.runs.choosing import check_data, find
from metastep_lab.runs.directories import occupied, remove_leftovers
from metastep_lab.runs.running import Request
from metastep_lab.sweep import on_ray
from metastep_lab.sweep.display import Monitor, show_failures, show_status
from metastep_lab.sweep.grid import Cell, cells
from metastep_lab.sweep.local import check_gpus, run_locally
from metastep_lab.sweep.record import is_complete, read_list, read_row, run_directory, write_list
from metastep_lab.sweep.table import read_messages, write_table
from metastep_lab.sweep.worker import Job, Outcome

TABLE_EVERY = 10.0

Outcomes = Generator[tuple[str, Outcome], None, None]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, and the way to carry them out.

    Attributes:
        experiment: the experiment.
        preset: the preset that the runs start from.
        cells: the runs.
        out: the folder of the sweep.
        data: the folder that holds data sets, None for the usual places.
        engine: `"local"` or `"ray"`.
        address: HOST:PORT of a Ray cluster, None to start Ray on this machine.
        parallel: how many runs at a time on this machine.
        resources: the cores and GPUs of each.
        retries: how often a run that fails is tried again.
    """

    experiment: Experiment
    preset: str
    cells: tuple[Cell, ...]
    out: Path
    data: Path | None
    engine: Literal["local", "ray"]
    address: str | None
    parallel: int
    resources: on_ray.Resources
    retries: int

    def job(self, cell: Cell) -> Job:
        """Return the job of one run, for its worker."""
        key, out = cell.entry.key, self.out.absolute()
        where = run_directory(out, key)
        what = (self.experiment, cell.config, self.preset, cell.settings, cell.entry.seed)
        request = Request(*what, where, self.data, resume=True)
        return Job(key, request, out / "logs" / f"{key}.txt", self.resources.cpus)


def run_sweep(
    catalog: Sequence[Listing],
    name: str,
    grid: Sequence[str],
    seeds: str | None,
    preset: str,
    settings: Sequence[str],
    engine: Literal["local", "ray"],
    address: str | None,
    resources: tuple[int | None, int, int | None, int],
    data: Path | None,
    out: Path | None,
) -> int:
    """Run an experiment for every combination of values and seeds, and tabulate the results.

    `grid`, `seeds`, `preset` and `settings` are those of `cells`; `resources` are cores for each
    run or None, GPUs for each, runs at a time or None, and retries; `out` is the folder, or None
    for `sweeps/NAME`. Returns the exit status: 1 if a run failed.

    Raises:
        RefusedError: for bad input.
    """
    cpus, gpus, jobs, retries = resources
    experiment = find(catalog, name)
    found = cells(experiment, preset, settings, grid, seeds)
    check_data(data)
    if address is not None and (engine != "ray" or jobs is not None):
        raise RefusedError("--address goes with --engine ray, and without --jobs")
    parallel, share = (1, cpus or 1) if address else share_cores(len(found), jobs, cpus)
    share_of_each = on_ray.Resources(share, gpus)
    if engine == "local":
        check_gpus(parallel, gpus)
    folder = out or Path("sweeps") / name
    sweep = Sweep(
        experiment,
        preset,
        found,
        folder,
        data.absolute() if data else None,
        engine,
        address,
        parallel,
        share_of_each,
        retries,
    )
    try:
        with occupied(folder, "sweep.json", [data] if data else []):
            remove_leftovers(folder)
            return _drive(sweep, terminal.console())
    except KeyboardInterrupt:
        print("metastep: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


def share_cores(runs: int, jobs: int | None, cpus: int | None) -> tuple[int, int]:
    """Return how many runs go at a time, and the cores of each.

    The number of threads can change the last bits of a sum. A resumed sweep must therefore share
    the cores as before, so the shares depend on these arguments alone: all runs, complete ones
    included, and the wishes of the user, or None.

    Raises:
        RefusedError: for more cores than there are.
    """
    cores = _cores()
    if cpus is not None and cpus * (jobs or 1) > cores:
        raise RefusedError(
            f"--cpus is {cpus} for each of {jobs or 1} runs at a time; this machine has {cores}"
        )
    parallel = jobs or min(cores // cpus if cpus else cores, runs)
    return parallel, cpus or max(cores // parallel, 1)


def _cores() -> int:
    # Of this process: under `taskset` or a job scheduler fewer than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _drive(sweep: Sweep, console: Console) -> int:
    """Carry out the missing runs; return the exit status."""
    name, out = sweep.experiment.name, sweep.out
    if (out / "sweep.json").exists():
        earlier, _ = read_list(out)
        if earlier != name:
            raise RefusedError(f"{out} holds a sweep of {earlier}; choose another --out")
    missing = [cell for cell in sweep.cells if not is_complete(out, cell, name)]
    complete = {cell.entry.key for cell in sweep.cells} - {cell.entry.key for cell in missing}
    with ExitStack() as stack:
        # Before anything is written: where Ray cannot be joined, the folder stays as it was.
        outcomes = stack.enter_context(closing(_start(sweep, missing, stack)))
        entries = [cell.entry for cell in sweep.cells]
        write_list(out, name, entries)
        console.print(
            f"{name}: {len(sweep.cells)} runs in {out}, {len(missing)} to do", soft_wrap=True
        )
        monitor = stack.enter_context(Monitor(console, out, entries, complete))
        failures = _follow(sweep, outcomes, monitor)
    show_failures(console, failures)
    done = len(sweep.cells) - len(failures)
    table = out / "sweep.csv"
    console.print(
        f"{done} of {len(sweep.cells)} runs are complete; the table: {table}", soft_wrap=True
    )
    return 1 if failures else 0


def _start(sweep: Sweep, missing: Sequence[Cell], stack: ExitStack) -> Outcomes:
    jobs = [sweep.job(cell) for cell in missing]
    if sweep.engine == "local" or not jobs:
        return run_locally(jobs, sweep.parallel, sweep.retries, sweep.resources.gpus)
    ray = stack.enter_context(on_ray.joined(sweep.address, sweep.parallel, sweep.resources))
    return on_ray.run_on_ray(ray, jobs, sweep.resources, sweep.retries)


def _follow(sweep: Sweep, outcomes: Outcomes, monitor: Monitor) -> dict[str, str]:
    """Record how runs end, and update the table; return the reasons of failed runs."""
    failures: dict[str, str] = {}
    due = monotonic() + TABLE_EVERY
    try:
        for key, outcome in outcomes:
            monitor.ended(key, outcome)
            if not outcome.complete:
                failures[key] = outcome.message
            begin = monotonic()
            if begin > due:
                _tabulate(sweep, failures)
                # Of many runs the table takes long: it may take a twentieth of the time.
                due = monotonic() + max(TABLE_EVERY, 20 * (monotonic() - begin))
    finally:
        # This interrupts the runs that go on, whose states the table then holds.
        outcomes.close()
        _tabulate(sweep, failures)
    return failures


def _tabulate(sweep: Sweep, failures: dict[str, str]) -> None:
    rows = [read_row(sweep.out, one.entry, failures.get(one.entry.key, "")) for one in sweep.cells]
    write_table(sweep.out, rows)


def show_sweep(out: Path) -> int:
    """Show the state of a sweep.

    Raises:
        RunDirectoryError: if the folder holds no sweep, or a damaged one.
    """
    experiment, entries = read_list(out)
    messages = read_messages(out)
    rows = []
    for entry in entries:
        row = read_row(out, entry)
        # Why a refused run left no directory is in the table only.
        if row.status == "missing":
            row = read_row(out, entry, messages.get(entry.key, ""))
        rows.append(row)
    show_status(terminal.console(), out, experiment, rows)
    return 0
