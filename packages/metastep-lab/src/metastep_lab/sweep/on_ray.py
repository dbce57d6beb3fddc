"""The runs of a sweep as tasks of Ray, on this machine or on an existing cluster.

Ray places the tasks by the resources they declare and repeats them when a worker or a node dies.
Every node must see the folder of the sweep under the same path, and have metastep installed.
"""

import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from metastep_lab.errors import RefusedError
from metastep_lab.sweep.worker import Job, Outcome, carry_out

PATIENCE = 4.0
GRACE = 20.0
LONGEST = 400
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS = 4


@dataclass(frozen=True)
class Resources:
    """The resources of one run.

    Attributes:
        cpus: processor cores.
        gpus: GPUs.
    """

    cpus: int
    gpus: int


@contextmanager
def joined(address: str | None, parallel: int, resources: Resources) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster, or to Ray started on this machine.

    Args:
        address: HOST:PORT of the cluster's head, None to start one here.
        parallel: how many runs at a time Ray makes room for when it is started here.
        resources: what each takes.

    Raises:
        RefusedError: if Ray is not installed, no cluster answers, or no machine of it has what a
            run takes.
    """
    if address is not None:
        _require_answer(address)
    ray = _import_ray()
    # In a program that uses Ray itself, its connection is not ours to close.
    already = ray.is_initialized()
    if not already:
        # What workers print would destroy the table on the terminal; each run has its own log.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= {"include_dashboard": False, "num_cpus": parallel * resources.cpus}
        try:
            ray.init(address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RefusedError(f"--address is {address}: {error}{_advice(address)}") from error
    try:
        _require_room(ray, resources)
        yield ray
    finally:
        if not already:
            ray.shutdown()


def _advice(address: str | None) -> str:
    # Ray sends its token to no address that it did not choose itself.
    if address is None or "RAY_AUTH_MODE" in os.environ:
        return ""
    return "; for a cluster that was started with a token, set RAY_AUTH_MODE=token"


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        advice = "pip install 'metastep-lab[distributed]', or choose --engine local"
        raise RefusedError(f"--engine is ray, which is not installed: {advice}") from error
    return ray


def _require_answer(address: str) -> None:
    """Refuse an address without a cluster at once; Ray would wait for minutes.

    The head of a cluster speaks gRPC, hence HTTP/2: it answers a client's first bytes by a frame
    with its settings.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise RefusedError(f"--address is {address!r}; allowed: HOST:PORT")
    try:
        # RFC 9113, section 3.4: a client begins with a fixed text and a frame of settings. The
        # header of a frame has 9 bytes, of which the fourth is its type, 4 for settings.
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(HELLO)
            answer = connection.recv(9)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RefusedError(f"--address is {address}, where no cluster answers: {reason}") from error
    if len(answer) < 4 or answer[3] != SETTINGS:
        raise RefusedError(f"--address is {address}, where something else than Ray answers")


def _require_room(ray: Any, resources: Resources) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = lambda node: (
        node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus
    )
    if not any(fits(node) for node in nodes):
        largest = [max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")]
        raise RefusedError(
            f"--cpus is {resources.cpus} and --gpus is {resources.gpus}; the largest machine of "
            f"the cluster has {largest[0]:g} and {largest[1]:g}"
        )


def run_on_ray(
    ray: Any, jobs: Sequence[Job], resources: Resources, retries: int
) -> Generator[tuple[str, Outcome], None, None]:
    """Carry out jobs as tasks of Ray that declare `resources`.

    A task that fails is repeated, `retries` times, as Ray itself repeats one whose worker or node
    dies. Closing the iterator, or an interruption, interrupts the runs so that they can be resumed.

    Yields:
        The key of a job and how its last attempt ended, in the order in which they end.
    """
    task = ray.remote(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        # For workers that die: a run that fails returns an `Outcome`, a success to Ray.
        max_retries=retries,
    )(carry_out)
    running = {task.remote(job): (job, 0) for job in jobs}
    try:
        while running:
            for reference in ray.wait(list(running), timeout=1.0)[0]:
                job, attempt = running.pop(reference)
                outcome, died = _outcome(ray, reference)
                # Of a worker that died Ray has made all the retries itself.
                if outcome.complete or died or attempt == retries:
                    yield job.key, outcome
                else:
                    running[task.remote(job)] = (job, attempt + 1)
    finally:
        for reference in running:
            # Not by force: the run gets a KeyboardInterrupt, as by Ctrl-C, and can be resumed.
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=GRACE)


def _outcome(ray: Any, reference: Any) -> tuple[Outcome, bool]:
    """Return how a task ended, and whether Ray has given it up."""
    try:
        return ray.get(reference), False
    except ray.exceptions.RayError as error:
        words = " ".join(str(error).split())[:LONGEST]
        return Outcome(False, f"{type(error).__name__}: {words}"), True
