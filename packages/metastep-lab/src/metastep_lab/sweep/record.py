"""The files of a sweep: `sweep.json`, and the states of its run directories."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from metastep.files import write_atomically
from metastep_lab.configuration import config_as_json
from metastep_lab.errors import RunDirectoryError
from metastep_lab.runs.directories import held
from metastep_lab.runs.records import finite, read_result
from metastep_lab.runs.schema import SweepFile, read_file
from metastep_lab.sweep.grid import Cell, Entry

SCHEMA = 1
LIST = "sweep.json"


@dataclass(frozen=True)
class Row:
    """One run of a sweep as it is on the disk.

    Attributes:
        entry: its name, the fields that vary and its seed.
        status: complete, failed, interrupted, running or missing.
        message: why it failed, or that it diverged.
        attempts: how many processes have worked on it.
        seconds: how long they took together, without those that were killed.
        metrics: its numbers; None for one that is not finite.
        claims: claim to whether it holds.
    """

    entry: Entry
    status: str
    message: str = ""
    attempts: int = 0
    seconds: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    claims: dict[str, bool | None] = field(default_factory=dict)


def run_directory(out: Path, key: str) -> Path:
    """Return where a run of a sweep is."""
    return out / "runs" / key


def write_list(out: Path, experiment: str, entries: Sequence[Entry]) -> None:
    """Write `sweep.json`.

    Raises:
        OSError: if it cannot be written.
    """
    runs = [asdict(entry) for entry in entries]
    content = {"schema": SCHEMA, "experiment": experiment, "runs": runs}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(out / LIST, text.encode() + b"\n")


def read_list(out: Path) -> tuple[str, tuple[Entry, ...]]:
    """Read `sweep.json`: the experiment's name, and the runs.

    Raises:
        RunDirectoryError: if there is none, or it is damaged.
    """
    path = out / LIST
    found, _ = read_file(path, SweepFile, SCHEMA, "sweep")
    runs = tuple(Entry(run.key, dict(run.values), run.seed) for run in found.runs)
    if len({run.key for run in runs}) < len(runs):
        raise RunDirectoryError(f"{path} is damaged: it holds a run twice")
    if len({tuple(run.values) for run in runs}) > 1:
        raise RunDirectoryError(f"{path} is damaged: its runs vary in several fields")
    return found.experiment, runs


def is_complete(out: Path, cell: Cell, experiment: str) -> bool:
    """Whether a run is complete.

    False also for a damaged run, one of another configuration, and one whose process was killed
    before it removed its temporary files.
    """
    directory = run_directory(out, cell.entry.key)
    try:
        result = read_result(directory)
    except RunDirectoryError:
        return False
    same = (
        result["experiment"] == experiment
        and result["seed"] == cell.entry.seed
        and result["config"] == finite(config_as_json(cell.config))
    )
    return same and result["status"] == "complete" and not (directory / "checkpoint").exists()


def read_row(out: Path, entry: Entry, message: str = "") -> Row:
    """Read what is on the disk of one run; `message` says how its last attempt failed, if known."""
    directory = run_directory(out, entry.key)
    failed = "failed" if message else ""
    # Before the record is read: a run that ends in between is then complete, not interrupted.
    running = "running" if held(directory) else ""
    if not (directory / "result.json").exists():
        return Row(entry, running or failed or "missing", message)
    try:
        result = read_result(directory)
    except RunDirectoryError as error:
        return Row(entry, "failed", str(error))
    # A complete run may still hold the lock while it removes its checkpoints.
    if result["status"] == "complete":
        failed = running = message = ""
    return Row(
        entry,
        running or failed or result["status"],
        message or str(result.get("error") or result.get("diverged") or ""),
        result["timing"].get("sessions", 0),
        result["timing"].get("seconds"),
        result["metrics"],
        {claim["id"]: claim["holds"] for claim in result["claims"]},
    )
