"""Safe reading of untrusted files, and atomic writing.

Every defect of a file is a `ValueError` with the reason; each reader converts it into its own
documented error. Sizes are checked before anything is decompressed.
"""

import json
import math
import os
import zipfile
from collections.abc import Callable, Collection
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from tempfile import NamedTemporaryFile
from types import NoneType, UnionType
from typing import IO, Any, Union, get_args, get_origin

import numpy as np

LARGEST = 2**30  # bytes of one file, compressed and decompressed
LARGEST_JSON = 2**26
# The limit is that of NumPy, which evaluates a header as a Python literal.
LARGEST_HEADER = 10_000
DEEPEST = 64


def readable_bytes(count: float | int) -> str:
    """Format a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> None:
    """Write `content` to `path` atomically: a reader sees either the old file or the new one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is
    renamed to `path`. A process that is killed leaves at most a `.tmp` file behind. Parent folders
    are created; where that or writing fails, an `OSError` leaves everything as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
    ) as temporary:
        try:
            if isinstance(content, bytes):
                temporary.write(content)
            else:
                content(temporary.file)
            # Without it, a crash of the machine may leave the new name with an empty file.
            temporary.flush()
            os.fsync(temporary.fileno())
            # Temporary files are made for their owner alone.
            os.chmod(temporary.name, 0o644)
            # The folder itself is not flushed: a crash may bring the old file back, which is whole,
            # too.
            os.replace(temporary.name, path)
        except BaseException:
            # This includes Ctrl-C: nothing else would ever delete the file.
            Path(temporary.name).unlink(missing_ok=True)
            raise


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Return the content of a file of at most `largest` bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, or is a device or a pipe, whose size is unknown.
    """
    # A folder passes, since `open` has the usual error for it; a pipe would block `open`.
    if not S_ISREG(os.stat(path).st_mode) and not path.is_dir():
        raise ValueError("it is a device or a pipe")
    with open(path, "rb") as file:
        # The size in the directory is not asked: it is out of date if another process writes.
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return content


def parse_json(content: bytes | str, finite: bool = True) -> Any:
    """Read JSON, restricted to what all readers interpret alike.

    Args:
        content: the text; bytes are UTF-8.
        finite: whether to refuse NaN and infinities, which Python writes but JSON does not allow.

    Returns:
        The value. Its integers fit 64 bits, its strings can be encoded as UTF-8, and its depth is
        at most 64.

    Raises:
        ValueError: if the text is not of this form.
    """
    kinds: dict[str, Any] = {"parse_int": _integer}
    if finite:
        kinds |= {"parse_constant": _no_number, "parse_float": _float}
    try:
        value = json.loads(content, **kinds)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_parts(value)
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _integer(text: str) -> int:
    # Python refuses to convert more than 4300 digits; checking the length first gives our message.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the integer {text[:20]} of {len(text)} digits does not fit 64 bits")
    return int(text)


def _float(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:20]} does not fit 64 bits")
    return float(text)


def _check_parts(value: Any) -> None:
    """Refuse values that are nested too deeply, and strings that are not Unicode."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        following: list[Any] = []
        for part in level:
            if isinstance(part, str):
                part.encode()  # fails for half of a surrogate pair, as a ValueError
            elif isinstance(part, dict):
                following += [*part.keys(), *part.values()]
            elif isinstance(part, list):
                following += part
        level = following


def has_type(value: Any, kind: Any) -> bool:
    """Whether a result of `parse_json` has the type of a field.

    `kind` is `bool`, `int`, `float`, `str`, None, a union, or a tuple of one type. An integer is
    accepted as a float, a boolean not as a number.
    """
    if get_origin(kind) in (Union, UnionType):
        return any(has_type(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(has_type(one, get_args(kind)[0]) for one in value)
    # By `type`: to `isinstance` a boolean is an integer.
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in (bool, int, str, NoneType) else False


def parse_arrays(
    content: bytes | IO[bytes], names: Collection[str] | None = None, largest: int = LARGEST
) -> dict[str, np.ndarray]:
    """Read an untrusted `.npz` archive.

    Args:
        content: the archive, or a file that ends with it.
        names: the names of the arrays to read, None for all; other members are not decompressed.
        largest: the largest total size of these arrays in bytes.

    Returns:
        The arrays by name; missing ones are omitted.

    Raises:
        ValueError: if the archive is damaged, has a member that is not an array of numbers or
            text, or exceeds `largest`. Nothing larger than `largest` is ever decompressed.
    """
    try:
        with zipfile.ZipFile(
            BytesIO(content) if isinstance(content, bytes) else content
        ) as archive:
            members = [
                member
                for member in archive.infolist()
                if names is None or member.filename.removesuffix(".npy") in names
            ]
            # These are the stated sizes, beyond which `_array` does not read.
            if sum(member.file_size for member in members) > largest:
                raise ValueError(f"it unpacks to more than {largest} bytes")
            if len({member.filename for member in members}) < len(members):
                raise ValueError("it holds two arrays of one name")
            return {
                member.filename.removesuffix(".npy"): _array(archive, member) for member in members
            }
    except Exception as error:  # of a dozen kinds: BadZipFile, zlib.error, struct.error, ...
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one member; its size must be the one that its header states."""
    name = member.filename
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed by a method that NumPy does not use")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        # Version 3.0 only adds names of fields beyond Latin-1.
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has the format {version}; allowed are 1.0 and 2.0")
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file, max_header_size=LARGEST_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which only a pickle can")
        # Python's integers do not wrap around, as NumPy's would for a shape such as (2**40, 2**40).
        entries = math.prod(shape)
        promised = entries * dtype.itemsize
        # Entries without bytes, as of the dtype `S0`, would make any shape as large as its header
        # says.
        unbounded = entries > 0 and dtype.itemsize == 0
        if min(shape, default=0) < 0 or unbounded or promised != member.file_size - file.tell():
            raise ValueError(f"{name} is not as large as its header says")
        # Without a number, `read` may unpack 2 GiB of a member before it looks at the stated size.
        # A bytearray lets the arrays be written to.
        data = bytearray(file.read(promised))
    # `frombuffer` refuses a dtype without bytes, which an array without entries may have.
    if entries == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
