"""`metastep clean`: read the file, rank its labels, test the ranking, and write the results."""

import hashlib
import json
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from metastep.saving import CheckpointError, load, save
from metastep.sklearn import DifferentFeaturesWarning
from metastep_lab import terminal
from metastep_lab.cleaning.matrix import Matrix, make_matrix
from metastep_lab.cleaning.page import Outcome, build_page
from metastep_lab.cleaning.ranking import Model, Ranking, Trusted, rank
from metastep_lab.cleaning.reading import LabelledFile, check_classes, read_labelled, spellings
from metastep_lab.cleaning.reliability import Reliability, measure
from metastep_lab.cleaning.writing import MARK, write_outcome, write_state
from metastep_lab.errors import INTERRUPTED, RefusedError
from metastep_lab.runs.directories import occupied, remove_leftovers

SMALL = 3000  # largest number of rows for one thread


@dataclass(frozen=True)
class Request:
    """The file to clean, the options, and the output folder."""

    file: Path
    column: str
    validation: Path | None
    model: Model
    directory: Path
    resume: bool

    def command(self, *more: str) -> str:
        """Return the command line."""
        given = ["--validation", str(self.validation)] if self.validation else []
        words = ["metastep", "clean", str(self.file), "--label", self.column, *given]
        return shlex.join([*words, "--model", self.model, "--out", str(self.directory), *more])


def clean(request: Request) -> int:
    """Rank the labels of a file, and write suspects, weights, a clean file and a page.

    Returns the exit status.

    Raises:
        RefusedError: for input that cannot be used; nothing has been written then.
    """
    display = terminal.Display(terminal.console())
    display.say(f"reading {request.file}")
    file = read_labelled(request.file, request.column)
    check_classes(file)
    for alike in spellings(file)[:5]:
        display.say(f"warning: {alike} are different classes; if they mean one, write them alike")
    validation = _read_validation(request, file)
    # Only the linear model without checked labels takes sparse features.
    matrix = make_matrix(file, validation, dense=request.model != "linear" or bool(validation))
    # The folder of images is input, which stays as it is.
    if request.file.is_dir() and request.directory.resolve().is_relative_to(request.file.resolve()):
        raise RefusedError(f"--out is {request.directory}, inside of {request.file}")
    inputs = [request.file, *([request.validation] if request.validation else [])]
    state = _state(request, file, validation)
    with occupied(request.directory, MARK, inputs):
        complete = _check_previous(request, state)
        if complete:
            display.say(f"{request.directory} is complete already; there is nothing to do")
            return 0
        remove_leftovers(request.directory)
        # Written first, so that an interrupted call is known by its folder.
        write_state(request.directory, {**state, "status": "interrupted"})
        try:
            outcome = _judge(request, file, validation, matrix, display)
        except RefusedError:
            raise
        except ValueError as error:  # numbers that no check has foreseen
            if not request.resume:  # what an earlier call has left is not for this one to remove
                (request.directory / MARK).unlink()
                shutil.rmtree(request.directory / "checkpoint", ignore_errors=True)
            raise RefusedError(f"{request.file}: {error}") from error
        except KeyboardInterrupt:
            display.clear()
            line = request.command("--resume")
            print(f"metastep: interrupted; continue with: {line}", file=sys.stderr)
            return INTERRUPTED
        finally:
            display.clear()
        # Before any file is written: what fails here leaves a folder that `--resume` continues.
        page = build_page(file, outcome, request.command())
        write_outcome(request.directory, file, outcome, page, state)
        shutil.rmtree(request.directory / "checkpoint", ignore_errors=True)
    _say(request, outcome, display)
    return 0


def _read_validation(request: Request, file: LabelledFile) -> LabelledFile | None:
    """Read the checked examples; their columns and classes must be those of the file."""
    if request.validation is None:
        return None
    found = read_labelled(request.validation, request.column)
    name = f"--validation is {request.validation}"
    if (found.images is None) != (file.images is None):
        raise RefusedError(f"{name}; one of the two is a folder of images and the other is not")
    if file.images is None:
        here, there = list(map(str, found.inputs.columns)), list(map(str, file.inputs.columns))
        for one, columns in ((here, there), (there, here)):
            if missing := [column for column in columns if column not in one]:
                where = "which has no" if one is here else "whose column is not in the file:"
                raise RefusedError(f"{name}, {where} column {missing[0]!r}")
    elif found.images and found.images.pixels.shape[1] != file.images.pixels.shape[1]:
        raise RefusedError(f"{name}, whose images have another size or other colors")
    present, known = set(found.labels.tolist()), set(file.labels.tolist())
    if unknown := sorted(present - known):
        raise RefusedError(f"{name}, with the unknown class {unknown[0]!r}")
    if absent := sorted(known - present):
        raise RefusedError(f"{name}, without an example of the class {absent[0]!r}")
    return found


