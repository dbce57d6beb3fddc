"""Carrying out an experiment into a run directory, so that it can be interrupted and resumed.

The status is `"interrupted"` from the start until the run has another result. So the run can be
resumed after any end of the process.
"""

import inspect
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from metastep.saving import CheckpointError
from metastep_lab.claims import evaluate
from metastep_lab.configuration import config_as_json, config_from_json
from metastep_lab.errors import RefusedError, RunFailedError
from metastep_lab.experiment import Experiment
from metastep_lab.figures.style import save
from metastep_lab.printed import beside_the_paper
from metastep_lab.runs import records
from metastep_lab.runs.context import RunContext
from metastep_lab.runs.directories import occupied, remove_leftovers
from metastep_lab.runs.divergence import divergence, failure, noted_warnings
from metastep_lab.runs.environment import check_devices, default_precision, environment
from metastep_lab.tables import Record


@dataclass(frozen=True)
class Request:
    """What to run, and where.

    Attributes:
        experiment: what to run.
        config: its configuration.
        preset: the preset that `config` was made from.
        settings: what was changed in it, as texts `field=value`.
        seed: the random seed.
        directory: the run directory.
        data: the folder that holds data sets, None for the usual places.
        resume: continue the run that `directory` holds, if any.
    """

    experiment: Experiment
    config: Any
    preset: str
    settings: tuple[str, ...]
    seed: int
    directory: Path
    data: Path | None = None
    resume: bool = False

    def command(self) -> str:
        """The command that repeats this run elsewhere; `DATA` stands for the data folder."""
        data = ["--data", "DATA"] if self.data else []
        return shlex.join([*self._what(), *data])

    def resume_command(self) -> str:
        """The command that continues this run."""
        data = ["--data", str(self.data)] if self.data else []
        return shlex.join([*self._what(), "--out", str(self.directory), *data, "--resume"])

    def _what(self) -> list[str]:
        changes = [part for setting in self.settings for part in ("--set", setting)]
        what = [self.experiment.name, "--preset", self.preset, *changes]
        return ["metastep", "run", *what, "--seed", str(self.seed)]


