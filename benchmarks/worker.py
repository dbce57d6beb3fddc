"""What runs inside the process of one method."""

import ctypes
import gc
import importlib
import multiprocessing.connection
import resource
import time
import warnings
from collections.abc import Callable

import problems
from methods import Method

KIBIBYTE = 1024


def build(case: str, method: Method) -> object:
    """Load the data and the method's library."""
    warnings.simplefilter("ignore")
    data = problems.CASES[case]()
    return getattr(importlib.import_module(method.module), method.builder)(data, **method.options)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of one call; CPU seconds are those of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def serve(connection: multiprocessing.connection.Connection, case: str, method: Method) -> None:
    """Send the result once, then the time of a call for every thread count that comes in."""
    built = build(case, method)
    _set_threads(built, method.threads[0])
    connection.send(built.call())
    while (threads := connection.recv()) != "stop":
        _set_threads(built, threads)
        connection.send(timed(built.call))


def _set_threads(built: object, threads: int | None) -> None:
    if threads is not None:
        built.set_threads(threads)


def measure_memory(
    connection: multiprocessing.connection.Connection, case: str, method: Method
) -> None:
    """Send how many bytes the peak grows by in one run, and those of XLA's temporary buffer."""
    built = build(case, method)
    _set_threads(built, method.threads[0])
    run, temporary = built.alone()
    before = forget_peak()
    run()
    connection.send((peak() - before, temporary))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE


def forget_peak() -> int:
    """Let the peak start again from what is resident now (compiling has a peak of its own).

    Memory that was freed but not given back goes back first, or a run could hide in it. Where the
    system cannot do all that, growth is counted from the peak so far.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, AttributeError):
        return peak()