def _state(request: Request, file: LabelledFile, validation: LabelledFile | None) -> dict[str, Any]:
    """Return the values that identify this call."""
    digest = hashlib.sha256()
    # By content, not by date: a file that was copied or touched is still the same.
    for one in (file, validation) if validation else (file,):
        digest.update(one.content)
        if one.images is not None:
            digest.update(one.images.pixels.tobytes())
    return {
        "schema": 1,
        "file": request.file.name,
        "label": request.column,
        "model": request.model,
        "validation": request.validation.name if request.validation else None,
        "sha256": digest.hexdigest(),
    }


def _check_previous(request: Request, state: dict[str, Any]) -> bool:
    """Refuse a folder of another call; return whether this call is already complete."""
    path = request.directory / MARK
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same, status = all(found.get(name) == state[name] for name in state), found["status"]
    except (ValueError, AttributeError, KeyError, OSError):
        raise RefusedError(f"{path} is damaged; choose another --out") from None
    if not same:
        raise RefusedError(
            f"--out is {request.directory}, which holds the outcome of another file or setting; "
            "choose another"
        )
    if not request.resume:
        raise RefusedError(
            f"--out is {request.directory}, which holds this work already ({status}); "
            "add --resume, or choose another"
        )
    return status == "complete"


def _judge(
    request: Request,
    file: LabelledFile,
    validation: LabelledFile | None,
    matrix: Matrix,
    display: terminal.Display,
) -> Outcome:
    """Rank the labels, and rank them again with planted ones."""
    classes, labels = np.unique(file.labels, return_inverse=True)
    trusted = None
    if validation is not None:
        trusted = Trusted(matrix.validation, np.searchsorted(classes, validation.labels))

    def rank_labels(given: np.ndarray, stage: str) -> Ranking:
        path = request.directory / "checkpoint" / stage.replace(" ", "-")
        return _kept(path, lambda: _rank(given, stage))

    def _rank(given: np.ndarray, stage: str) -> Ranking:
        progress = lambda done, total: display.show(done, total, stage)
        # With small data on a busy machine, threads mostly wait for each other.
        with threadpool_limits(1 if len(given) < SMALL else None):
            return rank(matrix.train, given, trusted, request.model, progress)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, kind, *_: display.say(_warning(message, kind))
        ranking = rank_labels(labels, "ranking labels")
        # What concerns the file has been said; about planted labels the user can do nothing.
        warnings.simplefilter("ignore")
        reliability: Reliability | None = measure(
            labels, ranking, lambda planted: rank_labels(planted, "finding planted mistakes")
        )
    return Outcome(
        classes, labels, ranking, reliability, matrix.notes, request.model, validation is not None
    )


def _warning(message: Warning | str, kind: type[Warning]) -> str:
    """Return a warning of the library as one line."""
    if issubclass(kind, DifferentFeaturesWarning):
        message = (
            "the columns of --validation clearly differ from those of the file in location or "
            "scale; are both in the same units?"
        )
    return f"warning: {message}"


def _kept(path: Path, make: Callable[[], Ranking]) -> Ranking:
    """Return the saved value of an interrupted call, or compute and save it."""
    if path.exists():
        try:
            return Ranking(*map(np.array, load(path, {})[1]["columns"]))
        except (CheckpointError, KeyError, TypeError) as error:
            raise RefusedError(f"{path} is damaged ({error}); remove it") from error
    ranking = make()
    path.parent.mkdir(exist_ok=True)
    # JSON gives the same bits back: Python writes floats with all their digits.
    save(path, {}, {"columns": [column.tolist() for column in ranking]})
    return ranking


def _say(request: Request, outcome: Outcome, display: terminal.Display) -> None:
    """Print the results."""
    console = display.console
    console.print(outcome.lead(), soft_wrap=True)
    if outcome.reliability is None:
        console.print("how many of them are wrong cannot be estimated; the page says why")
    else:
        share, precision = outcome.reliability.share, outcome.reliability.precision
        console.print(
            f"wrong labels, if the model suits the data: {share[0]:.1%} ({share[1]:.1%} to "
            f"{share[2]:.1%}); "
            f"of the suspects {precision[0]:.0%} are wrong",
            soft_wrap=True,
        )
    console.print(f"columns: {'; '.join(outcome.notes)}", soft_wrap=True)
    console.print(f"look at {request.directory / 'report.html'}", soft_wrap=True)
