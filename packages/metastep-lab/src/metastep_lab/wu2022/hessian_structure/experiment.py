"""Layer-wise Hessians of trained networks: nearly Kronecker products, of low rank, and alike.

Networks are trained on images. For each layer the top eigenpairs of its Hessian H are compared with
those of E[M] (x) E[x x^T], where M is the Hessian with respect to the layer's output and x its
input, and with those of networks that were trained independently.

The presets use digits. VGG11 and ResNet18, of any width, are for the color images of
CIFAR-10: `metastep run hessian-structure --preset paper --data DIR` with `--set dataset=cifar10`,
`--set model=VGG11-W32`, `--set labels=true` and `--set examples=5000` takes hours on two cores;
ResNet18 of the thesis's widths (48, 64, 80) and VGG11-W200 need a GPU.

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
- `overlaps`: model, labels, layer, first, second (seeds), index, overlap (of the top eigenspaces).
- `pairs`: model, labels, layer, first, second, outputs, alignment ((t_1 . t_2)^2 of the first
  eigenvectors of E[x x^T]), alone (1 where both satisfy the condition of Theorem C.7.1).
- `trajectory`: model, labels, epoch, layer, index, output, input (eigenvalues); first seed.
- `clusters`: model, labels, epoch, logit_share and class_share (of sum_ij |Gamma_ij|^2 that is in
  the logit centers and in the class centers of fc1); first seed.
- `embedding`: model, labels, epoch (the first and the last), by (derivatives of the logits by the
  output or by the weight of fc1), class, logit, and two coordinates x and y by t-SNE of the means
  over the class (C.262, C.263); first model, first kind of labels, first seed.
- `whole`: model, index, true (eigenvalues of the Hessian of all layers), approximate and weighted
  (those of C.3), overlap and weighted_overlap; first seed, first kind of labels, F-200^2
  and F-600^2.
"""

from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array

from metastep import saving as checkpoint
from metastep_lab.catalog import listing
from metastep_lab.configuration import ONCE, Count, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.wu2022.hessian_structure.claims import answer, claims
from metastep_lab.wu2022.hessian_structure.clusters import embedded
from metastep_lab.wu2022.hessian_structure.figures import figures
from metastep_lab.wu2022.hessian_structure.models import (
    BATCH,
    Examples,
    Network,
    State,
    as_risk,
    fit,
    fitted,
    load,
    network_of,
    predictions,
    trained,
)
from metastep_lab.wu2022.hessian_structure.study import (
    LAYER_COLUMNS,
    SHOWN,
    SPECTRUM_COLUMNS,
    captured,
    first_examples,
    layer_names,
    measure,
    pair_overlap,
    watch,
    whole,
)

WATCHED = 2000  # examples for the factors during training
WHOLE = ("F-200^2", "F-600^2")
TABLES = {
    "models": "model labels seed loss accuracy",
    "layers": f"model labels seed layer {LAYER_COLUMNS}",
    "spectra": f"model labels seed layer {SPECTRUM_COLUMNS}",
    "correspondence": "model labels layer basis vector index value",
    "overlaps": "model labels layer first second index overlap",
    "pairs": "model labels layer first second outputs alignment alone",
    "trajectory": "model labels epoch layer index output input",
    "clusters": "model labels epoch logit_share class_share",
    "embedding": "model labels epoch by class logit x y",
    "whole": "model index true approximate weighted overlap weighted_overlap",
}

Kept = dict[str, dict[str, Array]]


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn), mnist (of which 10,000 are used) or
            cifar10 (the training examples).
        model: networks; F-200^2 has two hidden layers of 200 units, F-100-8 a narrow second one,
            BN batch normalization; VGG11-W32 has 32 channels in each convolution, and so on with
            ResNet18 and any other width.
        labels: of the images, or drawn at random.
        scaling: of the images, to mean 0 and variance 1 over all pixels, or from 0 to 1.
        examples: for training and for the Hessians.
        epochs: of stochastic gradient descent in batches of 128.
        step_size: of the descent.
        models: networks of each kind, trained independently.
        top: eigenpairs of each Hessian.
    """

    dataset: Literal["digits", "mnist", "cifar10"] = "mnist"
    model: Annotated[tuple[str, ...], *ONCE] = ("F-200^2", "F-200^2-BN", "F-100-8", "LeNet5")
    labels: Annotated[tuple[Literal["true", "random"], ...], *ONCE] = ("true", "random")
    scaling: Literal["normalized", "unit"] = "normalized"
    examples: Annotated[int, Ge(BATCH)] = 10_000
    epochs: Count = 60
    step_size: Positive = 0.05
    models: Count = 3
    top: Annotated[int, Ge(SHOWN)] = 50

    def __post_init__(self):
        """Refuse unknown networks."""
        for name in self.model:
            network_of(name)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Train and measure every network; finished ones survive an interruption."""
    data = {labels: _load(config, context, labels) for labels in config.labels}
    cells = list(product(config.model, config.labels, range(config.models)))
    rows: dict[str, list[tuple]] = {name: [] for name in TABLES}
    group: list[tuple[Kept, dict[str, Any]]] = []
    for done, (model, labels, seed) in enumerate(cells):
        context.progress(done, len(cells), f"{model}, {labels} labels, network {seed + 1}")
        network = network_of(model)
        examples = fitted(network, data[labels])
        path: Path = context.checkpoint(f"{model}-{labels}-{seed}".replace("^", "_"))
        if not (context.resume and path.exists()):
            key = jax.random.fold_in(jax.random.key(context.seed), seed)
            checkpoint.save(path, *_cell(config, (model, labels, seed), examples, key))
        group.append(checkpoint.load(path, _like(config, network, examples)))
        _add(rows, (model, labels, seed), group[-1][1])
        if len(group) == config.models:
            _add_pairs(rows, (model, labels), group)
            group = []
    context.progress(len(cells), len(cells), "measured")
    for name, header in TABLES.items():
        context.table(name, columns(header, rows[name]))
    return {}


