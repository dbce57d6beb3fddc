"""Measure a shortened run in a process of its own, and extrapolate along one field."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import monotonic
from typing import Any, get_type_hints

from metastep_lab.errors import RefusedError
from metastep_lab.experiment import Experiment
from metastep_lab.runs.running import Request
from metastep_lab.sweep.local import process_context
from metastep_lab.sweep.worker import Job, Outcome, carry_out, redirect_output

if sys.platform == "win32":
    resource = None
else:
    import resource

LENGTHS = (
    *("outer_steps", "updates", "meta_steps", "descent_steps", "steps", "epochs", "runs"),
    *("trials", "repetitions", "seeds", "repeats", "simulations"),
)
"""Fields that a run's work grows with in proportion, the most likely first."""

SIZES = ("meta_batch", "tasks", "horizon", "dim", "width", "train", "examples", "samples")
"""Fields of which a doubling is tried."""

FEWEST = 4
FIRST, GROWTH, LARGEST = 0.01, 4, 0.5
CLEAR_SECONDS, CLEAR_SHARE = 5.0, 1.0


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        seconds: wall time, without the import of the package.
        core_seconds: processor time, summed over threads.
        peak: the largest memory of its process, in bytes; NaN where the system does not say.
    """

    seconds: float
    core_seconds: float
    peak: float


@dataclass(frozen=True)
class Prediction:
    """An extrapolation along one field.

    Attributes:
        field: the field; None if the run was measured as it is.
        probes: value of the field and what was measured there.
        whole: the cost of the whole run.
        unit: the cost of increasing the field by one.
    """

    field: str | None
    probes: tuple[tuple[int, Cost], ...]
    whole: Cost
    unit: Cost


Measure = Callable[[Any], Cost]


def measure(experiment: Experiment, config: Any, seed: int, data: Path | None, cpus: int) -> Cost:
    """Carry out a run in a new process and a temporary directory, with `cpus` threads per library.

    Raises:
        RefusedError: if the run fails.
    """
    context = process_context()
    with tempfile.TemporaryDirectory() as folder:
        # The preset is only for the command in `result.json`, which nobody will read.
        request = Request(experiment, config, "quick", (), seed, Path(folder) / "run", data)
        job = Job("probe", request, Path(folder) / "log.txt", cpus)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(job, sender))
        process.start()
        sender.close()
        try:
            # Before `join`: a process does not end while nobody takes what it sends.
            outcome, cost = receiver.recv()
        except EOFError:
            outcome, cost = Outcome(False, "its process was killed"), None
        finally:
            receiver.close()
            process.join()
    if cost is None or not outcome.complete:
        raise RefusedError(f"a shortened run of {experiment.name} fails: {outcome.message}")
    return cost


def _report(job: Job, sender: Any) -> None:
    redirect_output(job.log)
    # Without the start and the imports: in a sweep the server that forks has made them.
    before, begin = _processor_seconds(), monotonic()
    outcome = carry_out(job)
    seconds, core_seconds = monotonic() - begin, _processor_seconds() - before
    sender.send((outcome, Cost(seconds, core_seconds, _peak())))


def _processor_seconds() -> float:
    if resource is None:
        return float("nan")
    mine = resource.getrusage(resource.RUSAGE_SELF)
    return mine.ru_utime + mine.ru_stime


def _peak() -> float:
    if resource is None:
        return float("nan")
    # `getrusage` counts bytes on macOS and KiB on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def length_field(config: Any, along: str | None) -> str | None:
    """Return the integer field along which a run is shortened; None if none is large enough.

    Raises:
        RefusedError: if the user's choice is no such field.
    """
    kinds = get_type_hints(type(config))
    able = [
        field.name
        for field in fields(config)
        if kinds[field.name] is int and getattr(config, field.name) >= FEWEST
    ]
    if along is None:
        return next((name for name in LENGTHS if name in able), None)
    if along not in able:
        there = ", ".join(able) or "none"
        raise RefusedError(f"--along is {along!r}; allowed: integers from {FEWEST}: {there}")
    return along


def predict(config: Any, field: str | None, measured: Measure) -> Prediction:
    """Measure two or more short runs and extrapolate in a straight line along a field.

    The first has a hundredth of the steps, or as few as the configuration allows. The longer one is
    lengthened until the difference exceeds the noise, up to half of the run. Without a field the
    run is measured as it is. `measured` carries out a configuration.

    Raises:
        RefusedError: if the run fails, or cannot be shortened in this field.
    """
    if field is None:
        whole = measured(config)
        return Prediction(None, (), whole, Cost(0.0, 0.0, 0.0))
    length, most = getattr(config, field), round(LARGEST * getattr(config, field))
    first = _fewest(config, field, max(round(FIRST * length), 2), most)
    probes = [(first, measured(shortened(config, field, first)))]
    # The first run is mostly compilation, whose time varies; the steps must add as much again.
    clear = max(CLEAR_SECONDS, CLEAR_SHARE * probes[0][1].seconds)
    count = first
    while count == first or (
        count < most and probes[-1][1].seconds - probes[0][1].seconds <= clear
    ):
        count = max(min(GROWTH * count, most), first + 1)
        probes.append((count, measured(shortened(config, field, count))))
    (few, short), (many, long) = probes[0], probes[-1]
    # Not below zero: by noise a longer run can be the cheaper one.
    slope = lambda name: max(getattr(long, name) - getattr(short, name), 0.0) / (many - few)
    unit = Cost(slope("seconds"), slope("core_seconds"), slope("peak"))
    # From the longer probe, which is nearer: only the steps beyond it are extrapolated.
    reach = lambda name: getattr(long, name) + (length - many) * getattr(unit, name)
    whole = Cost(reach("seconds"), reach("core_seconds"), reach("peak"))
    return Prediction(field, tuple(probes), whole, unit)


def _fewest(config: Any, field: str, count: int, most: int) -> int:
    """Return the first of `count`, twice, four times as many that the configuration allows."""
    while True:
        try:
            shortened(config, field, count)
        except RefusedError:
            if count >= most:
                raise
            count = min(2 * count, most)
        else:
            return count


def shortened(config: Any, field: str, value: int) -> Any:
    """Return a configuration with another value of one field.

    Raises:
        RefusedError: if the configuration forbids it.
    """
    try:
        return replace(config, **{field: value})
    except ValueError as error:
        raise RefusedError(f"{field} cannot be {value} here: {error}") from error


def doublings(
    config: Any, prediction: Prediction, measured: Measure
) -> Sequence[tuple[str, int, float, float]]:
    """Double the size fields one by one, in a run as short as a prediction's.

    Returns:
        Field, its doubled value, the factor of the processor time of one step, the factor of the
        peak memory. Fields that cannot be doubled alone are left out.
    """
    if prediction.field is None:
        return []
    kinds = get_type_hints(type(config))
    names = [name for name in SIZES if kinds.get(name) is int and name != prediction.field]
    count, cost = prediction.probes[-1]
    # Compilation and the start are taken to cost the same at the doubled size.
    start = cost.core_seconds - count * prediction.unit.core_seconds
    found = []
    for name in names:
        value = 2 * getattr(config, name)
        try:
            larger = shortened(shortened(config, prediction.field, count), name, value)
            other = measured(larger)
        except RefusedError:
            continue
        # Zero where the slope was lost in noise.
        steps = max(cost.core_seconds - start, 1e-9)
        factor = max(other.core_seconds - start, 0.0) / steps
        found.append((name, value, factor, other.peak / cost.peak))
    return found
