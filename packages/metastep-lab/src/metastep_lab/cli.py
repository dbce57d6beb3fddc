"""The command line: `metastep list, run, sweep, check, report, clean, data, doctor`.

Exit status: 0 for success, 1 if a run failed or a claim that must hold does not, 2 for input that
cannot be used (one line on standard error, nothing written), 130 after Ctrl-C.

The commands themselves are in `metastep_lab.commands`.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from metastep_lab import terminal
from metastep_lab.catalog import CATALOG, Listing
from metastep_lab.command_examples import EXAMPLES
from metastep_lab.commands import (
    check_command,
    clean_command,
    data_fetch_command,
    data_help,
    data_list_command,
    doctor_command,
    list_command,
    report_command,
    run_command,
    sweep_command,
)
from metastep_lab.errors import INTERRUPTED, RefusedError, RunDirectoryError, RunFailedError

BAD_INPUT = 2
LONG_WORD = re.compile(r"(\S{60})\S{200,}(\S{20})")


def main(catalog: Sequence[Listing] = CATALOG) -> None:
    """Run the command line and end the process."""
    try:
        status = invoke(sys.argv[1:], catalog)
        # From here on Ctrl-C ends the process at once, without a traceback of what is closed.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def invoke(arguments: Sequence[str], catalog: Sequence[Listing]) -> int:
    """Run one command, what follows the program's name, and return the exit status."""
    # A terminal in Latin-1 or ASCII would end the command at the first sign that it lacks.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    debug = bool(os.environ.get("METASTEP_DEBUG"))
    try:
        # Not standalone: typer would print its own errors in several lines and end the process.
        app = build_app(catalog)
        return app(list(arguments), prog_name="metastep", standalone_mode=False) or 0
    except typer.TyperException as error:
        return _complain(error.format_message(), BAD_INPUT)
    # Both are a `ValueError`; any other one is a defect of ours and keeps its traceback.
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


def build_app(catalog: Sequence[Listing]) -> typer.Typer:
    """Return the commands, for a given set of experiments."""
    app = typer.Typer(
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Reproduce the experiments of metastep and hold the papers' claims against them.",
        epilog=EXAMPLES["metastep"],
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        show_version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.")
        ] = False,
    ) -> None:
        context.obj = catalog
        if show_version:
            print(version("metastep"))
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    app.command("list", epilog=EXAMPLES["list"])(list_command)
    app.command("run", epilog=EXAMPLES["run"])(run_command)
    app.command("check", epilog=EXAMPLES["check"])(check_command)
    app.command("report", epilog=EXAMPLES["report"])(report_command)
    app.command("sweep", epilog=EXAMPLES["sweep"])(sweep_command)
    app.command("clean", epilog=EXAMPLES["clean"])(clean_command)
    data = typer.Typer()
    data.callback(invoke_without_command=True)(data_help)
    data.command("list", epilog=EXAMPLES["data list"])(data_list_command)
    data.command("fetch", epilog=EXAMPLES["data fetch"])(data_fetch_command)
    app.add_typer(data, name="data", epilog=EXAMPLES["data"])
    app.command("doctor", epilog=EXAMPLES["doctor"])(doctor_command)
    return app
