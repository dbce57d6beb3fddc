"""Checked files of pytrees: a tree is restored to the same bits, or the file is refused.

A file consists of a line with the format and a checksum of the rest, a line of JSON (names, shapes
and the caller's notes) and an `.npz` archive without pickles. It is written atomically, and refused
if any byte has changed.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from metastep.files import parse_arrays, parse_json, write_atomically
from metastep.trees import is_key

FORMAT = "metastep checkpoint 1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, or of another run."""


def save(path: Path, tree: PyTree, notes: Mapping[str, Any]) -> None:
    """Write the arrays of `tree` to `path`, atomically.

    Args:
        path: the file.
        tree: any pytree; leaves that are not arrays are not saved.
        notes: a JSON-compatible dictionary stored beside the arrays.

    Raises:
        OSError: if the file cannot be written. An older file at `path` then remains.
    """
    leaves = jax.tree.leaves(eqx.filter(tree, _is_array))
    header = {"structure": _structure(tree), "notes": dict(notes)}

    def write(file: IO[bytes]) -> None:
        # The checksum comes first but is known last, so its place is filled in at the end.
        file.write(_seal(hashlib.sha256().hexdigest()) + b"\n")
        # Without `seek` and `tell`, `zipfile` writes strictly forward: every byte passes once.
        sealed = _Sealed(file)
        sealed.write(json.dumps(header).encode() + b"\n")
        with zipfile.ZipFile(cast(Any, sealed), "w") as archive:
            for index, leaf in enumerate(leaves):
                # The size is unknown until the end, and may be above 4 GiB.
                with archive.open(f"arr_{index}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _plain(leaf))
        file.seek(0)
        file.write(_seal(sealed.checksum.hexdigest()))

    write_atomically(path, write)


class _Sealed:
    """A file that is written sequentially, and its checksum."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.checksum = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.checksum.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def load(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Read a file of `save`.

    Args:
        path: the file.
        like: a tree of the same structure, shapes and dtypes, of arrays or (for other arrays than
            keys) `ShapeDtypeStruct`; its other leaves are kept.

    Returns:
        The tree with the saved arrays, and the notes.

    Raises:
        CheckpointError: if the file is damaged, of another format, or holds a tree of another
            structure, other shapes or other dtypes.
        FileNotFoundError: if there is no file.
    """
    damaged = CheckpointError(
        f"{path} is damaged or not a checkpoint of this version; delete it to start this part of "
        "the run afresh."
    )
    with open(path, "rb") as file:
        # The line is bounded, since a file of another kind may have no end of line for gigabytes.
        seal = file.readline(2 * len(_seal("")) + 64)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if seal.rstrip(b"\n") != _seal(checksum):
            raise damaged
        file.seek(len(seal))
        try:
            # Notes may hold infinity, such as the best objective before the first measurement.
            header = parse_json(file.readline(), finite=False)
            # `save` does not compress, so the file cannot decompress to more than its size.
            saved = list(parse_arrays(file, largest=path.stat().st_size).values())
        except ValueError as error:
            raise damaged from error
    if not isinstance(header, dict) or not isinstance(header.get("notes"), dict):
        raise damaged
    if header.get("structure") != _structure(like):
        raise CheckpointError(
            f"{path} belongs to another run: its arrays have other names, shapes or dtypes than "
            f"this one's{_difference(header.get('structure'), like)}. Resume with the "
            "configuration it was written with, or choose another file."
        )
    # By position: `_structure` has compared the names, shapes and dtypes in the same order.
    arrays, static = eqx.partition(like, _is_array)
    templates, treedef = jax.tree.flatten(arrays)
    try:
        restored = [_restore(value, leaf) for value, leaf in zip(saved, templates, strict=True)]
    except ValueError as error:
        raise damaged from error
    return eqx.combine(jax.tree.unflatten(treedef, restored), static), header["notes"]


def _seal(checksum: str) -> bytes:
    return f"{FORMAT} sha256 {checksum}".encode()


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _plain(leaf: Array) -> np.ndarray:
    """Return the bits as a NumPy dtype: NumPy's format does not support bfloat16 and the like."""
    return np.ascontiguousarray(_data(leaf)).reshape(-1).view(np.uint8)


def _restore(value: np.ndarray, leaf: Array | jax.ShapeDtypeStruct) -> Array:
    data = _data(leaf)
    restored = jnp.asarray(value.view(data.dtype).reshape(data.shape))
    if is_key(leaf):
        return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(cast(Array, leaf)))
    return restored


def _difference(saved: Any, like: PyTree) -> str:
    """Name the first array that differs from that of the file."""
    pairs = zip(str(saved).split("; "), _structure(like).split("; "), strict=False)
    return next((f" ({there}, and not {here})" for there, here in pairs if there != here), "")


def _structure(tree: PyTree) -> str:
    """Return names, shapes and dtypes of the arrays as a text for comparison."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, _is_array))
    return "; ".join(
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves
    )
