"""Time all methods in alternation, each in a process of its own."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import worker
from methods import PRODUCT_SIZE, REFERENCE, Method

PAUSE = 0.05  # seconds in which the threads of the last call stop spinning


@dataclass
class Row:
    """What was measured of one method with one thread count.

    Attributes:
        method: the method.
        threads: its thread count, or None.
        walls: wall seconds of every call.
        cpus: CPU seconds of every call, summed over threads.
        distance: relative distance of its result to that of the method it is compared with.
        peak: bytes by which its peak memory grows in one run.
        temporary: bytes of XLA's temporary buffer, or None.
    """

    method: Method
    threads: int | None
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    distance: float = float("nan")
    peak: int | None = None
    temporary: int | None = None

    @property
    def wall(self) -> float:
        """The median wall seconds of a call."""
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        """The median CPU seconds of a call."""
        return statistics.median(self.cpus)


class Worker:
    """A process that holds one method and answers one request at a time."""

    def __init__(self, case: str, method: Method):
        self._connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=worker.serve, args=(theirs, case, method), daemon=True
        )
        self._process.start()
        theirs.close()
        self.result: np.ndarray = self._connection.recv()

    def time(self, threads: int | None) -> tuple[float, float]:
        """Return wall and CPU seconds of one call."""
        self._connection.send(threads)
        return self._connection.recv()

    def stop(self) -> None:
        """End the process."""
        self._connection.send("stop")
        self._process.join()


def memory(case: str, method: Method) -> tuple[int, int | None]:
    """Return peak growth and temporary bytes of one run in a fresh process.

    Raises:
        EOFError: if the process died.
    """
    connection, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=worker.measure_memory, args=(theirs, case, method), daemon=True
    )
    process.start()
    theirs.close()
    measured = connection.recv()
    process.join()
    return measured


def prepare(
    case: str, methods: list[Method], log: Callable[[str], None]
) -> tuple[list[Row], dict[str, Worker]]:
    """Measure memory and start a worker for every method; leave out what fails, and say so."""
    rows, workers = [], {}
    for method in methods:
        try:
            peak, temporary = memory(case, method)
            workers[method.name] = Worker(case, method)
        except EOFError:
            log(f"skipped: {method.name} (it failed, see above)")
            continue
        for threads in method.threads:
            rows.append(Row(method, threads, peak=peak, temporary=temporary))
    return rows, workers


def measure(
    case: str, methods: list[Method], repeats: int, budget: float, log: Callable[[str], None]
) -> tuple[list[Row], float]:
    """Measure every method with every thread count.

    Args:
        case: the case.
        methods: the methods.
        repeats: rounds; in each, every row is called once, forth and back in turn.
        budget: a row that has used up this many seconds is not called again.
        log: takes a line about a method that is left out.

    Returns:
        The rows, and the flop rate of the reference product in the same rounds.
    """
    rows, workers = prepare(case, methods, log)
    for row in rows:
        row.distance = _distance(workers[row.method.name].result, workers[row.method.versus].result)
    reference = Row(REFERENCE, None)
    workers[REFERENCE.name] = Worker(case, REFERENCE)
    for count in range(repeats):
        for row in (reference, *rows)[:: -1 if count % 2 else 1]:
            if sum(row.walls) < budget:
                _add_call(row, workers[row.method.name])
    for process in workers.values():
        process.stop()
    return rows, 2 * PRODUCT_SIZE**3 / reference.wall


def _distance(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def _add_call(row: Row, process: Worker) -> None:
    time.sleep(PAUSE)
    wall, cpu = process.time(row.threads)
    row.walls.append(wall)
    row.cpus.append(cpu)
