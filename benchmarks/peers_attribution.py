"""Scores of training examples by dattri, kronfluence and pyinfluence, for models of ours.

Every function returns methods by name; each is a function without arguments that returns scores of
the shape (queries, examples), positive where an example raises the loss of a query.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorEKFAC
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from pyinfluence import influence
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

PROJECTION = 128
REGULARIZATION = (0.0, 0.1, 10.0)  # of TRAK
DAMPING = 1e-2
TOLERANCE = 1e-7  # of the trainings of pyinfluence, which compares ones that differ by one example

Methods = dict[str, Callable[[], np.ndarray]]


class Layers(torch.nn.Module):
    """The model of the experiment: linear layers, of which all but the last see 2 x 2 patches.

    Intercepts are the last column of the weights, and inputs end with a one: the EK-FAC of dattri
    0.3.0 flattens weights and intercepts of a layer in another order than their gradients.
    """

    def __init__(self, layers):
        super().__init__()
        joined = [np.concatenate([w, np.reshape(b, (1, -1))]).T for w, b in layers]
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(*matrix.shape[::-1], bias=False) for matrix in joined
        )
        with torch.no_grad():
            for layer, matrix in zip(self.layers, joined, strict=True):
                layer.weight.copy_(torch.tensor(np.asarray(matrix)))

    def forward(self, x):
        """Return the scores of the classes."""
        hidden = x[..., None]
        for layer in self.layers[:-1]:
            batch, rows, columns, channels = hidden.shape
            cells = hidden.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
            cells = cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, -1)
            hidden = torch.nn.functional.gelu(layer(_with_one(cells)), approximate="tanh")
        return self.layers[-1](_with_one(hidden.flatten(1)))


def _with_one(inputs):
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)


def tensors(pair) -> TensorDataset:
    """Return images and labels for PyTorch."""
    images, labels = pair
    return TensorDataset(torch.tensor(np.asarray(images)), torch.tensor(np.asarray(labels)).long())


def in_dattri(layers, split) -> Methods:
    """Return the methods of dattri."""
    model = Layers(layers)
    sets = (tensors(split.examples), tensors(split.queries))
    examples, queries = (DataLoader(one, batch_size=len(one)) for one in sets)

    def loss(params, pair):
        # dattri calls it with one example under `vmap`, and with a whole batch.
        inputs, label = pair
        inputs = inputs if inputs.ndim == 3 else inputs[None]
        scores = torch.func.functional_call(model, params, inputs)
        return cross_entropy(scores, label.reshape(-1))

    def margin(params, pair):
        probability = torch.exp(-loss(params, pair))
        return torch.log(probability / (1 - probability))

    state = {name: value.detach() for name, value in model.state_dict().items()}
    task = AttributionTask(loss, model, state)

    def scored(method):
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
        "dattri: influence functions (CG)": lambda: scored(
            IFAttributorCG(task, max_iter=50, regularization=DAMPING)
        ),
        "dattri: EK-FAC": lambda: scored(IFAttributorEKFAC(task, damping=DAMPING)),
        **{f"dattri: TRAK, one model, {ridge:g}": partial(trak, ridge) for ridge in REGULARIZATION},
        "dattri: gradient cosine": cosine,
    }


class Classification(Task):
    """What kronfluence has to know of a classifier."""

    def compute_train_loss(self, batch, model, sample=False):
        """Return the summed loss; of drawn labels for the Fisher matrix."""
        inputs, labels = batch
        scores = model(inputs)
        if sample:
            labels = torch.multinomial(scores.detach().softmax(-1), 1).ravel()
        return cross_entropy(scores, labels, reduction="sum")

    def compute_measurement(self, batch, model):
        """Return the summed loss of queries."""
        return self.compute_train_loss(batch, model)


def in_kronfluence(layers, split) -> Methods:
    """Return influence functions with EK-FAC, by the package of its authors' group."""
    examples, queries = tensors(split.examples), tensors(split.queries)

    def ekfac(damping):
        torch.manual_seed(0)
        task = Classification()
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "ekfac",
                prepare_model(Layers(layers), task),
                task,
                cpu=True,
                disable_tqdm=True,
                output_dir=folder,
            )
            analyzer.fit_all_factors("factors", examples, len(examples), FactorArguments("ekfac"))
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                queries,
                examples,
                len(queries),
                len(examples),
                score_args=ScoreArguments(damping_factor=damping),
            )
            found = analyzer.load_pairwise_scores("scores")["all_modules"]
        return -found.numpy()

    return {
        "kronfluence: EK-FAC": partial(ekfac, 1e-8),
        "kronfluence: EK-FAC, damped": partial(ekfac, None),
    }


def in_pyinfluence(split, decay: float) -> Methods:
    """Return the methods of pyinfluence, for a linear model that scikit-learn trains to the end.

    Args:
        split: examples and queries.
        decay: factor of the squared parameters in the mean loss.
    """
    (inputs, labels), (asked, truth) = (
        (np.insert(np.asarray(x, float).reshape(len(x), -1), 0, 1.0, axis=1), np.asarray(y))
        for x, y in (split.examples, split.queries)
    )
    strength = 1 / (2 * decay * len(labels))

    def scored(options: Mapping[str, object]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(
                C=strength, fit_intercept=False, max_iter=1000, tol=TOLERANCE
            )
            model.fit(inputs, labels)
            return -influence(model, inputs, labels, asked, truth, **options)

    binary = len(np.unique(labels)) == 2
    one = (
        ("influence functions", {}) if binary else ("bootstrap", {"random_state": 0, "verbose": 0})
    )
    loo = ("every example left out", {"method": "loo", "verbose": 0})
    return {f"pyinfluence: {name}": partial(scored, options) for name, options in (one, loo)}
