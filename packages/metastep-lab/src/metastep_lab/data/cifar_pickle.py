"""The pickled batches of CIFAR-10 and CIFAR-100, read without trusting them.

A pickle is a program that may call anything it can name. Here every allowed name stands for an
object that only stores its arguments; every other name is refused. The array is then built from the
stored arguments, so the file never calls a function of NumPy.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metastep_lab.data.dataset import DataCorruptError
from metastep_lab.data.reading import reading, require


class _Remembered:
    """A placeholder for an array, a dtype or a constructor; it only stores its arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Encode:
    """The form of Python 3's bytes in old pickles. BUILD cannot set anything on it."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        del encoding  # always latin1
        return str.encode(text, "latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets a state where no data need one")


ALLOWED = {
    ("numpy", "ndarray"): _Remembered,
    ("numpy", "dtype"): _Remembered,
    ("numpy.core.multiarray", "_reconstruct"): _Remembered,
    ("numpy._core.multiarray", "_reconstruct"): _Remembered,
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            name = f"{module_name}.{global_name}"
            raise pickle.UnpicklingError(f"it asks for {name}, which no data needs") from None


def parse_pickle(
    content: bytes, path: Path, classes: Mapping[str, int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the pixels and labels of one batch of the Python version.

    Args:
        content: the pickle: a dict with `data`, uint8 of shape (n, 3072), and lists of labels.
        path: its file, for messages.
        classes: the entries that hold labels, each with the number of its classes: `{"labels": 10}`
            for CIFAR-10.

    Returns:
        The pixels, uint8 of shape (n, 3072), and the labels of each entry, uint8 of shape (n,).

    Raises:
        DataCorruptError: if the pickle is damaged, names anything but an array, or holds something
            else.
    """
    with reading(path, "a CIFAR batch"):
        _check_memo(content)
        # Python 2 wrote them; decoded as ASCII, its strings of pixels would be refused.
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        require(isinstance(batch, dict), path, "is not a CIFAR batch: it holds no dict")
        batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        missing = {"data", *classes} - batch.keys()
        require(not missing, path, f"lacks the entry {', '.join(sorted(missing))}")
        pixels = _rebuild(batch["data"], path)
        return pixels, [_labels(batch[entry], count, path) for entry, count in classes.items()]


def _labels(stored: Any, count: int, path: Path) -> np.ndarray:
    labels = np.asarray(stored)
    require(labels.dtype.kind == "i" and labels.ndim == 1, path, "has labels that are no integers")
    wrong = f"has a label that is not 0 to {count - 1}"
    require(bool(((labels >= 0) & (labels < count)).all()), path, wrong)
    return labels.astype(np.uint8)


def _check_memo(content: bytes) -> None:
    """Refuse a memo index beyond the size of the file: Python would reserve memory up to it."""
    for opcode, argument, _ in pickletools.genops(content):
        remembers = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if remembers and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it remembers a value at the place {argument}")


def _rebuild(remembered: object, path: Path) -> np.ndarray:
    """The array whose pickled state is (version, shape, dtype, is Fortran-ordered, bytes)."""
    if not isinstance(remembered, _Remembered) or len(remembered.state) != 5:
        raise DataCorruptError(f"{path} has no array under 'data'.")
    _, shape, dtype, fortran, content = remembered.state
    one_byte = isinstance(dtype, _Remembered) and dtype.arguments[0] in ("u1", b"u1")
    require(one_byte, path, "has no array of bytes under 'data'")
    require(len(shape) == 2 and shape[1] == 3072, path, f"has data of shape {shape}, not n x 3072")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