def _load(config: Config, context: Context, labels: str) -> Examples:
    return load(
        config.dataset,
        context.data,
        config.examples,
        random_labels=labels == "random",
        normalized=config.scaling == "normalized",
        seed=context.seed,
    )


def _like(config: Config, network: Network, examples: Examples) -> Kept:
    """Return zeros of the shapes of a network's saved state."""
    params = network.init(jax.random.key(0), examples.images.shape[1:])
    found = {}
    for name, layer in params.items():
        shape = (len(layer["weight"]), layer["weight"][0].size)
        vectors = jnp.zeros((min(config.top, shape[0] * shape[1]), *shape))
        found[f"{name}.weight"] = {"vectors": vectors, "direction": jnp.zeros(shape[1])}
    return found


def _cell(
    config: Config, cell: tuple[str, str, int], examples: Examples, key: Array
) -> tuple[Kept, dict[str, Any]]:
    """Train and measure one network; return its eigenvectors, and the rest as JSON."""
    model, labels, seed = cell
    network, is_first = network_of(model), seed == 0 and labels == config.labels[0]
    training_key, measuring_key = jax.random.split(key)
    notes: dict[str, Any] = {"moments": [], "layers": {}, "embedding": [], "whole": []}
    state = State({}, {})
    for epoch, state in trained(network, examples, training_key, config.epochs, config.step_size):
        if seed == 0:
            risk = first_examples(as_risk(network, state, examples), WATCHED)
            scores = predictions(network, state, risk.inputs)
            notes["moments"].append([epoch, *watch(risk, scores)])
            if is_first and model == config.model[0] and epoch in (0, config.epochs):
                found = embedded(captured(risk, "fc1.weight"), scores, risk.targets, measuring_key)
                notes["embedding"] += [[epoch, *row] for row in found]
    risk = as_risk(network, state, examples)
    notes["model"] = list(fit(predictions(network, state, examples.images), examples.labels))
    kept: Kept = {}
    for i, name in enumerate(layer_names(risk)):
        found = measure(captured(risk, name), config.top, jax.random.fold_in(measuring_key, i))
        kept[name] = {"vectors": found.vectors, "direction": found.direction}
        notes["layers"][name] = {
            "numbers": found.numbers,
            "spectrum": found.spectrum,
            "correspondence": found.correspondence.tolist(),
            "alone": found.alone,
        }
    if is_first and model in WHOLE:
        notes["whole"] = whole(risk, config.top, measuring_key)
    return kept, notes


def _add(rows: dict[str, list[tuple]], cell: tuple[str, str, int], notes: dict[str, Any]) -> None:
    """Add the rows of one network."""
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
    for epoch, outputs, inputs, *shares in notes["moments"]:
        rows["clusters"].append((model, labels, epoch, *shares))
        for layer, *values in zip(names, outputs, inputs, strict=True):
            rows["trajectory"] += [
                (model, labels, epoch, layer, i + 1, *pair)
                for i, pair in enumerate(zip(*values, strict=False))
            ]
    rows["embedding"] += [(model, labels, *row) for row in notes["embedding"]]
    rows["whole"] += [(model, *row) for row in notes["whole"]]


def _add_pairs(
    rows: dict[str, list[tuple]],
    kind: tuple[str, str],
    group: list[tuple[Kept, dict[str, Any]]],
) -> None:
    """Add the rows of each pair of networks of one kind."""
    for first, second in combinations(range(len(group)), 2):
        (kept, notes), (other, other_notes) = group[first], group[second]
        for name in kept:
            layer = name.removesuffix(".weight")
            curve = pair_overlap(kept[name]["vectors"], other[name]["vectors"])
            pair = (*kind, layer, first, second)
            rows["overlaps"] += [(*pair, i + 1, value) for i, value in enumerate(curve.tolist())]
            alignment = float(jnp.vdot(kept[name]["direction"], other[name]["direction"])) ** 2
            alone = all(part["layers"][name]["alone"] for part in (notes, other_notes))
            outputs = kept[name]["vectors"].shape[1]
            rows["pairs"].append((*pair, outputs, alignment, int(alone)))


EXPERIMENT = Experiment(
    listing("hessian-structure"),
    config=Config,
    presets={
        "quick": Config(
            dataset="digits",
            model=("F-200^2", "F-200^2-BN", "F-100-8"),
            examples=1797,
            models=2,
            top=20,
        ),
        "paper": Config(),
    },
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset(
        {
            "mean-input",
            "ratio-bound",
            "outliers",
            "kronecker-eigenvalues",
            "kronecker-eigenspace",
            "correspondence",
            "rank-one",
            "batch-normalization",
            "training",
            "whole-hessian",
            "output-layer",
            "reference",
        }
    ),
    answer=answer,
    finite=("models.loss",),
)
