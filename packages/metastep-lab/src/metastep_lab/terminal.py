"""The output of the command line: tables, verdicts, paragraphs, and the progress of a run.

Colors and the bar are for terminals. Elsewhere, and with `NO_COLOR`, there are plain lines.
"""

import os
import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from time import perf_counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metastep_lab.catalog import Listing

VERDICTS = {
    True: ("holds", "green"),
    False: ("does not hold", "bold red"),
    None: ("undecided", "yellow"),
}
BAR = 30
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console() -> Console:
    """Return a console for the standard output, without markup in texts of runs.

    It is without color if there is no terminal or `NO_COLOR` is set.
    """
    sizes = {"COLUMNS", "LINES"}
    # rich would also take 0 or a million from them: nothing, or everything, is on one line then.
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in sizes or re.fullmatch("[1-9][0-9]{1,2}", value, re.ASCII)
    }
    return Console(highlight=False, markup=False, emoji=False, _environ=known)


def plain(text: str) -> str:
    """Make a text from a file harmless for a terminal: without control characters."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def experiments_table(experiments: Sequence[Listing]) -> Table:
    """Return a table of experiments: what they ask, and the minutes that each preset takes."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("experiment, minutes", no_wrap=True)
    table.add_column("question and source")
    for one in experiments:
        minutes = "".join(f"\n  {name} {time:g}" for name, time in one.minutes.items())
        name = Text.assemble((one.name, "bold"), (minutes, "dim"))
        table.add_row(name, Text.assemble(one.question, "\n", (one.source, "dim"), "\n"))
    return table


def format_seconds(seconds: float) -> str:
    """Write a duration, such as `0.4 s`, `12 s`, `3 min 12 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counts(verdicts: Iterable[bool | None]) -> str:
    """Count verdicts, such as `6 claims: holds 5, does not hold 0, undecided 1`."""
    given = list(verdicts)
    parts = [
        f"{word} {sum(one is holds for one in given)}" for holds, (word, _) in VERDICTS.items()
    ]
    return f"{len(given)} claims: {', '.join(parts)}"


def paragraph(console: Console, text: str, look: str = "") -> None:
    """Print indented text, without the trailing blanks of rich's own padding."""
    width = max(console.width - 4, 20)
    # A name or an option that is broken at its hyphens could not be copied.
    for line in wrap(plain(" ".join(text.split())), width, break_on_hyphens=False):
        console.print(Text("    " + line, look))


def verdict(console: Console, holds: bool | None, name: str, remark: str = "") -> None:
    """Print whether a claim holds, its name, and a remark."""
    word, look = VERDICTS[holds]
    console.print(Text.assemble((f"{word:<14}", look), (name, "bold"), (remark, "dim")))


class Display:
    """Lines with the elapsed time, and on a terminal a progress bar below them.

    Both show the remaining time of a stage at its mean pace.
    """

    def __init__(self, console: Console):
        self.console = console
        self._begin = perf_counter()
        self._bar_shown = False
        self._last = ("", -1)
        # A stage has one total, and its progress does not fall; each of its parts may have a name.
        self._stage = (-1, 0, 0.0)  # its total, its progress when first seen, and the time
        self._done = 0

    def say(self, message: str) -> None:
        """Show one line."""
        self.clear()
        time = (f"{perf_counter() - self._begin:8.1f} s  ", "dim")
        self.console.print(Text.assemble(time, message), soft_wrap=True)

    def show(self, done: int, total: int, what: str) -> None:
        """Show the progress of a stage: a bar on a terminal, else a line for every tenth part."""
        part = min(done / total, 1.0) if total else 1.0
        left = self._left(done, total)
        if not self.console.is_terminal:
            tenth = (what, int(10 * part))
            if tenth != self._last:
                self._last = tenth
                self.say(f"{what}: {done} of {total}{left}")
            return
        self.clear()
        full = round(BAR * part)
        line = f"{'━' * full}{'─' * (BAR - full)} {done}/{total} {what}{left}"
        # A line as wide as the terminal wraps on some, and `clear` erases one line only.
        self._write(line[: self.console.width - 1])
        self._bar_shown = True

    def _left(self, done: int, total: int) -> str:
        now = perf_counter()
        if self._stage[0] != total or done < self._done:
            # A resumed stage begins with a part that is done and must not count in the pace.
            self._stage = (total, done, now)
        _, first, begin = self._stage
        self._done = done
        if done == first or done >= total:
            return ""
        return f", {format_seconds((now - begin) * (total - done) / (done - first))} left"

    def clear(self) -> None:
        """Remove the bar."""
        if self._bar_shown:
            # Carriage return, and the ANSI code that erases the line.
            self._write("\r\x1b[2K")
            self._bar_shown = False

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()
