"""Eigenpairs as a share of the time that their products alone take, and their memory.

    python benchmarks/eigenpairs.py [--data mnist-10k.npz] [--examples 10000] [--rounds 3]

The network is 784-200-200-10 with ReLU, trained to a small loss, in float32. Cases: the top 200 of
its first layer's Hessian (156,800 parameters) and the top 10 of the whole Hessian (199,210). Each
runs in a process of its own, which holds only what the operator needs. Rounds alternate: the
eigenpairs, then as many products with the same operator, in blocks of the same size and in one
compiled loop. Both are compiled before. The share is the median over the rounds of the ratio of
processor times. Residuals are computed again from further products, in float64 arithmetic.

The top 200 by `Dual`, which needs fewer products but a Gram matrix, are a row without a share.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from curvature import CROSS_ENTROPY, TOLERANCE, model, read, trained

from metastep.compilation import compiled
from metastep.curvature import (
    Dual,
    EmpiricalRisk,
    Hessian,
    Lanczos,
    LayerHessian,
    layer_hessian,
    top_eigenpairs,
)
from metastep.curvature.layers.capture import LayerFactors

SHARE, MEMORY = 1.6, 1.0  # asked: at most so much of the products' time, and so many GiB


@compiled
def products_alone(operator, rows, count):
    """Return the last of `count` block products, each with the normalized result of the one before.

    Nothing but the products costs time, apart from one division.
    """
    product = operator.prepare().flat_mm

    def step(_, rows):
        moved = product(rows)
        return moved / jnp.linalg.norm(moved, axis=1, keepdims=True)

    return jax.lax.fori_loop(0, count, step, rows)


def seconds(call):
    """Return processor time and wall time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return (time.process_time() - processor, time.perf_counter() - wall), result


def true_residuals(operator, pairs):
    """Return |H v - lambda v| / lambda, and the largest entry of |V^T V - I|."""
    rows = jax.vmap(operator.ravel)(pairs.vectors)
    product = compiled(lambda operator, rows: operator.flat_mm(rows))
    moved = [np.asarray(product(operator, rows[i : i + 8]), float) for i in range(0, len(rows), 8)]
    values, rows = np.asarray(pairs.values, float)[:, None], np.asarray(rows, float)
    residuals = np.linalg.norm(np.concatenate(moved) - values * rows, axis=1) / values[:, 0]
    return residuals.max(), np.abs(rows @ rows.T - np.eye(len(rows))).max()


def measure(path, method, k, rounds):
    """Print share, time, quality and memory of one method for the operator in a file."""
    operator = load(path)
    find = lambda: top_eigenpairs(operator, k, method=method, key=jax.random.key(0))
    first, pairs = seconds(find)
    block, count = method.starts(k), int(pairs.products) // method.starts(k)
    rows = jax.random.normal(jax.random.key(1), (block, operator.size), operator.dtype)
    alone = lambda: products_alone(operator, rows, jnp.asarray(count))
    seconds(alone)
    converged, products = int(jnp.sum(pairs.converged)), int(pairs.products)
    del pairs  # each call holds one set of vectors
    times = [(seconds(find)[0], seconds(alone)[0]) for _ in range(rounds)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    residual, orthogonality = true_residuals(operator, find())
    found, bare = np.array(times).swapaxes(0, 1)
    share, wall = np.median(found / bare, axis=0)
    print(
        f"top {k} of {operator.size} by {type(method).__name__}: {converged} converged, {products} "
        f"products in blocks of {block}; processor {np.median(found[:, 0]):.2f} s, first call "
        f"{first[0]:.2f} s"
        + (
            ""
            if isinstance(method, Dual)
            else f", products alone {np.median(bare[:, 0]):.2f} s: share {share:.2f} "
            f"(wall {wall:.2f}; asked {SHARE})"
        )
        + f"; true residuals <= {residual:.1e}, |V^T V - I| <= {orthogonality:.1e}; "
        f"peak memory {peak:.2f} GiB (asked {MEMORY})",
        flush=True,
    )


def load(path):
    """Return the operator that a file describes: a layer's, or the whole network's."""
    with np.load(path) as file:
        arrays = {name: jnp.asarray(file[name]) for name in file.files}
    if "jacobian" in arrays:
        factors = LayerFactors(arrays["inputs"], arrays["jacobian"])
        return jax.block_until_ready(LayerHessian(factors, arrays["curvature"]))
    layers = len([name for name in arrays if name.startswith("weight")])
    params = [{"weight": arrays[f"weight{i}"], "bias": arrays[f"bias{i}"]} for i in range(layers)]
    return Hessian(EmpiricalRisk(model, CROSS_ENTROPY, params, arrays["x"], arrays["y"]))


def save(risk, folder):
    """Write the two operators to files and return their paths."""
    paths = Path(folder) / "layer.npz", Path(folder) / "whole.npz"
    operator = layer_hessian(risk, "0.weight")
    factors = {"inputs": operator.factors.inputs, "jacobian": operator.factors.jacobian}
    np.savez(paths[0], **factors, curvature=operator.curvature)
    weights = {f"{k}{i}": leaf for i, layer in enumerate(risk.params) for k, leaf in layer.items()}
    np.savez(paths[1], **weights, x=risk.inputs, y=risk.targets)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layer-top", type=int, default=200)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--rows", type=int, default=5_000, help="of the Gram matrix of Dual")
    arguments = parser.parse_args()
    x, y = read(arguments.data, arguments.examples)
    params = trained(x, y, arguments.epochs, jax.random.key(1))
    risk = EmpiricalRisk(model, CROSS_ENTROPY, params, x, y)
    print(f"{risk.examples} examples, mean loss {float(risk.mean(params, risk.data)):.4f}")
    with tempfile.TemporaryDirectory() as folder:
        layer, whole = save(risk, folder)
        lanczos = Lanczos(tolerance=TOLERANCE)
        dual = Dual(tolerance=TOLERANCE, rows=arguments.rows)
        for path, method, k in (
            (whole, lanczos, arguments.top),
            (layer, lanczos, arguments.layer_top),
            (layer, dual, arguments.layer_top),
        ):
            # Spawned: it holds the operator alone, not what trained the network.
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=measure, args=(path, method, k, arguments.rounds))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"A measurement ended with status {process.exitcode}.")


if __name__ == "__main__":
    main()
