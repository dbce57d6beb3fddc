"""Layer-wise Hessians of trained networks: nearly Kronecker products, of low rank, and alike.

Networks are trained on images. For each layer the top eigenpairs of its Hessian H are compared with
those of E[M] (x) E[x x^T], where M is the Hessian with respect to the layer's output and x its
input, and with those of networks that were trained independently.

The presets have the names of the thesis's figures and tables. Those with VGG11 or ResNet18, and
those of 1000 epochs, are for a GPU.

Tables (one row per observation; model, labels and seed name the network):

- `models`: model, labels, seed, loss and accuracy (on the training examples).
- `layers`: model, labels, seed, layer, outputs m, inputs n, positions (of a convolution), examples
  (that H is measured over; fewer for convolutions), alignment ((v_1 . E[x])^2, v_1 the first
  eigenvector of E[x x^T], E[x] of length 1), ratio (lambda_1 / lambda_2 of E[x x^T]), ratio_bound
  ((C.257); empty for convolutions), output_gap and hessian_gap (lambda_(c-1) / lambda_c of E[M] and
  H for c classes), output_outliers (after how many eigenvalues of E[M], from 2 to 2 c, the largest
  ratio of neighbors follows), output_share (of the trace of E[M] in the first c - 1), trace_ratio
  (of the Kronecker product to H), residual (the largest, relative).
- `spectra`: model, labels, seed, layer, index, then eigenvalues: true (of H), kronecker, output (of
  E[M]), input (of E[x x^T]); kronecker_output and kronecker_input (which eigenvectors the
  index-th of the Kronecker product is made of); for the first index eigenvectors overlap (of true
  and Kronecker eigenspaces); for eigenvector h_index rank_one (its matrix's first singular value),
  input_correspondence (Corr(v_1, h)), output_correspondence (Corr(u_index, h)), inside (its part in
  the span of u_1 ... u_(c-1)).
- `correspondence`: model, labels, layer, basis (input | output), vector, index, value; first seed.
- `singular`: model, labels, layer, vector, index, value (the ten largest singular values of the
  first four eigenvectors of H as matrices of norm 1); first seed.
- `trajectory`: model, labels, epoch, layer, index, output, input (eigenvalues); first seed.
- `clusters`: model, labels, epoch, logit_share and class_share (of sum_ij |Gamma_ij|^2 that is in
  the logit centers and in the class centers of fc1); first seed.
- `centers`: model, labels, epoch (the first and the last), logit, by_output and by_weight (squared
  cosines of the logit's center, the mean over classes of Gamma_ij and of Delta_ij of fc1, with its
  approximation (C.266)); first seed, fully connected networks.
- `embedding`: model, labels, epoch (the first and the last), by (derivatives of the logits by the
  output or by the weight of fc1), class, logit, and two coordinates x and y by t-SNE of the means
  over the class (C.262, C.263), class -1 for the approximations (C.266); first model, first kind of
  labels, first seed.
- `whole`: model, index, true (eigenvalues of the Hessian of all layers), approximate and weighted
  (those of C.3), overlap and weighted_overlap; first seed, first kind of labels, fully connected
  networks without batch normalization of at most 4 million parameters.
"""

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np

from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, in_turn, kept, no_rows, write_tables
from metastep_lab.wu2022.hessian_structure.claims import CLAIMS, answer
from metastep_lab.wu2022.hessian_structure.clusters import agreement, embedded, grams, later_weights
from metastep_lab.wu2022.hessian_structure.figures import figures
from metastep_lab.wu2022.hessian_structure.settings import PRESETS, Config
from metastep_lab.wu2022.hessian_structure.study import (
    LAYER_COLUMNS,
    SHOWN,
    SPECTRUM_COLUMNS,
    measure,
    watch,
    whole,
)
from metastep_lab.wu2022.networks.capturing import captured, first_examples, layer_names
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.images import Examples, class_count, fitted, load
from metastep_lab.wu2022.networks.names import Network, network_of
from metastep_lab.wu2022.networks.training import Descent, State, as_risk, fit, predictions, trained

