"""The schemas of `result.json` and `sweep.json`, checked once when they are read."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metastep.files import LARGEST_JSON, parse_json, read_bytes
from metastep_lab.catalog import LARGEST_SEED
from metastep_lab.errors import RunDirectoryError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.=,+-]*$", max_length=200)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Scalar = str | bool | int | float | None


class Checked(BaseModel):
    """Values of the types of JSON: no text for a number, no number for a boolean."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ClaimPart(Checked):
    """A claim of a paper, and its verdict in a run."""

    id: str
    text: str
    evidence: str
    holds: bool | None


class FigurePart(Checked):
    """A figure: its file under `figures/` without the suffix, and its description."""

    name: Name
    alt: str


class TimingPart(Checked):
    """When a run began, how long it took, and in how many processes."""

    started: str | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    sessions: Annotated[int, Field(ge=0, le=2**31)] = 0


class ResultFile(Checked):
    """`result.json`; other fields are left unchanged."""

    status: Literal["complete", "interrupted", "failed"]
    experiment: str
    source: str
    question: str | None = None
    answer: str | None = None
    about: str | None = None
    config: dict[str, Any]
    preset: str | None = None
    seed: Seed
    command: str | None = None
    error: str | None = None
    diverged: str | None = None
    metrics: dict[str, float | None]
    claims: list[ClaimPart]
    figures: list[FigurePart] = []
    timing: TimingPart
    environment: dict[str, Scalar | dict[str, Scalar]]


class EntryPart(Checked):
    """One run of a sweep: the name of its folder, the fields that vary, its seed."""

    key: Key
    values: dict[str, Scalar | list[Scalar]]
    seed: Seed


class SweepFile(Checked):
    """`sweep.json`."""

    experiment: str
    runs: list[EntryPart]


Model = TypeVar("Model", bound=Checked)


def read_file(
    path: Path, kind: type[Model], schema: int, what: str
) -> tuple[Model, dict[str, Any]]:
    """Read a file of a schema from the disk, as `read_checked`; `what` is what its folder holds.

    Raises:
        RunDirectoryError: if there is none, or it is damaged or of another schema.
    """
    try:
        return read_checked(read_bytes(path, LARGEST_JSON), kind, schema)
    except (FileNotFoundError, NotADirectoryError):
        raise RunDirectoryError(f"{path.parent} holds no {what}: there is no {path}") from None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} {error}") from error


def read_checked(content: bytes, kind: type[Model], schema: int) -> tuple[Model, dict[str, Any]]:
    """Read the content of a file of a schema.

    Returns:
        The content as `kind`, and as plain JSON with the fields that `kind` does not name.

    Raises:
        ValueError: if it holds anything else; the message is the predicate of a sentence.
    """
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ValueError(f"is damaged: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("is damaged: it holds no JSON object")
    found = value.get("schema")
    # By type: to `==`, True and 1.0 are 1.
    if type(found) is not int or found != schema:
        raise ValueError(f"has schema {str(found)[:40]}; this version reads {schema}")
    try:
        return kind.model_validate(value), value
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"is damaged: {place}: {first['msg']}") from error