def execute(
    request: Request,
    say: Callable[[str], None] = lambda message: None,
    show: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Run an experiment, or continue it; a complete run is returned as it is.

    `say` shows one line, `show` progress: done, total, what. Returns the content of `result.json`.

    Raises:
        RefusedError: if JAX has no device, the directory cannot be used, a checkpoint to resume
            from is damaged, or the experiment refused its data or configuration before it wrote
            anything. The disk is then unchanged.
        RunDirectoryError: if the directory holds a damaged run.
        RunFailedError: if the experiment failed later.
        KeyboardInterrupt: after an interruption; the directory can be resumed.
    """
    directory = request.directory
    check_devices()
    with occupied(directory, inputs=[request.data] if request.data else []):
        previous = _previous(request)
        remove_leftovers(directory)
        if previous and previous["status"] == "complete":
            say(f"{directory} is complete already; there is nothing to do")
            result = previous
        else:
            resumed = previous is not None
            # Without a previous run there is nothing to resume, also with `--resume`.
            context = RunContext(request.seed, request.data, resumed, directory, say, show)
            result = _run(request, context, _empty_result(request), previous)
        # After `result.json` is complete: a process that is killed in between can still be resumed.
        shutil.rmtree(directory / "checkpoint", ignore_errors=True)
    return result


def _previous(request: Request) -> dict[str, Any] | None:
    """Return the run that the directory holds, if it is the requested one."""
    directory = request.directory
    if not (directory / "result.json").exists():
        return None
    found = records.read_result(directory)
    asked = {"experiment": request.experiment.name, "seed": request.seed}
    config = records.finite(config_as_json(request.config))
    for here, there in ((asked, found), (config, found["config"])):
        for name, value in here.items():
            if there.get(name) != value:
                other = f"{name} is {there.get(name)!r} there and {value!r} here"
                raise RefusedError(f"{directory} holds another run: {other}; choose another --out")
    if not request.resume:
        advice = "choose another --out"
        if found["status"] != "complete":
            advice = f"add --resume to continue it, or {advice}"
        raise RefusedError(f"{directory} holds this run already ({found['status']}); {advice}")
    return found


def _empty_result(request: Request) -> dict[str, Any]:
    return {
        "schema": records.SCHEMA,
        "experiment": request.experiment.name,
        "source": request.experiment.listing.source,
        "question": request.experiment.listing.question,
        "answer": None,
        "diverged": "",
        # The docstring of the module says what the tables hold, which the page shows above them.
        "about": inspect.getdoc(inspect.getmodule(request.experiment.run)),
        "config": config_as_json(request.config),
        "preset": request.preset,
        "seed": request.seed,
        "status": "interrupted",
        "command": request.command(),
        "metrics": {},
        "claims": [],
        "figures": [],
        "timing": {},
        "environment": {},
    }


def _run(
    request: Request, context: RunContext, result: dict[str, Any], previous: dict[str, Any] | None
) -> dict[str, Any]:
    """Run the experiment and write its results; `result.json` is valid at every moment."""
    directory = request.directory
    earlier = (previous or {}).get("timing", {})
    started = earlier.get("started") or datetime.now(UTC).isoformat(timespec="seconds")
    begin = perf_counter()

    def write(status: str) -> None:
        seconds = earlier.get("seconds", 0.0) + perf_counter() - begin
        sessions = earlier.get("sessions", 0) + 1
        timing = {"started": started, "seconds": round(seconds, 3), "sessions": sessions}
        precision = " and ".join(sorted(context.precisions)) or default_precision()
        result.update(status=status, timing=timing, environment=environment(precision))
        records.write_result(directory, result)

    write("interrupted")
    overflows: list[str] = []
    try:
        with noted_warnings(context.say) as overflows:
            metrics = request.experiment.run(request.config, context)
            result["metrics"] = {str(name): float(value) for name, value in metrics.items()}
            _conclude(request, result, overflows)
    except KeyboardInterrupt:
        write("interrupted")
        raise
    except Exception as error:
        # An experiment refuses its input before it writes; later such an exception is a failure.
        bad_input = context.untouched and isinstance(error, FileNotFoundError | ValueError)
        reason = failure(error, overflows, bad_input)
        if bad_input or (previous is not None and isinstance(error, CheckpointError)):
            _undo(directory, previous)
            raise RefusedError(reason or type(error).__name__) from error
        result["error"] = f"{type(error).__name__}: {reason}"
        write("failed")
        raise RunFailedError(result["error"]) from error
    write("complete")
    # As readers get it: its schema is checked, and numbers that are not finite are None.
    return records.read_result(directory)


def _undo(directory: Path, previous: dict[str, Any] | None) -> None:
    """Restore the directory to its state before this process."""
    if previous is None:
        (directory / "result.json").unlink()
    else:
        records.write_result(directory, previous)


def _conclude(request: Request, result: dict[str, Any], overflows: list[str]) -> None:
    """Check the claims by the files on the disk, as `check` does, and draw the figures.

    Printed numbers of the paper become a table beside the measured ones.
    """
    # Importing Bokeh takes a second, which only a finished run needs.
    from metastep_lab.figures.interactive import save_interactive

    # Read back from the files, so that `check` comes to the same verdicts later.
    record = _record(request.directory, request.config, result)
    answer = request.experiment.answer
    said = None if answer is None else answer(record)
    found = result["metrics"], record.tables, request.experiment.finite, overflows
    result["diverged"] = divergence(*found)
    result["answer"] = " ".join(filter(None, (result["diverged"], said))) or None
    result["claims"] = [asdict(claim) for claim in evaluate(request.experiment.claims, record)]
    printed = beside_the_paper(request.experiment.printed(record), record)
    if printed is not None:
        records.write_table(request.directory, "printed", printed)
    for name, (figure, text) in request.experiment.figures(record).items():
        stem = request.directory / "figures" / records.check_name("figure", name)
        save(figure, stem)
        save_interactive(figure, stem)
        result["figures"].append({"name": name, "alt": text})


def read_record(directory: Path, experiment: Experiment) -> Record:
    """Read back a run of an experiment; that of an incomplete run has only the existing parts.

    Raises:
        RunDirectoryError: if a file is damaged, or of another version or experiment.
    """
    result = records.read_result(directory)
    path = directory / "result.json"
    if result["experiment"] != experiment.name:
        raise records.RunDirectoryError(f"{path} is of the experiment {result['experiment']!r}")
    try:
        config = config_from_json(experiment.config, result["config"])
    except ValueError as error:
        raise records.RunDirectoryError(f"{path}: {error}") from error
    return _record(directory, config, result)


def _record(directory: Path, config: Any, result: Mapping[str, Any]) -> Record:
    numbers = records.finite(result["metrics"]).items()
    metrics = {name: float("nan") if value is None else value for name, value in numbers}
    return Record(config, records.read_tables(directory), metrics, records.read_arrays(directory))
