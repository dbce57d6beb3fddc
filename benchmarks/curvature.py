"""Top eigenpairs of a network's Hessian: metastep beside curvlinops and hessian-eigenthings.

    python benchmarks/curvature.py [--examples 10000] [--data mnist-10k.npz]

The network is 784-200-200-10 with ReLU, trained to a small loss; all sides see the same weights
and data in float32. Methods alternate, each in turn, and the median counts; the first call of ours
compiles and is a column of its own. Without the peers (extra `bench`) only metastep runs.

`eigenpairs.py` measures what eigenpairs cost beside their products, and their memory.
"""

import argparse
import importlib.util
import time
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk, GaussNewton, Hessian, Lanczos, top_eigenpairs

SIZES = (784, 200, 200, 10)
TOLERANCE = 1e-3
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def model(params, x):
    for i, layer in enumerate(params):
        x = layer["weight"] @ (x if i == 0 else jax.nn.relu(x)) + layer["bias"]
    return x


def read(path, examples):
    """Return normalized images and labels; the small digits, enlarged, where there is no file."""
    if path is None:
        from sklearn.datasets import load_digits  # not into the processes whose memory is measured

        small, labels = load_digits(return_X_y=True)
        images = np.kron(small.reshape(-1, 8, 8), np.ones((4, 4)))[:, 2:30, 2:30] * 16
    else:
        with np.load(path) as file:
            names = [name for name in file.files if file[name].ndim > 1]
            images = file[names[0]]
            labels = next(file[name] for name in file.files if file[name].ndim == 1)
    x = images.reshape(len(images), -1)[:examples] / 255
    return ((x - 0.1307) / 0.3081).astype(np.float32), labels[:examples].astype(np.int32)


def trained(x, y, epochs, key):
    """Return the parameters after minibatch gradient descent."""
    initial = []
    for inputs, outputs in pairwise(SIZES):
        key, draw = jax.random.split(key)
        bound = inputs**-0.5
        weight = jax.random.uniform(draw, (outputs, inputs), minval=-bound, maxval=bound)
        initial.append({"weight": weight, "bias": jnp.zeros(outputs)})
    batch = min(128, len(x))

    @compiled
    def run(params, x, y, key):
        mean = lambda params, rows: jnp.mean(
            CROSS_ENTROPY(jax.vmap(partial(model, params))(x[rows]), y[rows])
        )
        step = lambda params, rows: (
            jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(mean)(params, rows)),
            None,
        )

        def epoch(params, key):
            rows = jax.random.permutation(key, len(x))[: len(x) // batch * batch]
            return jax.lax.scan(step, params, rows.reshape(-1, batch))

        return jax.lax.scan(epoch, params, jax.random.split(key, epochs))[0]

    return run(initial, jnp.asarray(x), jnp.asarray(y), key)


def torch_side(params, x, y):
    """Return the same network, loss and data for the peers."""
    import torch

    layers = []
    for layer in params:
        linear = torch.nn.Linear(layer["weight"].shape[1], layer["weight"].shape[0])
        linear.weight.data = torch.tensor(np.asarray(layer["weight"]))
        linear.bias.data = torch.tensor(np.asarray(layer["bias"]))
        layers += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    data = [(torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y), dtype=torch.long))]
    return network, torch.nn.CrossEntropyLoss(), data


def ours(risk, k, key):
    pairs = top_eigenpairs(Hessian(risk), k, method=Lanczos(tolerance=TOLERANCE), key=key)
    assert bool(jnp.all(pairs.converged))
    return np.asarray(pairs.values), int(pairs.products)


def curvlinops_eigsh(operator, k):
    from scipy.sparse.linalg import eigsh

    values = eigsh(operator.to_scipy(), k=k, which="LA", tol=TOLERANCE, return_eigenvectors=False)
    return np.sort(values)[::-1], 0


def eigenthings(network, loss, data, k):
    from hessian_eigenthings import HessianOperator
    from hessian_eigenthings.algorithms import lanczos

    operator = HessianOperator(model=network, dataloader=data, loss_fn=eigenthings_loss(loss))
    result = lanczos(operator, k=k, max_iter=3 * k, tol=TOLERANCE, which="LA")
    return np.sort(np.asarray(result.eigenvalues))[::-1], 0


def eigenthings_loss(loss):
    from hessian_eigenthings.loss_fns import supervised_loss

    return supervised_loss(loss)


def timed(call):
    begin = time.perf_counter()
    values, products = call()
    return time.perf_counter() - begin, values, products


def compare_speed(risk, peers, k, repeats):
    """Time every method in turn, `repeats` rounds after a first one that compiles."""
    key = jax.random.key(0)
    calls = {"metastep": lambda: ours(risk, k, key)}
    if peers is not None:
        network, loss, data = peers
        from curvlinops import HessianLinearOperator

        parameters = list(network.parameters())
        operator = HessianLinearOperator(network, loss, parameters, data, check_deterministic=False)
        calls["curvlinops + eigsh"] = lambda: curvlinops_eigsh(operator, k)
        if importlib.util.find_spec("hessian_eigenthings"):
            calls["hessian-eigenthings"] = lambda: eigenthings(network, loss, data, k)
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(repeats + 1)]
    reference = rounds[0]["metastep"][1]
    print(f"top-{k} of the full Hessian, {risk.examples} examples, seconds")
    mine = float(np.median([one["metastep"][0] for one in rounds[1:]]))
    for name in calls:
        first = rounds[0][name][0]
        later = float(np.median([one[name][0] for one in rounds[1:]]))
        gap = np.max(np.abs(rounds[0][name][1] / reference - 1))
        print(
            f"  {name:22s} first {first:7.2f}  later {later:7.2f}  ratio {later / mine:5.2f}  "
            f"with compilation {first / rounds[0]['metastep'][0]:5.2f}  values within {gap:.1e}  "
            f"products {rounds[0][name][2]}"
        )


def compare_numbers(risk, peers):
    """Hold products, factors and trace against curvlinops."""
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    network, loss, data = peers
    parameters = list(network.parameters())
    vector = np.random.default_rng(0).normal(size=sum(p.numel() for p in parameters))
    vector = vector.astype(np.float32)
    pieces, start = [], 0
    for layer in risk.params:
        piece = {}
        for name in ("weight", "bias"):
            stop = start + layer[name].size
            piece[name] = jnp.asarray(vector[start:stop].reshape(layer[name].shape))
            start = stop
        pieces.append(piece)
    pairs = ((Hessian(risk), HessianLinearOperator), (GaussNewton(risk), GGNLinearOperator))
    for operator, peer in pairs:
        theirs = peer(network, loss, parameters, data, check_deterministic=False)
        moved = compiled(lambda operator, v: operator.mv(v))(operator, pieces)
        flat = [np.asarray(p[name]).ravel() for p in moved for name in ("weight", "bias")]
        expected = theirs.to_scipy() @ vector
        gap = np.linalg.norm(np.concatenate(flat) - expected) / np.linalg.norm(expected)
        print(f"{peer.__name__}: relative distance of a product {gap:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()
    x, y = read(arguments.data, arguments.examples)
    params = trained(x, y, arguments.epochs, jax.random.key(1))
    risk = EmpiricalRisk(model, CROSS_ENTROPY, params, x, y)
    print(f"mean loss {float(risk.mean(params, risk.data)):.4f}")
    peers = torch_side(params, x, y) if importlib.util.find_spec("curvlinops") else None
    if peers is not None:
        compare_numbers(risk, peers)
    compare_speed(risk, peers, arguments.top, arguments.repeats)


if __name__ == "__main__":
    main()
