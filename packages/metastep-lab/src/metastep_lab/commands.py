"""The commands: what each takes, and what it hands on.

Each command imports what it needs when it is called: `list` and `--help` answer without JAX.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from metastep_lab import terminal
from metastep_lab.catalog import CATALOG, LARGEST_SEED
from metastep_lab.errors import RefusedError


def _names(incomplete: str) -> list[str]:
    """Complete the name of an experiment."""
    return [one.name for one in CATALOG if one.name.startswith(incomplete)]


def as_path(text: str) -> Path:
    """Read the name of a file or a folder.

    Raises:
        BadParameter: for an empty text, which would stand for the current folder.
    """
    if not text:
        raise typer.BadParameter("it is empty; allowed is the name of a file or a folder")
    return Path(text)


Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", parser=as_path)]
Name = typer.Argument(metavar="NAME", help="An experiment; see `list`.", autocompletion=_names)
Preset = Annotated[str, typer.Option(help="quick, paper or another; see `list`.")]
Data = Annotated[Path | None, typer.Option(parser=as_path, help="The folder that holds data sets.")]


def list_command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field.")] = False,
) -> None:
    """Show every experiment: minutes, question, source."""
    # With fields and presets, for which the experiments and hence JAX must be imported.
    if as_json:
        from metastep_lab.runs.choosing import described

        print(json.dumps([described(one) for one in context.obj], indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    if not context.obj:
        console.print("There are no experiments.")
        return
    console.print(terminal.experiments_table(context.obj))
    console.print("Run one with: metastep run NAME")


def run_command(
    context: typer.Context,
    name: Annotated[str, Name],
    preset: Preset = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the preset."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The random seed.")] = 0,
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="The run directory, else runs/NAME.")
    ] = None,
    data: Data = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run.")] = False,
) -> int:
    """Run an experiment into a run directory."""
    from metastep_lab.runs.commands import run_experiment

    return run_experiment(context.obj, name, preset, settings or [], seed, out, data, resume)


def check_command(context: typer.Context, directory: Directory) -> int:
    """Hold the paper's claims against a run, with the numbers."""
    from metastep_lab.runs.commands import check_run

    return check_run(context.obj, directory)


def report_command(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run directories.", parser=as_path)
    ],
    out: Annotated[Path, typer.Option(parser=as_path, help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one page with figures, claims and tables."""
    from metastep_lab.report.command import write_page

    write_page(directories, out)


def sweep_command(
    context: typer.Context,
    name: Annotated[str | None, Name] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=A,B,C", help="Values of a field; A;B if lists."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="FIRST:END", help="Seeds without the end, or A,B,C.")
    ] = None,
    preset: Preset = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field in every run."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or Ray.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster, else one is started.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores for each run.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs for each run.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time on this machine.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a failed run is repeated.")] = 1,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="The sweep's folder, else sweeps/NAME.")
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(parser=as_path, metavar="DIR", help="Only show the state of a sweep."),
    ] = None,
) -> int:
    """Run an experiment for every combination of values and seeds, and tabulate the results."""
    from metastep_lab.sweep.command import run_sweep, show_sweep

    if status is not None:
        return show_sweep(status)
    # Not required by its type: `--status DIR` needs none. The words are those of typer.
    if name is None:
        raise RefusedError("Missing argument 'NAME'")
    resources = (cpus, gpus, jobs, retries)
    what = (name, grid or [], seeds, preset, settings or [])
    return run_sweep(context.obj, *what, engine, address, resources, data, out)


def clean_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .csv, .tsv or .parquet file, or images.", parser=as_path
        ),
    ],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the labels.")],
    validation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=as_path, help="The same with checked labels."),
    ] = None,
    model: Annotated[
        Literal["linear", "boosted", "network"], typer.Option(help="What judges the labels.")
    ] = "linear",
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="A new folder, else cleaned/FILE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where it stopped.")] = False,
) -> int:
    """Find the wrong labels of a file; the file itself is never changed."""
    from metastep_lab.cleaning.command import Request, clean

    directory = out or Path("cleaned") / file.stem
    return clean(Request(file, label, validation, model, directory, resume))


def data_help(context: typer.Context) -> None:
    """Say which data sets are there; fetch their original files."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def data_list_command(data: Data = None) -> None:
    """Show where each data set was found, and what fetching it takes."""
    from metastep_lab.data_commands import list_data

    list_data(data)


def data_fetch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set; see `data list`.")],
    data: Annotated[
        Path | None,
        typer.Option(
            parser=as_path, help="Where the files go, else METASTEP_DATA or the user's cache."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Of a mirror: a folder that has the files."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The checksum of a file that was packed anew."),
    ] = None,
) -> int:
    """Fetch the original files of a data set; the same command resumes what broke off."""
    from metastep_lab.data_commands import fetch_data

    return fetch_data(name, data, address, sha256)


def doctor_command(
    context: typer.Context,
    data: Data = None,
    plan: Annotated[
        str | None, typer.Option(metavar="NAME", help="Predict what a run or sweep will take.")
    ] = None,
    preset: Annotated[str, typer.Option(help="For --plan, as for `run`.")] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For --plan.")
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", metavar="KEY=A,B,C", help="For --plan.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="FIRST:END", help="For --plan.")] = None,
    along: Annotated[
        str | None, typer.Option(metavar="KEY", help="For --plan: the field to shorten.")
    ] = None,
) -> None:
    """Show versions, devices, precision and the data found; or predict time and memory."""
    if plan is not None:
        from metastep_lab.sweep.plan import plan_runs

        changes, axes = settings or [], grid or []
        plan_runs(context.obj, plan, preset, changes, axes, seeds, along, data)
        return
    given = {"--set": settings, "--grid": grid, "--seeds": seeds, "--along": along}
    if idle := [name for name, value in given.items() if value]:
        raise RefusedError(f"{', '.join(idle)} goes with --plan alone")
    # Unlike the others it has a default: a given `quick` cannot be told from none.
    if preset != "quick":
        raise RefusedError("--preset goes with --plan alone")
    from metastep_lab.doctor import examine

    examine(data)
