"""The command line: `metastep list`, `run`, `sweep`, `check`, `report`, `doctor`.

Exit status: 0 for success, 1 if a run failed or a claim that must hold does not, 2 for input that
cannot be used (one line on standard error, nothing written), 130 after Ctrl-C.
"""

import json
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.text import Text

from metastep.compilation import FLAG, error_of_default_kernels
from metastep.data import available
from metastep.experiments import EXPERIMENTS
from metastep.experiments.base import (
    Experiment,
    config_as_json,
    describe,
)
from metastep.experiments.choosing import as_path, check_data, configure, find
from metastep.experiments.running import Request, RunFailedError, execute, read_record
from metastep.files import write_atomically
from metastep.report import terminal
from metastep.report.directories import RefusedError, check_output
from metastep.report.environment import check_devices, default_precision, devices, versions
from metastep.report.page import build_page
from metastep.report.records import RunDirectoryError, read_result
from metastep.report.schema import LARGEST_SEED
from metastep.report.tables import format_seconds
from metastep.sweep.command import INTERRUPTED, DataFolder, sweep_command
from metastep.sweep.plan import plan_command

Experiments = tuple[Experiment, ...]
BAD_INPUT = 2
LONG_WORD = re.compile(r"(\S{60})\S{200,}(\S{20})")

EXAMPLES = {
    name: "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
    for name, lines in {
        "metastep": (
            "metastep list",
            "metastep run hypercleaning",
            "metastep report runs/hypercleaning",
            "metastep --install-completion   complete commands with the tab key",
        ),
        "list": ("metastep list", "metastep list --json"),
        "run": (
            "metastep run hypercleaning",
            "metastep run hypercleaning --set windows=1,5 --seed 3 --out runs/short",
            "metastep run hypercleaning --preset paper --data DATA --resume",
        ),
        "check": ("metastep check runs/hypercleaning",),
        "report": (
            "metastep report runs/hypercleaning",
            "metastep report runs/* --out all.html",
        ),
        "sweep": ("metastep sweep hypercleaning --grid horizon=50,100 --seeds 0:3",),
        "doctor": ("metastep doctor", "metastep doctor --data DATA"),
    }.items()
}

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", parser=as_path)]


def main(experiments: Experiments = EXPERIMENTS) -> None:
    """Run the command line and end the process.

    Args:
        experiments: the experiments there are.
    """
    try:
        status = invoke(sys.argv[1:], experiments)
        # From here on Ctrl-C ends the process at once, without a traceback of what is closed.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def invoke(arguments: Sequence[str], experiments: Experiments) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name.
        experiments: the experiments there are.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    debug = bool(os.environ.get("METASTEP_DEBUG"))
    try:
        app = build_app(experiments)
        return app(list(arguments), prog_name="metastep", standalone_mode=False) or 0
    except typer.TyperException as error:
        return _complain(error.format_message(), BAD_INPUT)
    except (RefusedError, RunDirectoryError) as error:
        return _complain(str(error), BAD_INPUT, debug)
    except RunFailedError as error:
        return _complain(f"the run failed: {error}", 1, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", INTERRUPTED)
    except OSError as error:
        return _complain(str(error), 1, debug)


def _complain(message: str, status: int, debug: bool = False) -> int:
    """Print one line, in which a word of thousands of letters is cut."""
    if debug:
        traceback.print_exc()
    line = LONG_WORD.sub(r"\1...\2", " ".join(message.split()))
    print("metastep:", terminal.plain(line), file=sys.stderr)
    return status


def build_app(experiments: Experiments) -> typer.Typer:
    """The commands, for a given set of experiments.

    Args:
        experiments: the experiments there are.

    Returns:
        The application.
    """
    app = typer.Typer(
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Reproduce the experiments of metastep and hold the papers' claims against them.",
        epilog=EXAMPLES["metastep"],
    )

    @app.callback(invoke_without_command=True)
    def root(context: typer.Context) -> None:
        context.obj = experiments
        if context.invoked_subcommand is None:
            print(context.get_help())

    app.command("list", epilog=EXAMPLES["list"])(list_command)
    app.command("run", epilog=EXAMPLES["run"])(run_command)
    app.command("check", epilog=EXAMPLES["check"])(check_command)
    app.command("report", epilog=EXAMPLES["report"])(report_command)
    app.command("sweep", epilog=EXAMPLES["sweep"])(sweep_command)
    app.command("doctor", epilog=EXAMPLES["doctor"])(doctor_command)
    return app


def list_command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field.")] = False,
) -> None:
    """Show every experiment: minutes, question, source."""
    if as_json:
        print(json.dumps([_described(one) for one in context.obj], indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    if not context.obj:
        console.print("There are no experiments.")
        return
    console.print(terminal.experiments_table(context.obj))
    console.print("Run one with: metastep run NAME")


def _described(experiment: Experiment) -> dict[str, Any]:
    kinds = get_type_hints(experiment.config)
    names = [field.name for field in fields(experiment.config)]
    return {
        "name": experiment.name,
        "source": experiment.source,
        "question": experiment.question,
        "minutes": dict(experiment.minutes),
        "presets": {name: config_as_json(one) for name, one in experiment.presets.items()},
        "fields": {name: describe(kinds[name]) for name in names},
    }


def run_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment; see `list`.")],
    preset: Annotated[str, typer.Option(help="quick, paper or another; see `list`.")] = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the preset."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The random seed.")] = 0,
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="The run directory, else runs/NAME.")
    ] = None,
    data: DataFolder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run.")] = False,
) -> int:
    """Run an experiment into a run directory."""
    experiment = find(context.obj, name)
    config = configure(experiment, preset, settings or [])
    check_data(data)
    directory = out or Path("runs") / name
    changes = tuple(settings or ())
    request = Request(experiment, config, preset, changes, seed, directory, data, resume)
    display = terminal.Display(terminal.console())
    display.say(f"{name}, preset {preset}, seed {seed}, in {directory}")
    try:
        result = execute(request, display.say, display.show)
    except KeyboardInterrupt:
        display.clear()
        print(f"metastep: interrupted; continue with: {request.resume_command()}", file=sys.stderr)
        return INTERRUPTED
    finally:
        display.clear()
    for claim in result["claims"]:
        terminal.verdict(display.console, claim["holds"], claim["id"])
    console = display.console
    if result.get("answer"):
        terminal.paragraph(console, result["answer"])
    seconds = format_seconds(result["timing"].get("seconds", 0.0))
    place = shlex.quote(str(directory))
    console.print(terminal.counts(claim["holds"] for claim in result["claims"]))
    console.print(f"complete in {seconds}; the numbers: metastep check {place}", soft_wrap=True)
    console.print(f"figures and tables: metastep report {place}", soft_wrap=True)
    return 0


