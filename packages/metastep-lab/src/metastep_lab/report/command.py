"""`metastep report`: one page about finished runs."""

from collections.abc import Sequence
from pathlib import Path

from metastep.files import write_atomically
from metastep_lab.errors import RefusedError
from metastep_lab.report.page import build_page
from metastep_lab.runs.directories import check_output


def write_page(directories: Sequence[Path], out: Path) -> None:
    """Write one page with the figures, claims and tables of run directories.

    Raises:
        RefusedError: if the page cannot be written.
        RunDirectoryError: if a directory holds no run, or a damaged one.
    """
    check_output(out, directories, page=True)
    page = build_page(list(directories))
    try:
        write_atomically(out, page.encode())
    except OSError as error:
        raise RefusedError(f"--out is {out}: {error.strerror}") from error
    runs = "run" if len(directories) == 1 else "runs"
    print(f"{out}: {len(directories)} {runs}, {len(page.encode()) / 1e6:.1f} MB")
