"""Speed of orthogonal matching pursuit: `python benchmarks/omp.py`.

`orthogonal_matching_pursuit` with NumPy arrays, and compiled with JAX arrays, against
`sklearn.linear_model.orthogonal_mp` and `orthogonal_mp_gram` (with the time to compute the Gram
matrix), one thread each, in alternation; medians and, because other programs may be running, the
best times. The floor is the time of the matrix products that the residual form cannot do without:
`n_nonzero` products of residuals with the dictionary. The Gram form has only one of them.

Supports are compared with those of `orthogonal_mp`. Where two atoms correlate nearly equally with a
residual, rounding decides; a signal counts as a near tie when the largest two correlations of some
round are closer than 1e-5 (float32) or 1e-13 (float64).
"""

import argparse
import os
import warnings

# Before NumPy and JAX start their threads.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from collections.abc import Callable
from statistics import median
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import orthogonal_mp, orthogonal_mp_gram

from metastep.sparse_coding import draw_signals, orthogonal_matching_pursuit, random_dictionary

DIM, SPARSITY = 100, 5
CASES = ((1000, 200), (1000, 1000), (200, 200), (200, 1000))
TIE = {np.float32: 1e-5, np.float64: 1e-13}


def near_ties(signals: np.ndarray, dictionary: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return for each signal whether one of the choices that led to `codes` was a near tie."""
    signals, dictionary = signals.astype(float), dictionary.astype(float)
    tied = np.zeros(len(signals), bool)
    for row, (signal, code) in enumerate(zip(signals, codes, strict=True)):
        support, residual = [], signal
        for _ in range(np.count_nonzero(code)):
            sizes = np.abs(residual @ dictionary)
            second, first = np.argsort(sizes)[-2:]
            tied[row] |= sizes[first] - sizes[second] < TIE[codes.dtype.type]
            support.append(first)
            part = dictionary[:, support]
            residual = signal - part @ np.linalg.lstsq(part, signal, rcond=None)[0]
    return tied


def seconds(calls: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median and the least time of each call, called in turn."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begin = perf_counter()
            call()
            times[name].append(perf_counter() - begin)
    return {name: (median(found), min(found)) for name, found in times.items()}


def case(dtype: type, samples: int, atoms: int, repeats: int) -> list[str]:
    """Measure one case; return the cells of its row."""
    rng = np.random.default_rng(0)
    dictionary = random_dictionary(rng, DIM, atoms).astype(dtype)
    signals = draw_signals(rng, dictionary, samples, SPARSITY, 0.1).signals.astype(dtype)
    residuals = [rng.permutation(signals) for _ in range(SPARSITY)]
    on_jax = jnp.asarray(signals), jnp.asarray(dictionary)
    pursue = lambda: orthogonal_matching_pursuit(signals, dictionary, SPARSITY)
    quick = seconds({"ours": pursue, "floor": lambda: [r @ dictionary for r in residuals]}, repeats)
    slow = {
        "ours": pursue,
        "jax": lambda: orthogonal_matching_pursuit(*on_jax, SPARSITY).block_until_ready(),
        "direct": lambda: orthogonal_mp(dictionary, signals.T, n_nonzero_coefs=SPARSITY),
        "gram": lambda: orthogonal_mp_gram(
            dictionary.T @ dictionary, dictionary.T @ signals.T, n_nonzero_coefs=SPARSITY
        ),
    }
    found = seconds(slow, max(3, repeats // 10))
    ratios = [min(found["direct"][i], found["gram"][i]) / found["ours"][i] for i in range(2)]
    codes = pursue()
    expected = orthogonal_mp(dictionary, signals.T, n_nonzero_coefs=SPARSITY).T.astype(dtype)
    differ = np.any((codes != 0) != (expected != 0), axis=1)
    real = np.sum(differ & ~near_ties(signals, dictionary, expected))
    milliseconds = [f"{1e3 * x[0]:.2f}" for x in (quick["ours"], *list(found.values())[1:])]
    return [
        dtype.__name__,
        str(samples),
        str(atoms),
        *milliseconds,
        " / ".join(f"{ratio:.1f}" for ratio in ratios),
        " / ".join(f"{quick['ours'][i] / quick['floor'][i]:.2f}" for i in range(2)),
        f"{differ.sum()} ({real})",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=101, help="timed calls of the fast ones")
    repeats = parser.parse_args().repeats
    names = "dtype", "signals", "atoms", "ours", "ours, JAX", "orthogonal_mp", "orthogonal_mp_gram"
    ratios = "best of scikit-learn / ours", "ours / floor", "other supports (not near ties)"
    table = Table(*names, *ratios, title="milliseconds (median); ratios of medians / of best times")
    warnings.simplefilter("ignore", RuntimeWarning)
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            for samples, atoms in CASES:
                table.add_row(*case(dtype, samples, atoms, repeats))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
