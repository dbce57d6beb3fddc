"""Progress of both passes of a driven run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Show = Callable[[str, int], None]


@contextmanager
def progress_of(shown: bool | None, totals: dict[str, int], plan: object) -> Iterator[Show]:
    """Print the plan and show one bar for each pass; `shown=None` does so on a terminal.

    Yields:
        A function of the name of a pass and the number of its steps that are done.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, transient=True)
    if shown is False or (shown is None and not bars.console.is_terminal):
        yield lambda name, done: None
        return
    bars.console.print(str(plan))
    with bars:
        tasks = {name: bars.add_task(name, total=total) for name, total in totals.items()}
        yield lambda name, done: bars.update(tasks[name], completed=done)
