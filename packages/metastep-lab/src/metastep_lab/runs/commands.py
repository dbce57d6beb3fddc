"""`metastep run` and `metastep check`: carry out a run, and check the claims by it."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from metastep_lab import terminal
from metastep_lab.catalog import Listing
from metastep_lab.claims import evaluate
from metastep_lab.errors import INTERRUPTED, RefusedError, RunDirectoryError
from metastep_lab.runs.choosing import check_data, configure, find
from metastep_lab.runs.records import read_result
from metastep_lab.runs.running import Request, execute, read_record


def run_experiment(
    catalog: Sequence[Listing],
    name: str,
    preset: str,
    settings: Sequence[str],
    seed: int,
    out: Path | None,
    data: Path | None,
    resume: bool,
) -> int:
    """Run an experiment into a directory, or `runs/NAME`, and print the result.

    Returns the exit status.

    Raises:
        RefusedError: for bad input.
        RunFailedError: if the experiment failed.
    """
    experiment = find(catalog, name)
    config = configure(experiment, preset, settings)
    check_data(data)
    directory = out or Path("runs") / name
    changes = tuple(settings)
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
    seconds = terminal.format_seconds(result["timing"].get("seconds", 0.0))
    place = shlex.quote(str(directory))
    console.print(terminal.counts(claim["holds"] for claim in result["claims"]))
    console.print(f"complete in {seconds}; the numbers: metastep check {place}", soft_wrap=True)
    console.print(f"figures and tables: metastep report {place}", soft_wrap=True)
    if result.get("diverged"):
        console.print(str(result["diverged"]), soft_wrap=True)
    return 0


def check_run(catalog: Sequence[Listing], directory: Path) -> int:
    """Check the paper's claims by a run, and print the numbers.

    Returns:
        1 if a claim that must hold does not, else 0.

    Raises:
        RefusedError: if the run is not complete.
        RunDirectoryError: if a file of it is damaged.
    """
    result = read_result(directory)
    experiment = find(catalog, result["experiment"])
    if result["status"] != "complete":
        raise RefusedError(
            f"{directory} holds a run that is {result['status']}; finish it with --resume first"
        )
    record = read_record(directory, experiment)
    try:
        claims = evaluate(experiment.claims, record)
    # The tables may have been edited, and claims then fail by any exception.
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
    # A small run that cannot decide a claim has not failed it.
    fine = {claim.id for claim in claims if claim.holds is None or claim.holds}
    missing = sorted(experiment.reproducible - fine)
    if missing:
        console.print(f"must hold and do not: {', '.join(missing)}")
    return 1 if missing else 0