WATCHED = 2000  # examples for the factors during training
MOST_PARAMETERS = 4_000_000  # of a network whose whole Hessian is measured: F-600^8 has 3 million
TABLES = {
    "models": "model labels seed loss accuracy",
    "layers": f"model labels seed layer {LAYER_COLUMNS}",
    "spectra": f"model labels seed layer {SPECTRUM_COLUMNS}",
    "correspondence": "model labels layer basis vector index value",
    "singular": "model labels layer vector index value",
    "trajectory": "model labels epoch layer index output input",
    "clusters": "model labels epoch logit_share class_share",
    "centers": "model labels epoch logit by_output by_weight",
    "embedding": "model labels epoch by class logit x y",
    "whole": "model index true approximate weighted overlap weighted_overlap",
}


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Train and measure every network; finished ones survive an interruption."""
    data = {labels: load(config, context, labels) for labels in config.labels}
    cells = list(product(config.model, config.labels, range(config.models)))
    rows = no_rows(TABLES)
    for cell in in_turn(context, cells, "{0[0]}, {0[1]} labels, network {0[2]}".format):
        compute = partial(_cell, config, cell, data[cell[1]], context.seed)
        _add(rows, cell, kept(context, "{}-{}-{}".format(*cell), compute)[1])
    write_tables(context, TABLES, rows)
    return {}


def _cell(
    config: Config,
    cell: tuple[str, str, int],
    images: Examples,
    run_seed: int,
) -> tuple[dict, dict[str, Any]]:
    """Train and measure one network; return no arrays, and the numbers as JSON."""
    model, labels, seed = cell
    network = network_of(model, class_count(config.dataset))
    examples = fitted(network, images)
    key = jax.random.fold_in(jax.random.key(run_seed), seed)
    is_first = seed == 0 and labels == config.labels[0]
    training_key, measuring_key = jax.random.split(key)
    notes: dict[str, Any] = {"layers": {}}
    notes |= {name: [] for name in ("moments", "embedding", "centers", "whole")}
    state = State({}, {})
    descent = Descent(config.step_size, config.momentum, config.weight_decay)
    for epoch, state in trained(network, examples, training_key, config.epochs, descent):
        if seed == 0:
            risk = first_examples(as_risk(network, state, examples), WATCHED)
            scores = predictions(network, state, risk.inputs)
            notes["moments"].append([epoch, *watch(risk, scores)])
            # (C.265) is a product of the weights of fully connected layers with nothing but ReLUs
            # between.
            if _is_connected(network) and epoch in (0, config.epochs):
                place = captured(risk, "fc1.weight"), scores, risk.targets
                found = np.asarray(grams(*place, later_weights(state.params)), float)
                pairs = zip(*(agreement(one).tolist() for one in found), strict=True)
                notes["centers"] += [[epoch, logit, *pair] for logit, pair in enumerate(pairs)]
                if is_first and model == config.model[0]:
                    notes["embedding"] += [[epoch, *row] for row in embedded(found, measuring_key)]
    risk = as_risk(network, state, examples)
    notes["model"] = list(fit(predictions(network, state, examples.images), examples.labels))
    for i, name in enumerate(layer_names(risk)):
        found = measure(captured(risk, name), config.top, jax.random.fold_in(measuring_key, i))
        notes["layers"][name] = {
            "numbers": found.numbers,
            "spectrum": found.spectrum,
            "correspondence": found.correspondence.tolist(),
            "singular": found.singular,
        }
    if is_first and _is_connected(network) and _parameters(state) <= MOST_PARAMETERS:
        notes["whole"] = whole(risk, config.top, measuring_key)
    return {}, notes


def _is_connected(network: Network) -> bool:
    """Whether a network is fully connected and without batch normalization."""
    return isinstance(network, DigitNetwork) and not (network.channels or network.batch_norm)


def _parameters(state: State) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _add(rows: Rows, cell: tuple[str, str, int], notes: dict[str, Any]) -> None:
    model, labels, seed = cell
    rows["models"].append((*cell, *notes["model"]))
    names = [name.removesuffix(".weight") for name in notes["layers"]]
    for layer, found in zip(names, notes["layers"].values(), strict=True):
        rows["layers"].append((*cell, layer, *found["numbers"]))
        rows["spectra"] += [(*cell, layer, *row) for row in found["spectrum"]]
        if seed == 0:
            rows["correspondence"] += [
                (model, labels, layer, basis, i + 1, j + 1, found["correspondence"][part][i][j])
                for part, basis in enumerate(("input", "output"))
                for i, j in product(range(SHOWN), range(SHOWN))
            ]
            rows["singular"] += [
                (model, labels, layer, vector + 1, index + 1, value)
                for vector, values in enumerate(found["singular"])
                for index, value in enumerate(values)
            ]
    for epoch, outputs, inputs, *shares in notes["moments"]:
        rows["clusters"].append((model, labels, epoch, *shares))
        for layer, *values in zip(names, outputs, inputs, strict=True):
            rows["trajectory"] += [
                (model, labels, epoch, layer, i + 1, *pair)
                for i, pair in enumerate(zip(*values, strict=False))
            ]
    rows["centers"] += [(model, labels, *row) for row in notes["centers"]]
    rows["embedding"] += [(model, labels, *row) for row in notes["embedding"]]
    rows["whole"] += [(model, *row) for row in notes["whole"]]


EXPERIMENT = Experiment(
    listing("hessian-structure"),
    config=Config,
    presets=PRESETS,
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "mean-input",
            "outliers",
            "kronecker-eigenvalues",
            "kronecker-eigenspace",
            "correspondence",
            "rank-one",
            "batch-normalization",
            "training",
            "whole-hessian",
            "reference",
        }
    ),
    answer=answer,
    finite=("models.loss",),
)
