"""One run of a sweep, in the process that carries it out."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TextIO

from threadpoolctl import threadpool_limits

from metastep.saving import CheckpointError
from metastep_lab.errors import BusyError, RefusedError, RunDirectoryError
from metastep_lab.runs.running import Request, execute

PATIENCE = 120.0


@dataclass(frozen=True)
class Job:
    """The order for a worker.

    Attributes:
        key: the run's name in the sweep.
        request: what to run, and where.
        log: the file to which the run's lines are appended.
        cpus: how many threads each library may use.
    """

    key: str
    request: Request
    log: Path
    cpus: int


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        complete: whether the run is complete.
        message: one line that says why not.
    """

    complete: bool
    message: str = ""


def carry_out(job: Job) -> Outcome:
    """Carry out one run, from where an earlier attempt left it, and return how it ended.

    A killed attempt may hold the lock of the run directory for a moment; this function waits. If
    the files of an earlier attempt are damaged, the run starts from the beginning. Only an
    interruption is raised.
    """
    try:
        limit_threads(job.cpus)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "a", encoding="utf-8") as log:
            _execute(job.request, lambda line: _write(log, line))
    except Exception as error:
        kind = "" if isinstance(error, RefusedError | RunDirectoryError) else type(error).__name__
        words = " ".join(str(error).split())
        return Outcome(False, ": ".join(part for part in (kind, words) if part))
    return Outcome(True)


def _write(log: TextIO, line: str) -> None:
    print(line, file=log, flush=True)


def _execute(request: Request, say: Callable[[str], None]) -> None:
    begin, afresh = monotonic(), False
    while True:
        try:
            execute(request, say)
            return
        except BusyError:
            if monotonic() - begin > PATIENCE:
                raise
            sleep(0.2)
        except (RefusedError, RunDirectoryError) as error:
            # Once only: fresh files that are damaged, too, are no remains of a killed attempt.
            damaged = isinstance(error, RunDirectoryError)
            if afresh or not (damaged or isinstance(error.__cause__, CheckpointError)):
                raise
            say(f"{error} The run starts afresh.")
            shutil.rmtree(request.directory)
            afresh = True


def limit_threads(cpus: int) -> None:
    """Keep the numerical libraries of this process to so many threads each.

    XLA reads `NPROC` when JAX looks for devices, which a new process has not done yet.
    """
    variables = ("NPROC", "PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    os.environ.update(dict.fromkeys(variables, str(cpus)))
    # For libraries that are loaded already, such as NumPy's: variables come too late for them.
    threadpool_limits(cpus)


def redirect_output(log: Path) -> None:
    """Append what this process prints to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        # By file descriptor: XLA and other C++ code write past Python's streams.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
