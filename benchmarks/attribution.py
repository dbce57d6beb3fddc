"""Linear datamodelling scores of metastep beside those of dattri, for the same trained models.

`python benchmarks/attribution.py [linear] [network]` trains the models of the experiment
`data-attribution` on digits, retrains them without random shares of the examples, and holds the
scores of every method against what happened. dattri (to be installed, with PyTorch) gets the
trained parameters, so that no difference of the training is in the numbers. The seconds of metastep
are those of a second call, without compilation.
"""

import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorCG
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch.utils.data import DataLoader, TensorDataset

import metastep as ms
from metastep.attribution import attribute, datamodeling_score, leave_out, random_removals
from metastep_lab.studies.data_attribution.examples import images
from metastep_lab.studies.data_attribution.models import linear, network, train

TRAIN, QUERIES, SUBSETS, SHARE, STEPS = 300, 20, 50, 0.05, 60
PROJECTION = 128
REGULARIZATION = (0.0, 0.1, 10.0)  # of TRAK
DAMPING = 1e-2


class Layers(torch.nn.Module):
    """The model of the experiment: linear layers, of which all but the last see 2 x 2 patches."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*w.shape) for w, _ in layers)
        with torch.no_grad():
            for layer, (weights, bias) in zip(self.layers, layers, strict=True):
                layer.weight.copy_(torch.tensor(np.asarray(weights).T.copy()))
                layer.bias.copy_(torch.tensor(np.asarray(bias)))

    def forward(self, x):
        """Return the scores of the classes."""
        hidden = x[..., None]
        for layer in self.layers[:-1]:
            batch, rows, columns, channels = hidden.shape
            cells = hidden.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
            cells = cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, -1)
            hidden = torch.nn.functional.gelu(layer(cells), approximate="tanh")
        return self.layers[-1](hidden.flatten(1))


def in_dattri(layers, split) -> dict[str, Callable[[], np.ndarray]]:
    """Return the methods of dattri, each as a function that returns (queries, examples)."""
    model = Layers(layers)
    sets = [
        TensorDataset(torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y)).long())
        for x, y in (split.examples, split.queries)
    ]
    examples, queries = (DataLoader(one, batch_size=len(one)) for one in sets)

    def loss(params, pair):
        # dattri calls it with one example under `vmap`, and with a whole batch.
        inputs, label = pair
        inputs = inputs if inputs.ndim == 3 else inputs[None]
        scores = torch.func.functional_call(model, params, inputs)
        return torch.nn.functional.cross_entropy(scores, label.reshape(-1))

    def margin(params, pair):
        probability = torch.exp(-loss(params, pair))
        return torch.log(probability / (1 - probability))

    state = {name: value.detach() for name, value in model.state_dict().items()}
    task = AttributionTask(loss, model, state)

    def influence():
        method = IFAttributorCG(task, max_iter=50, regularization=DAMPING)
        method.cache(examples)
        return -method.attribute(examples, queries).detach().numpy().T

    def trak(regularization):
        method = TRAKAttributor(
            AttributionTask(margin, model, state),
            correct_probability_func=lambda params, pair: torch.exp(-loss(params, pair)),
            projector_kwargs={"proj_dim": PROJECTION},
            regularization=regularization,
        )
        method.cache(examples)
        # TRAK scores a margin, which falls where a loss rises.
        return -method.attribute(queries).detach().numpy().T

    def cosine():
        method = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=True)
        return -method.attribute(examples, queries).detach().numpy().T

    return {
        "dattri: influence functions (CG)": influence,
        **{f"dattri: TRAK, one model, {ridge:g}": partial(trak, ridge) for ridge in REGULARIZATION},
        "dattri: gradient cosine": cosine,
    }


def judge(name: str) -> None:
    """Print the LDS and the seconds of every method for one model."""
    split, key = images("digits", None, (TRAIN, QUERIES), 0.1, (0, 0)), jax.random.key(0)
    model = linear(8) if name == "linear" else network(8, STEPS)
    training = train(model, split.examples, 1.0, STEPS, None if name == "linear" else 100, 0)
    masks = random_removals(TRAIN, SHARE, SUBSETS, jax.random.key(1))
    removals = leave_out(training, TRAIN, split.queries, left_out=masks, key=key, batch_size=17)
    problem = training(jax.tree.map(lambda x: x[0], split.queries))
    params = ms.unroll(problem, jnp.ones(TRAIN), key).params
    layers = [(params[:, :-1].T, params[:, -1])] if name == "linear" else params
    exact = lambda: np.asarray(
        attribute(training, TRAIN, split.queries, key=key, share=None).scores
    )
    exact()  # compiles
    for method, call in {"metastep: exact": exact, **in_dattri(layers, split)}.items():
        begin = perf_counter()
        try:
            scores = call()
        except Exception as error:  # of a peer, of any kind: said, and the others go on
            print(f"{name:8} {method:34} failed: {type(error).__name__}: {error}"[:150])
            continue
        seconds = perf_counter() - begin
        found = datamodeling_score(np.asarray(scores, np.float64), removals)
        print(
            f"{name:8} {method:34} LDS {found.mean:+.3f} ± {found.standard_error:.3f}  "
            f"{seconds:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ("linear", "network"):
        judge(chosen)
