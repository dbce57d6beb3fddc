"""What an experiment sees of its run: the seed, the data, and where its files go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metastep_lab.runs import records
from metastep_lab.runs.environment import default_precision
from metastep_lab.tables import Table


@dataclass
class RunContext:
    """The `Context` of a run on this machine.

    Attributes:
        seed: the random seed.
        data: the folder that holds data sets, or None.
        resume: whether this continues an earlier run.
        directory: the run directory.
        say: shows one line.
        show: shows progress: done, total, what.
        untouched: whether the experiment has neither written a file nor requested a path.
        precisions: JAX's default float types seen when the experiment called.
    """

    seed: int
    data: Path | None
    resume: bool
    directory: Path
    say: Callable[[str], None]
    show: Callable[[int, int, str], None]
    untouched: bool = True
    precisions: set[str] = field(default_factory=set)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def table(self, name: str, columns: Table) -> None:
        """Write `tables/NAME.csv`."""
        self._note(untouched=False)
        records.write_table(self.directory, name, columns)

    def arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write `arrays.npz`, with what earlier calls wrote."""
        self._note(untouched=False)
        self._arrays.update(arrays)
        records.write_arrays(self.directory, self._arrays)

    def checkpoint(self, name: str) -> Path:
        """Return the path under `checkpoint/` for the part `name`."""
        self._note(untouched=False)
        folder = self.directory / "checkpoint"
        folder.mkdir(exist_ok=True)
        return folder / records.check_name("checkpoint", name)

    def log(self, message: str) -> None:
        """Show one line."""
        self._note()
        self.say(message)

    def progress(self, done: int, total: int, what: str) -> None:
        """Show how far a stage is."""
        self._note()
        self.show(done, total, what)

    def _note(self, untouched: bool = True) -> None:
        # Experiments choose the precision inside `run`, so it can be seen only in these calls.
        self.precisions.add(default_precision())
        self.untouched = self.untouched and untouched
