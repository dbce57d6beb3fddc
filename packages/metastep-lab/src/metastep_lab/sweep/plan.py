"""`metastep doctor --plan`: predict the time and memory of a run or a sweep from short runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from metastep_lab import terminal
from metastep_lab.catalog import Listing
from metastep_lab.experiment import Experiment
from metastep_lab.runs.choosing import check_data, configure, find
from metastep_lab.sweep.command import share_cores
from metastep_lab.sweep.grid import Cell, cells
from metastep_lab.sweep.probe import Cost, Prediction, doublings, length_field, measure, predict
from metastep_lab.terminal import format_seconds


def plan_runs(
    catalog: Sequence[Listing],
    name: str,
    preset: str,
    settings: Sequence[str],
    grid: Sequence[str],
    seeds: str | None,
    along: str | None,
    data: Path | None,
) -> None:
    """Predict time and memory, and say what was extrapolated.

    The arguments are those of `run_sweep`, without a grid or seeds for one run; `along` is the
    field to shorten, None to choose one.

    Raises:
        RefusedError: for bad input, or a run that fails.
    """
    experiment = find(catalog, name)
    check_data(data)
    configure(experiment, preset, settings)
    sweep = bool(grid) or seeds is not None
    found = cells(experiment, preset, settings, grid, seeds if sweep else "0")
    parallel, cpus = share_cores(len(found), None, None)
    console = terminal.console()
    # Runs that differ by seed alone are taken to cost the same.
    configs = list({repr(cell.config): cell for cell in found}.values())
    # The ends of the grid, where values in ascending order have their extremes.
    chosen = configs if len(configs) <= 2 else [configs[0], configs[-1]]
    costs = []
    for cell in chosen:
        prediction = _predict(console, experiment, cell, along, data, cpus)
        costs.append(prediction.whole)
    if sweep:
        _sum_up(console, len(found), len(configs), costs, parallel)


def _predict(
    console: Console,
    experiment: Experiment,
    cell: Cell,
    along: str | None,
    data: Path | None,
    cpus: int,
) -> Prediction:
    run = lambda config: measure(experiment, config, cell.entry.seed, data, cpus)
    say = lambda text: terminal.paragraph(console, text)
    field = length_field(cell.config, along)
    what = ", ".join(f"{name}={value}" for name, value in cell.entry.values.items())
    console.print(f"{experiment.name} {what}".strip())

    def probe(config: Any) -> Cost:
        """Measure, and say so at once: a plan of a long run takes long, too."""
        cost = run(config)
        if field is not None:
            say(f"measured with {field} = {getattr(config, field)}: {_words(cost)}")
        return cost

    prediction = predict(cell.config, field, probe)
    if field is None:
        say("no field to shorten: the run was measured as it is")
    else:
        say(f"extrapolated in a straight line to {field} = {getattr(cell.config, field)}")
    say(f"predicted for one run: {_words(prediction.whole)}, on a share of {cpus} cores")
    for name, value, time, memory in doublings(cell.config, prediction, run):
        say(f"with {name} = {value} a step takes {time:.2g} times as long, {memory:.2g} the memory")
    return prediction


def _words(cost: Cost) -> str:
    seconds, cores = format_seconds(cost.seconds), format_seconds(cost.core_seconds)
    return f"{seconds} ({cores} of processor time), {cost.peak / 1e6:,.0f} MB"


def _sum_up(
    console: Console, runs: int, configs: int, costs: Sequence[Cost], parallel: int
) -> None:
    mean = sum(cost.seconds for cost in costs) / len(costs)
    longest = max(cost.seconds for cost in costs)
    peak = max(cost.peak for cost in costs)
    # Runs of equal length end together: the last round takes as long as a full one.
    rounds = -(-runs // parallel)
    console.print(
        f"{runs} runs, {parallel} at a time: {format_seconds(rounds * mean)}, "
        f"{parallel * peak / 1e6:,.0f} MB at once"
    )
    say = lambda text: terminal.paragraph(console, text)
    if configs > len(costs):
        say(f"{configs} configurations; the first and the last were measured, the mean is taken")
    say(
        f"on k times the cores, a k-th of it, down to {format_seconds(longest)}: runs exchange "
        "nothing, and none ends before its own steps are done"
    )
