"""Scores of training examples by dattri, kronfluence and pyinfluence, for models of ours.

Every function returns methods by name; each is a function without arguments that returns scores of
the shape (queries, examples), positive where an example raises the loss of a query.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial

import jax
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
from torch.nn.functional import cross_entropy, gelu, layer_norm
from torch.utils.data import DataLoader, TensorDataset

from metastep_lab.studies.data_attribution.models import HEADS

PROJECTION = 128
REGULARIZATION = (0.0, 0.1, 10.0)  # of TRAK
SLOW = "dattri: influence functions (CG)"
DAMPING = 1e-2
REFITS = 300  # of pyinfluence's bootstrap

Methods = dict[str, Callable[[], np.ndarray]]


class Judged(torch.nn.Module):
    """A model that returns the loss of every example of a batch, of drawn labels if asked.

    Intercepts are the last column of the weights, and inputs end with a one: the EK-FAC of dattri
    0.3.0 flattens weights and intercepts of a layer in another order than their gradients.
    """

    def forward(self, *batch, sample=False):
        """Return the losses, (examples,)."""
        scores, labels = self.scores(*batch)
        if sample:
            flat = scores.detach().softmax(-1).flatten(0, -2)
            labels = torch.multinomial(flat, 1).reshape(labels.shape)
        losses = cross_entropy(scores.movedim(-1, 1), labels, reduction="none")
        return losses.reshape(len(labels), -1).mean(1)


def _layer(matrix) -> torch.nn.Linear:
    """Return a linear layer with the weights (inputs, outputs)."""
    layer = torch.nn.Linear(*matrix.shape, bias=False)
    layer.weight = torch.nn.Parameter(torch.tensor(np.asarray(matrix).T.copy()))
    return layer


class Layers(Judged):
    """The models of images: linear layers, of which all but the last see 2 x 2 patches."""

    def __init__(self, layers):
        super().__init__()
        joined = (np.concatenate([w, np.reshape(b, (1, -1))]) for w, b in layers)
        self.layers = torch.nn.ModuleList(map(_layer, joined))

    def scores(self, x, labels):
        """Return the scores of the classes, and the labels."""
        hidden = x[..., None]
        for layer in self.layers[:-1]:
            batch, rows, columns, channels = hidden.shape
            cells = hidden.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
            cells = cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, -1)
            hidden = gelu(layer(_with_one(cells)), approximate="tanh")
        return self.layers[-1](_with_one(hidden.flatten(1))), labels


def _with_one(inputs):
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)


class Language(Judged):
    """The transformer of the experiment; an example is a row of tokens."""

    def __init__(self, params):
        super().__init__()
        parameter = lambda name: torch.nn.Parameter(torch.tensor(np.asarray(params[name])))
        self.tokens, self.places = parameter("tokens"), parameter("places")
        self.out = _layer(params["out"])
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: _layer(matrix) for name, matrix in block.items()})
            for block in params["blocks"]
        )

    def scores(self, tokens):
        """Return the scores of the words after each word, and these words."""
        before = tokens[:, :-1]
        hidden = self.tokens[before] + self.places[: before.shape[1]]
        for block in self.blocks:
            hidden = hidden + _attention(block, _normalised(hidden))
            wide = gelu(block["widen"](_normalised(hidden)), approximate="tanh")
            hidden = hidden + block["narrow"](wide)
        return self.out(_normalised(hidden)), tokens[:, 1:]


def _normalised(hidden):
    return layer_norm(hidden, hidden.shape[-1:], eps=1e-5)


def _attention(block, hidden):
    batch, length, width = hidden.shape
    parts = block["attend"](hidden).reshape(batch, length, 3, HEADS, width // HEADS)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / (width // HEADS) ** 0.5
    unseen = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    shares = scores.masked_fill(unseen, -1e9).softmax(-1)
    return block["join"]((shares @ value).transpose(1, 2).reshape(batch, length, width))


def tensors(part) -> TensorDataset:
    """Return images and labels, or rows of tokens, for PyTorch."""
    arrays = (np.asarray(one) for one in jax.tree.leaves(part))
    whole = lambda array: np.issubdtype(array.dtype, np.integer)
    return TensorDataset(
        *(torch.tensor(one).to(torch.long if whole(one) else None) for one in arrays)
    )


def in_dattri(model: Judged, split) -> Methods:
    """Return the methods of dattri."""
    sets = (tensors(split.examples), tensors(split.queries))
    examples, queries = (DataLoader(one, batch_size=len(one)) for one in sets)
    dimensions = [one.ndim for one in sets[0].tensors]

    def loss_of(module, params, batch):
        # dattri calls it with one example under `vmap`, and with a whole batch.
        pairs = zip(batch, dimensions, strict=True)
        whole = tuple(one if one.ndim == count else one[None] for one, count in pairs)
        return torch.func.functional_call(module, params, whole).mean()

    loss = partial(loss_of, model)

    def margin(params, pair):
        probability = torch.exp(-loss(params, pair))
        return torch.log(probability / (1 - probability))

    state = {name: value.detach() for name, value in model.state_dict().items()}
    task = AttributionTask(loss, model, state)

    def scored(method):
        method.cache(examples)
        return -method.attribute(examples, queries).detach().numpy().T

    def ekfac():
        # Where it fails, its hooks stay in the model.
        own = deepcopy(model)
        return scored(
            IFAttributorEKFAC(AttributionTask(partial(loss_of, own), own, state), damping=DAMPING)
        )

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
        SLOW: lambda: scored(IFAttributorCG(task, max_iter=50, regularization=DAMPING)),
        "dattri: EK-FAC": ekfac,
        **{f"dattri: TRAK, one model, {ridge:g}": partial(trak, ridge) for ridge in REGULARIZATION},
        "dattri: gradient cosine": cosine,
    }


class Sums(Task):
    """What kronfluence has to know of a model."""

    def compute_train_loss(self, batch, model, sample=False):
        """Return the summed loss; of drawn labels for the Fisher matrix."""
        return model(*batch, sample=sample).sum()

    def compute_measurement(self, batch, model):
        """Return the summed loss of queries."""
        return self.compute_train_loss(batch, model)


def in_kronfluence(model: Judged, split) -> Methods:
    """Return influence functions with EK-FAC, by the package of its authors' group."""
    examples, queries = tensors(split.examples), tensors(split.queries)

    def ekfac(damping):
        torch.manual_seed(0)
        task = Sums()
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "ekfac",
                prepare_model(deepcopy(model), task),
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
            model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
            model.fit(inputs, labels)
            return -influence(model, inputs, labels, asked, truth, **options)

    binary = len(np.unique(labels)) == 2
    one = (
        ("influence functions", {})
        if binary
        else ("bootstrap", {"n_estimators": REFITS, "random_state": 0, "verbose": 0})
    )
    loo = ("every example left out", {"method": "loo", "verbose": 0})
    return {f"pyinfluence: {name}": partial(scored, options) for name, options in (one, loo)}
