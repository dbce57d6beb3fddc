"""Linear datamodelling scores of metastep beside those of its peers, for the same trained models.

    python benchmarks/attribution.py [--models linear,network,binary] [--peers dattri] [--seeds 3]
    python benchmarks/attribution.py --models transformer --data DIR

The models of the experiment `data-attribution` are trained on digits or on WikiText-2, and again
without random shares of the examples; the scores of every method are held against what happened.
dattri and kronfluence (to be installed, with PyTorch) get the trained parameters, so that no
difference of the training is in the numbers; pyinfluence trains the linear models with
scikit-learn, to the end. It computes influence functions of two classes only: "binary" tells odd
digits from even ones. The seconds of metastep are those of a second call, without compilation.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers_attribution import (
    SLOW,
    Language,
    Layers,
    Methods,
    in_dattri,
    in_kronfluence,
    in_pyinfluence,
)

import metastep as ms
from metastep.attribution import (
    Removals,
    attribute,
    datamodeling_score,
    leave_out,
    random_removals,
)
from metastep_lab.studies.data_attribution.examples import Split, images, paragraphs
from metastep_lab.studies.data_attribution.models import (
    Model,
    Training,
    linear,
    network,
    train,
    transformer,
)

TRAIN, QUERIES, SUBSETS, SHARE, STEPS = 300, 20, 50, 0.05, 60
SIDE, WORDS = 8, 200
MODELS = ("linear", "network", "binary")
PEERS = ("dattri", "kronfluence", "pyinfluence")


def logistic() -> Model:
    """Return logistic regression, with the decay of softmax regression."""
    sign = lambda label: 1.0 - 2.0 * label
    return Model(
        loss=lambda w, one: jax.nn.softplus(sign(one[1]) * (w[:-1] @ one[0].ravel() + w[-1])),
        params=lambda key: jnp.zeros(SIDE**2 + 1),
        optimizer=optax.sgd,
        step_size=1.0,
        decay=0.001,
    )


def setting(name: str, seed: int, folder: Path | None) -> tuple[Split, Training]:
    """Return the data of a seed, and how the model is trained on them."""
    sizes = (TRAIN, QUERIES)
    if name == "transformer":
        split = paragraphs(folder, WORDS, sizes, 0.1, (0, seed))
        return split, train(transformer(WORDS, 16, 100), split.examples, 1.0, 100, 30, seed)
    split = images("digits", None, sizes, 0.1, (0, seed))
    if name == "binary":
        odd = lambda pair: (pair[0], pair[1] % 2)
        split = Split(odd(split.examples), odd(split.queries), split.planted)
    model = {"linear": linear(SIDE), "network": network(SIDE, STEPS), "binary": logistic()}[name]
    return split, train(model, split.examples, 1.0, STEPS, 100 if name == "network" else None, seed)


def methods(
    name: str, split: Split, training: Training, key: jax.Array, peers: list[str]
) -> Methods:
    """Return every method for one model."""
    exact = lambda: np.asarray(
        attribute(training, TRAIN, split.queries, key=key, share=None).scores
    )
    exact()  # compiles
    found: Methods = {"metastep: exact": exact}
    if name != "binary":
        problem = training(jax.tree.map(lambda x: x[0], split.queries))
        params = ms.unroll(problem, jnp.ones(TRAIN), key).params
        layers = [(params[:, :-1].T, params[:, -1])] if name == "linear" else params
        model = Language(params) if name == "transformer" else Layers(layers)
        if "dattri" in peers:
            found |= in_dattri(model, split)
        if name == "transformer":
            found.pop(SLOW, None)  # a thousand products with the Hessian of all paragraphs
        if "kronfluence" in peers:
            found |= in_kronfluence(model, split)
    if name in ("linear", "binary") and "pyinfluence" in peers:
        found |= in_pyinfluence(split, training.model.decay)
    return found


def judge(call: Callable[[], np.ndarray], removals: Removals) -> tuple[float, float] | str:
    """Return the LDS and the seconds of a method, or why there is none."""
    begin = perf_counter()
    try:
        scores = np.asarray(call(), np.float64)
    except Exception as error:  # of a peer, of any kind: said, and the others go on
        return f"failed: {type(error).__name__}: {error}"[:110]
    seconds = perf_counter() - begin
    if not np.all(np.isfinite(scores)):
        return "failed: the scores are not finite"
    return datamodeling_score(scores, removals).mean, seconds


def compare(name: str, seeds: int, folder: Path | None, peers: list[str]) -> None:
    """Print the mean LDS, its standard error over seeds, and the seconds, for one model."""
    found: dict[str, list[tuple[float, float] | str]] = {}
    for seed in range(seeds):
        split, training = setting(name, seed, folder)
        key = jax.random.key(seed)
        masks = random_removals(TRAIN, SHARE, SUBSETS, jax.random.fold_in(key, 1))
        removals = leave_out(training, TRAIN, split.queries, left_out=masks, key=key, batch_size=17)
        for method, call in methods(name, split, training, key, peers).items():
            found.setdefault(method, []).append(judge(call, removals))
    for method, rows in found.items():
        numbers = np.array([row for row in rows if not isinstance(row, str)])
        if len(numbers) < seeds:
            print(f"{name:11} {method:37} {next(row for row in rows if isinstance(row, str))}")
            continue
        (lds, seconds), error = numbers.mean(axis=0), np.nan
        if seeds > 1:
            error = numbers[:, 0].std(ddof=1) / seeds**0.5
        print(f"{name:11} {method:37} LDS {lds:+.3f} ± {error:.3f}  {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Whose scores predict retraining.")
    listed = lambda text: text.split(",")
    parser.add_argument("--models", type=listed, default=list(MODELS))
    parser.add_argument("--peers", type=listed, default=list(PEERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None, help="the folder of WikiText-2")
    options = parser.parse_args()
    for chosen in options.models:
        compare(chosen, options.seeds, options.data, options.peers)
