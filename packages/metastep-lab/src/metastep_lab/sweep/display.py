"""The display of a sweep: a live table on a terminal, else a line for each finished run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metastep_lab import terminal
from metastep_lab.sweep.grid import Entry
from metastep_lab.sweep.record import Row, run_directory
from metastep_lab.sweep.worker import Outcome
from metastep_lab.terminal import format_seconds

LOOKS = {
    "complete": "green",
    "failed": "bold red",
    "running": "bold",
    "interrupted": "yellow",
    "missing": "dim",
    "waiting": "dim",
}
MARGIN = 6
MANY = 1000
FAILURES = 20


class Monitor:
    """The states of the runs during the sweep.

    Args:
        console: where.
        out: the folder of the sweep.
        entries: all runs.
        ended: those that are complete already.
    """

    def __init__(self, console: Console, out: Path, entries: Sequence[Entry], ended: set[str]):
        self.console = console
        self.out = out
        self.entries = entries
        self._begin = monotonic()
        self._before = len(ended)
        self._ended = dict.fromkeys(ended, "complete")
        self._messages: dict[str, str] = {}
        # For each picture the lock of every run is looked up.
        often = 2 if len(entries) < MANY else 0.2
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=often)

    def __enter__(self) -> "Monitor":
        """Show the table, on a terminal."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the table as it is."""
        if self.console.is_terminal:
            self._live.stop()

    def ended(self, key: str, outcome: Outcome) -> None:
        """Note that a run has ended, and how."""
        state = "complete" if outcome.complete else "failed"
        self._ended[key] = state
        self._messages[key] = outcome.message
        # The table shows it; a line for each of thousands would scroll the failures away.
        if outcome.complete and self.console.is_terminal:
            return
        time = (f"{monotonic() - self._begin:8.1f} s  ", "dim")
        words = [(key, "bold"), "  ", (state, LOOKS[state])]
        reason = f": {outcome.message}" if outcome.message else ""
        so_far = (f"  ({len(self._ended)} of {len(self.entries)}{self._time_left()})", "dim")
        self.console.print(Text.assemble(time, *words, reason, so_far), soft_wrap=True)

    def _time_left(self) -> str:
        """Return the remaining time at the mean pace of this session."""
        here, rest = len(self._ended) - self._before, len(self.entries) - len(self._ended)
        if not here or not rest:
            return ""
        return f", {format_seconds((monotonic() - self._begin) / here * rest)} left"

    def _state(self, entry: Entry) -> str:
        if entry.key in self._ended:
            return self._ended[entry.key]
        # Not `held`, which takes the lock for an instant: a run that starts then finds it busy.
        begun = (run_directory(self.out, entry.key) / ".lock").exists()
        return "running" if begun else "waiting"

    def _picture(self) -> Group:
        states = {entry.key: self._state(entry) for entry in self.entries}
        ended = f"{len(self._ended)} of {len(self.entries)} ended{self._time_left()}"
        spent = format_seconds(monotonic() - self._begin)
        return Group(
            picture(states, self._messages, max(self.console.height - MARGIN, 1)),
            Text(f"{_counts(states.values())}; {spent} passed, {ended}"),
        )


def _counts(states: Iterable[str]) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in LOOKS if counts[state])


def picture(states: dict[str, str], messages: Mapping[str, str], longest: int) -> Table:
    """Return a table of the runs as far as there is room: running, failed, then the others."""
    order = ("running", "failed", "interrupted", "complete", "waiting", "missing")
    shown = sorted(states, key=lambda key: order.index(states[key]))[:longest]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    # Chosen by state, but shown in the order of the sweep: rows do not jump.
    for key in (key for key in states if key in set(shown)):
        table.add_row(key, Text(states[key], LOOKS[states[key]]), Text(messages.get(key, "")))
    return table


def show_failures(console: Console, failures: Mapping[str, str]) -> None:
    """Print which runs failed, and why; of very many the first."""
    for key, message in list(failures.items())[:FAILURES]:
        words = ("failed", LOOKS["failed"]), " ", (key, "bold"), f": {message}"
        console.print(Text.assemble(*words), soft_wrap=True)
    if len(failures) > FAILURES:
        console.print(f"and {len(failures) - FAILURES} more failed; the table names them")


def show_status(console: Console, out: Path, experiment: str, rows: Sequence[Row]) -> None:
    """Print the state of a sweep."""
    for row in rows:
        words = [(f"{row.status:<12}", LOOKS[row.status]), (row.entry.key, "bold")]
        reason = f": {terminal.plain(row.message)}" if row.message else ""
        console.print(Text.assemble(*words, reason), soft_wrap=True)
    states = [row.status for row in rows]
    console.print(
        f"{out}, {terminal.plain(experiment)}: {_counts(states)}, {len(rows)} runs in all",
        soft_wrap=True,
    )
