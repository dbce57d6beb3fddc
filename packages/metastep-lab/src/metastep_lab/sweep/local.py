"""The runs of a sweep as processes of this machine, each new and on a share of the cores.

On Linux the processes are forked from a server that has imported metastep, but has neither used JAX
nor started a thread of Python. A run starts in a fraction of a second, and a process that dies ends
only its own run.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from metastep_lab.errors import RefusedError
from metastep_lab.sweep.worker import Job, Outcome, carry_out, redirect_output

GRACE = 20.0


@dataclass
class _Child:
    job: Job
    attempt: int
    process: BaseProcess
    devices: tuple[str, ...]


def run_locally(
    jobs: Sequence[Job], parallel: int, retries: int, gpus: int = 0
) -> Generator[tuple[str, Outcome], None, None]:
    """Carry out jobs, `parallel` processes at a time, each with `gpus` GPUs of its own.

    A job that fails is tried again, `retries` times. Closing the iterator, or an interruption,
    interrupts the runs so that they can be resumed.

    Yields:
        The key of a job and how its last attempt ended, in the order in which they end.
    """
    context = process_context()
    waiting = deque((job, 0) for job in jobs)
    running: dict[Connection, _Child] = {}
    free = gpu_names() if gpus else []
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job, attempt = waiting.popleft()
                devices, free = tuple(free[:gpus]), free[gpus:]
                pipe, process = _start(context, job, devices)
                running[pipe] = _Child(job, attempt, process, devices)
            # A pipe becomes ready by an outcome, or by its end if the process died without one.
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                child = running[pipe]
                # Still in `running`: an interruption in here must reach this process, too.
                outcome = _outcome(pipe, child)
                del running[pipe]
                free = [*free, *child.devices]
                if not outcome.complete and child.attempt < retries:
                    waiting.append((child.job, child.attempt + 1))
                else:
                    yield child.job.key, outcome
    finally:
        _interrupt([child.process for child in running.values()])


def gpu_names() -> list[str]:
    """Return the GPUs of `CUDA_VISIBLE_DEVICES`, else all for which there is a device file."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name for name in shown.split(",") if name]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def check_gpus(parallel: int, gpus: int) -> None:
    """Refuse more GPUs than there are for so many processes.

    Raises:
        RefusedError: if they are not there.
    """
    there = len(gpu_names())
    if gpus and parallel * gpus > there:
        raise RefusedError(
            f"--gpus is {gpus} for each of {parallel} runs at a time; this machine has {there}"
        )


def process_context() -> Any:
    """Return how new processes are started: on Linux by a server that has imported the package."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # They import JAX and Bokeh, which takes seconds, but ask JAX for no device: that would start
    # threads, which a fork does not copy, with whatever locks they hold.
    context.set_forkserver_preload(["metastep_lab.cli", "metastep_lab.figures.interactive"])
    return context


def _start(context: Any, job: Job, devices: tuple[str, ...]) -> tuple[Connection, BaseProcess]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_child, args=(job, devices, sender), name=job.key)
    # Until its `setsid`, a terminal sends Ctrl-C to the new process as well.
    with _no_interruption():
        _begin(process)
    # The child then has the only writing end, and its death ends the pipe.
    sender.close()
    return receiver, process


def _begin(process: BaseProcess, times: int = 3) -> None:
    try:
        process.start()
    except (EOFError, ConnectionError):
        # The server that forks was killed; once it has ended, a start begins another one. An
        # EOFError that left the command would be taken for Ctrl-D.
        if times == 0:
            raise
        sleep(0.1)
        _begin(process, times - 1)


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Block Ctrl-C; the new process starts with it blocked, too."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_child(job: Job, devices: tuple[str, ...], sender: Connection) -> None:
    """Carry out one job in a new process, which ends when the process that drives it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        # First: whatever is printed from here on would destroy the table on the terminal.
        redirect_output(job.log)
        # None without `--gpus`: by default JAX reserves three quarters of a GPU for each process.
        os.environ.update(CUDA_VISIBLE_DEVICES=",".join(devices))
        if hasattr(os, "setsid"):
            os.setsid()  # Ctrl-C on a terminal reaches only the driver, which passes it on once.
        if hasattr(signal, "pthread_sigmask"):
            # Scripts start background commands with Ctrl-C ignored, which processes inherit.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        sender.send(carry_out(job))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sender.send(Outcome(False, f"{type(error).__name__}: {error}"))


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    # `sys.exit` would end this thread only.
    os._exit(1)


def _outcome(pipe: Connection, child: _Child) -> Outcome:
    try:
        outcome = pipe.recv()
    except (EOFError, OSError):
        outcome = None
    pipe.close()
    # The outcome comes before the process has ended and has given back its memory and its GPU.
    child.process.join()
    code = child.process.exitcode or 0
    child.process.close()
    if outcome is not None:
        return outcome
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return Outcome(False, f"the process of this run {how}; see {child.job.log}")


def _interrupt(processes: Sequence[BaseProcess]) -> None:
    """Interrupt processes; kill those that do not end."""
    interrupt = signal.SIGTERM if sys.platform == "win32" else signal.SIGINT
    for process in processes:
        if process.is_alive() and process.pid:
            os.kill(process.pid, interrupt)
    # One deadline for all of them: they write their last checkpoints at the same time.
    end = monotonic() + GRACE
    try:
        for process in processes:
            process.join(max(end - monotonic(), 0.0))
    finally:
        for process in processes:
            process.kill()
            process.join()
