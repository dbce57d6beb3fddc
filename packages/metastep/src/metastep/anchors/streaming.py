"""Streams of matrix rows: division into equal blocks, and accumulation of a triangular factor."""

from collections.abc import Iterable, Iterator

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

FEWEST_ROWS = 2048  # reduced together, since many small factorizations cost more than one


def even_blocks(batches: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Divide a stream of rows into blocks of `rows` rows; the last may have fewer."""
    waiting: list[np.ndarray] = []
    count = 0
    for batch in batches:
        while count + len(batch) >= rows:
            part, batch = np.split(batch, [rows - count])
            yield np.concatenate([*waiting, part])
            waiting, count = [], 0
        if len(batch):
            waiting.append(batch)
            count += len(batch)
    if count:
        yield np.concatenate(waiting)


class Triangle:
    """The triangular factor R of a matrix A = Q R whose rows arrive in batches.

    R has the same inner products of columns as A, R^T R = A^T A, so every least-squares problem
    among the columns of A can be solved with R. This avoids the squared condition number of the
    normal equations, and gives the residuals as vectors instead of differences of large numbers.

    The bits of R depend on the rows and their order, not on the division into batches. Float64
    throughout; memory 3 columns^2 (at least 2048 columns), time about 2.7 columns^2 for each row.

    Attributes:
        count: the number of rows so far.
    """

    def __init__(self, columns: int):
        self.count = 0
        self._columns = columns
        self._filled = columns  # the first rows of the buffer hold R
        rows = columns + max(2 * columns, FEWEST_ROWS)
        # By columns, as LAPACK reads: a full buffer is factorized in place.
        self._buffer = np.zeros((rows, columns), order="F")

    def add(self, rows: np.ndarray) -> None:
        """Add rows of shape (any number, columns)."""
        self.count += len(rows)
        while len(rows):
            taken = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._buffer):
                self._reduce()

    def factor(self) -> np.ndarray:
        """Return R, shape (columns, columns), zero below the diagonal."""
        self._reduce()
        return self._buffer[: self._columns].copy()

    def _reduce(self) -> None:
        if self._filled == self._columns:
            return
        rows = self._buffer[: self._filled]
        # One thread: in the many small steps of a tall factorization threads wait for each other.
        # More take longer, much longer on a busy machine, and change the bits of the result.
        with threadpool_limits(1, user_api="blas"):
            factor = scipy.linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)[0]
        self._buffer[: self._columns] = np.asarray(factor)[: self._columns]
        self._filled = self._columns
