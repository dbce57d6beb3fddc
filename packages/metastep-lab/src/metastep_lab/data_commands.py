"""`metastep data`: which data sets are there, and how they are fetched."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from metastep_lab import data as data_sets
from metastep_lab import terminal
from metastep_lab.configuration import nearest
from metastep_lab.data.dataset import DownloadError, find, places
from metastep_lab.data.fetching import HOMES, default_folder, staged
from metastep_lab.errors import INTERRUPTED, RefusedError

RECIPES = {recipe.name: recipe for recipe in data_sets.RECIPES}


def list_data(folder: Path | None) -> None:
    """Show every data set: where it was found, and what fetching it takes.

    Raises:
        RefusedError: if the given folder does not exist.
    """
    with _refusing():
        found = data_sets.available(folder)
    console = terminal.console()
    for name, path in found:
        line = Text.assemble((f"{name:<11}", "bold"), str(path) if path else "not found")
        console.print(line, soft_wrap=True)
        console.print(f"{'':<11}{_terms(name, folder)}", style="dim", soft_wrap=True)
    console.print("Fetch the original files of one with: metastep data fetch NAME")


def fetch_data(name: str, folder: Path | None, address: str | None, sha256: str | None) -> int:
    """Fetch the original files of a data set, and show how far it is; return the exit status.

    The arguments are those of `data.fetching.fetch`.

    Raises:
        RefusedError: if there is no such data set, or it could not be fetched.
    """
    if name == "digits":
        raise RefusedError("digits comes with scikit-learn: there is nothing to fetch")
    if name not in HOMES:
        near, there = nearest(name, list(HOMES)), ", ".join(HOMES)
        raise RefusedError(f"unknown data set {name!r}{near}; there is: {there}")
    console = terminal.console()
    display = terminal.Display(console)

    def show(file: str, done: int, total: int) -> None:
        display.show(-(-done // 1000), -(-total // 1000), f"kB of {file}")

    with _refusing():
        folder = default_folder() if folder is None else folder
        try:
            files = data_sets.fetch(name, folder, address, sha256, show)
        except KeyboardInterrupt:
            display.clear()
            print("metastep: interrupted; the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
        except DownloadError as error:
            kept = staged(folder, name).exists()
            more = " What arrived is kept: the same command goes on from there." if kept else ""
            raise RefusedError(f"{error}{more}") from error
        finally:
            display.clear()
    for file in files:
        console.print(str(file), soft_wrap=True)
    console.print(f"Terms of use: {RECIPES[name].license}", soft_wrap=True)
    where = files[0].parent
    if where.resolve() not in [place.resolve() for place in places()]:
        console.print(
            f"Use it with: --data {where}, or METASTEP_DATA={where.absolute()}", soft_wrap=True
        )
    return 0


def _terms(name: str, folder: Path | None) -> str:
    """What was found of a data set, if it is not all, what its files take, and its license."""
    if name not in HOMES:
        return "comes with scikit-learn"
    hit = find(RECIPES[name], folder)
    terms = f"originals of {HOMES[name].size / 1e6:.1f} MB; {RECIPES[name].license}"
    return f"{hit[2].remark}; {terms}" if hit and hit[2].remark else terms


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what keeps data from being had into a message for the user."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise RefusedError(str(error)) from error
