"""Progress bars of long runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Show = Callable[..., None]
"""It takes the name of a bar, the number of its steps that are done, and a note on it."""


@contextmanager
def progress_bars(
    shown: bool | None, totals: Mapping[str, int], heading: str = ""
) -> Iterator[Show]:
    """Print the heading and show a bar for each name in `totals`, which has the numbers of steps.

    `shown=None` does so on a terminal only.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, transient=True)
    if shown is False or (shown is None and not bars.console.is_terminal):
        yield lambda name, done, note="": None
        return
    if heading:
        bars.console.print(heading)
    with bars:
        tasks = {name: bars.add_task(name, total=total, note="") for name, total in totals.items()}
        yield lambda name, done, note="": bars.update(tasks[name], completed=done, note=note)
