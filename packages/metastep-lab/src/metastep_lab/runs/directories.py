"""Checks of output paths, and the lock of a run directory."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metastep_lab.errors import BusyError, RefusedError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl


FILES = {
    "result.json": {"result.json", "arrays.npz", "tables", "figures", "checkpoint", ".lock"},
    "sweep.json": {"sweep.json", "sweep.csv", "sweep.parquet", "logs", ".lock"},
    "cleaning.json": {
        "suspects.csv",
        "weights.csv",
        "clean.csv",
        "report.html",
        "checkpoint",
        ".lock",
    },
}
"""What a run, a sweep and `metastep clean` leave beside the file that tells them from others."""

PAGE = b"<!DOCTYPE html>"


def check_output(out: Path, inputs: Iterable[Path], page: bool = False) -> None:
    """Refuse an output path where anything but an earlier output could be lost.

    `out` is a folder for a run or a sweep, or, with `page`, a page, which may replace an earlier
    page only; `inputs` are what the command reads.

    Raises:
        RefusedError: if `out` is a file of a run or a sweep or lies in a folder of such files, is
            an input, or, for a page, is a folder or a file of another kind.
    """
    try:
        path = out.resolve()
        for folder in path.parents:
            for mark, names in FILES.items():
                part = path.relative_to(folder).parts[0]
                if part in names and (folder / mark).exists():
                    raise RefusedError(f"--out is {out}, a part of the run in {folder}")
        if any(path == other.resolve() for other in inputs):
            raise RefusedError(f"--out is {out}, which the command reads")
        if page and path.is_dir():
            raise RefusedError(f"--out is {out}: Is a directory")
        if page and os.path.lexists(path) and not (path.is_file() and _is_page(path)):
            raise RefusedError(f"--out is {out}, which is there and is no page; name another file")
    # Ours is a ValueError as well, and has its message already.
    except RefusedError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise RefusedError(f"--out is {out}: {reason}") from error


def _is_page(path: Path) -> bool:
    with open(path, "rb") as file:
        # An empty file, such as one that `mktemp` made, has nothing that could be lost.
        return file.read(len(PAGE)) in (PAGE, b"")


@contextmanager
def occupied(
    directory: Path, mark: str = "result.json", inputs: Iterable[Path] = ()
) -> Iterator[None]:
    """Make a run directory if there is none, and lock it against other processes.

    The directory is new, empty, or has a run in it, which the file `mark` shows; `inputs` are what
    the command reads.

    Raises:
        BusyError: if another process is running in it.
        RefusedError: if `directory` is not such a folder, belongs to another run or cannot be
            written to. If the body raises it, the folders that were made are removed.
    """
    check_output(directory, inputs)
    made = _make(directory, mark)
    try:
        with _locked(directory):
            yield
    except RefusedError:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _make(directory: Path, mark: str) -> list[Path]:
    """Make the folder; return the folders made, the innermost first."""
    path = directory.absolute()
    try:
        lineage = [path, *path.parents]
        missing = [folder for folder in lineage if not os.path.lexists(folder)]
        # The missing folders are the innermost ones, so the next one is the nearest that is there.
        nearest = lineage[len(missing)]
        if not nearest.is_dir():
            raise RefusedError(f"--out is {directory}, but {nearest} is no folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RefusedError(f"--out is {directory}, but {nearest} cannot be written to")
        if not missing and not (path / mark).exists():
            # Hidden files do not count: the lock of a killed process, and those of file managers.
            if any(not entry.name.startswith(".") for entry in path.iterdir()):
                raise RefusedError(f"--out is {directory}, which holds other files and no {mark}")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"--out is {directory}: {error.strerror}") from error
    return missing


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory; the system releases it when the process ends."""
    path = directory / ".lock"
    busy = BusyError(f"another process is running in {directory}; wait, or end it")
    try:
        # For writing, which an exclusive lock on NFS requires.
        handle = open(path, "ab")
    except OSError as error:
        raise RefusedError(f"{directory} cannot be written to: {error.strerror}") from error
    with handle:
        if fcntl is not None:  # there is no lock on Windows
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous process may have removed the file after this one opened it.
                if os.fstat(handle.fileno()).st_ino != os.stat(path).st_ino:
                    raise busy
            except OSError:
                raise busy from None
        try:
            yield
        finally:
            # Before the lock is released: afterwards this may be the file of the next process.
            path.unlink(missing_ok=True)


def held(directory: Path) -> bool:
    """Whether a process is running in a directory; False also if the system cannot tell."""
    try:
        with open(directory / ".lock", "rb") as handle:
            if fcntl is not None:
                # Shared, so that two that ask at the same time do not take each other for the run.
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of a process that was killed."""
    for folder in (directory, directory / "tables", directory / "figures"):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