def check_command(context: typer.Context, directory: Directory) -> int:
    """Hold the paper's claims against a run, with the numbers."""
    result = read_result(directory)
    experiment = find(context.obj, result["experiment"])
    if result["status"] != "complete":
        raise RefusedError(
            f"{directory} holds a run that is {result['status']}; finish it with --resume first"
        )
    record = read_record(directory, experiment)
    try:
        claims = experiment.claims(record)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunDirectoryError(
            f"{directory}: its tables do not bear the claims ({reason})"
        ) from error
    console = terminal.console()
    recorded = {claim["id"]: claim["holds"] for claim in result["claims"]}
    for claim in claims:
        must = "  (must hold)" if claim.id in experiment.reproducible else ""
        terminal.verdict(console, claim.holds, claim.id, must)
        terminal.paragraph(console, claim.text)
        terminal.paragraph(console, claim.evidence, "dim")
        if recorded.get(claim.id, claim.holds) != claim.holds:
            terminal.paragraph(
                console, f"result.json says: {terminal.VERDICTS[recorded[claim.id]][0]}"
            )
    console.print(terminal.counts(claim.holds for claim in claims))
    fine = {claim.id for claim in claims if claim.holds is None or claim.holds}
    missing = sorted(experiment.reproducible - fine)
    if missing:
        console.print(f"must hold and do not: {', '.join(missing)}")
    return 1 if missing else 0


def report_command(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run directories.", parser=as_path)
    ],
    out: Annotated[Path, typer.Option(parser=as_path, help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one page with figures, claims and tables."""
    check_output(out, directories, page=True)
    page = build_page(directories)
    try:
        write_atomically(out, page.encode())
    except OSError as error:
        raise RefusedError(f"--out is {out}: {error.strerror}") from error
    runs = "run" if len(directories) == 1 else "runs"
    print(f"{out}: {len(directories)} {runs}, {len(page.encode()) / 1e6:.1f} MB")


def doctor_command(
    context: typer.Context,
    data: DataFolder = None,
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
        experiment = find(context.obj, plan)
        plan_command(experiment, preset, settings or [], grid or [], seeds, along, data)
        return
    given = {"--set": settings, "--grid": grid, "--seeds": seeds, "--along": along}
    if idle := [name for name, value in given.items() if value]:
        raise RefusedError(f"{', '.join(idle)} goes with --plan alone")
    if preset != "quick":
        raise RefusedError("--preset goes with --plan alone")
    check_devices()
    try:
        found = available(data)
    except FileNotFoundError as error:
        raise RefusedError(str(error)) from error
    console = terminal.console()
    lines = dict(versions())
    lines["devices"] = ", ".join(devices())
    lines["precision"] = f"{default_precision()} by default"
    lines["kernels"] = _kernels()
    lines["cores"] = str(os.cpu_count())
    lines["folder"] = f"{Path.cwd()} ({'writable' if os.access('.', os.W_OK) else 'read-only'})"
    lines |= {f"data {name}": str(path) if path else "not found" for name, path in found}
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<16}", "bold"), text), soft_wrap=True)


def _kernels() -> str:
    error = error_of_default_kernels()
    if error < 1e-3:
        return f"correct (relative error {error:.1e} on the second derivative of a log-sum-exp)"
    return (
        f"jax.jit's own are WRONG here (relative error {error:.2g} on the second derivative of a "
        "log-sum-exp). metastep compiles without them; for your own functions pass "
        f"compiler_options=metastep.compiler_options() to jax.jit, or set {FLAG}"
    )
