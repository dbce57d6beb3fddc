"""Top eigenspaces of layer-wise Hessians of independently trained networks: where they overlap.

Networks are trained on images from different random initializations. For each layer with m outputs
the overlap of the top k-dimensional eigenspaces of two networks is computed for k up to 2 m. By the
decoupling conjecture H is nearly E[M] (x) E[x x^T], where M is the Hessian with respect to the
layer's output and x its input. If the first eigenvalue of E[x x^T] is large enough, the top m
eigenvectors are those of E[M] times the mean input. Their span then is the same for all networks up
to the mean inputs, which are alike, so that the overlap has its peak at m.

Tables (one row per observation; first and second number the networks of a pair):

- `networks`: model, network, step_size, momentum, weight_decay, loss and accuracy (on the training
  examples).
- `layers`: model, network, layer, outputs m, inputs n, positions (of a convolution), live (outputs
  with any curvature), kept (share of the Hessian's trace in the rows that its eigenvectors are
  computed from), ratio (lambda_1 / lambda_2 of E[x x^T]), reach (the number of eigenvalues tau of
  E[M] with tau gamma_1 > tau_1 gamma_2, gamma those of E[x x^T]; m is the condition of
  Theorem C.7.1).
- `spectra`: model, network, layer, index, then eigenvalues: true (of H), kronecker (of the
  product), output (of E[M]) and input (of E[x x^T]), empty beyond their dimension; along (how much
  of the index-th eigenvector of H stands along the first one of E[x x^T]).
- `overlaps`: model, layer, first, second, index k, overlap (of H), kronecker (of the products).
- `pairs`: model, layer, first, second, outputs, reach (the smaller one), alignment
  ((t_1 . t_2)^2 of the first eigenvectors of E[x x^T], the height at m by Theorem C.7.1), place and
  height (of the largest overlap), slope (of the line through 0 that fits the overlaps up to m,
  times m), kronecker_place (of the largest overlap of the products).
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import combinations, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, in_turn, kept, no_rows, write_tables
from metastep_lab.wu2022.hessian_overlap.claims import CLAIMS, answer
from metastep_lab.wu2022.hessian_overlap.figures import figures
from metastep_lab.wu2022.hessian_overlap.settings import PRESETS, Config
from metastep_lab.wu2022.hessian_overlap.spaces import (
    Factored,
    LayerSpectrum,
    Space,
    along,
    factored,
    factored_overlaps,
    layer_spectrum,
    overlaps,
)
from metastep_lab.wu2022.networks.capturing import layer_names
from metastep_lab.wu2022.networks.images import Examples, class_count, fitted, load
from metastep_lab.wu2022.networks.names import Network, network_of
from metastep_lab.wu2022.networks.training import (
    Descent,
    as_risk,
    fit,
    in_order,
    predictions,
    trained,
)

TABLES = {
    "networks": "model network step_size momentum weight_decay loss accuracy",
    "layers": "model network layer outputs inputs positions live kept ratio reach",
    "spectra": "model network layer index true kronecker output input along",
    "overlaps": "model layer first second index overlap kronecker",
    "pairs": (
        "model layer first second outputs reach alignment place height slope kronecker_place"
    ),
}

Spectra = dict[str, tuple[LayerSpectrum, Factored]]  # of the layers of a network
LEAST = 1e-6  # an eigenvalue relative to the first, in float32


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Train and measure every network; finished ones survive an interruption."""
    images = load(config, context, config.labels)
    rows = no_rows(TABLES)
    cells = list(product(config.model, enumerate(config.descents())))
    groups: dict[str, list[Spectra]] = {model: [] for model in config.model}
    for model, (number, descent) in in_turn(context, cells, "{0[0]}, network {0[1][0]}".format):
        network = network_of(model, class_count(config.dataset, config.labels))
        examples = fitted(network, images)
        key = jax.random.fold_in(jax.random.key(context.seed), number)
        compute = partial(_cell, config, network, examples, descent, key)
        like = _like(config, network, examples)
        arrays, notes = kept(context, f"{model}-{number}", compute, like)
        spectra = _restored(arrays, notes)
        groups[model].append(spectra)
        rows["networks"].append((model, number, *descent, *notes["fit"]))
        _add(rows, (model, number), spectra)
    for model, group in groups.items():
        context.log(f"pairs of {model}")
        _add_pairs(rows, model, group)
    write_tables(context, TABLES, rows)
    return {}


def _cell(
    config: Config, network: Network, examples: Examples, descent: Descent, key: Array
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and measure one network; return the arrays of its spectra, and the rest as JSON."""
    *_, (_, state) = trained(network, examples, key, config.epochs, descent)
    found = fit(predictions(network, state, examples.images), examples.labels)
    arrays, notes = {}, {"fit": list(found), "layers": {}}
    risk = as_risk(network, state, examples)
    for name in layer_names(risk):
        spectrum = layer_spectrum(risk, name, config.rows)
        layer = name.removesuffix(".weight")
        # Rows and factors were computed in float32, and weights need no more digits.
        single = lambda value: jnp.asarray(value, jnp.float32)
        arrays[layer] = {
            "space": jax.tree.map(single, spectrum.space),
            "output": single(spectrum.output),
            "input": single(spectrum.input),
        }
        rest = spectrum.values.tolist(), spectrum.kept, spectrum.positions
        notes["layers"][layer] = dict(zip(("values", "kept", "positions"), rest, strict=True))
    return arrays, notes


def _like(config: Config, network: Network, examples: Examples) -> dict[str, Any]:
    """Return the shapes of a network's saved arrays."""
    shape: Any = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    draw = lambda key: network.init(key, examples.images.shape[1:])
    found = {}
    for name, layer in jax.eval_shape(draw, jax.random.key(0)).items():
        outputs, *kernel = layer["weight"].shape
        inputs = math.prod(kernel)
        size = outputs * inputs
        k = min(2 * outputs, size)
        count = k if size <= config.rows else config.rows
        # These are the shapes that `layer_spectrum` returns: checkpoints are read into them.
        one_position = len(kernel) == 1 and size > config.rows
        factors = (outputs, inputs) if one_position else (1, size)
        space = Space(*(shape(count, width) for width in (*factors, k)))
        output, input = shape(outputs, outputs), shape(inputs, inputs)
        found[name] = {"space": space, "output": output, "input": input}
    return found


def _restored(arrays: dict[str, Any], notes: dict[str, Any]) -> Spectra:
    """Return the spectra of a network's layers, in float64, and their Kronecker products."""
    found = {}
    for name in in_order(arrays):
        rest = notes["layers"][name]
        layer = jax.tree.map(lambda leaf: np.asarray(leaf, float), arrays[name])
        spectrum = LayerSpectrum(**layer, **{**rest, "values": np.array(rest["values"])})
        found[name] = spectrum, factored(spectrum)
    return found


def _add(rows: Rows, network: tuple[str, int], spectra: Spectra) -> None:
    for layer, (spectrum, factors) in spectra.items():
        place, k = (*network, layer), len(spectrum.values)
        live = int(np.sum(np.diagonal(spectrum.output) > 0))
        ratio = factors.gammas[0] / max(factors.gammas[1], LEAST * factors.gammas[0])
        sizes = len(factors.taus), len(factors.gammas), spectrum.positions
        rows["layers"].append((*place, *sizes, live, spectrum.kept, ratio, factors.reach))
        both = _filled(factors.taus, k), _filled(factors.gammas, k)
        turned = along(spectrum, factors.inputs[:, 0])
        curves = zip(range(1, k + 1), spectrum.values, factors.values, *both, turned, strict=True)
        rows["spectra"] += [(*place, *values) for values in curves]


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """Return the first values, with NaN for those that are missing."""
    return np.append(values, np.full(max(0, count - len(values)), np.nan))[:count]


def _add_pairs(rows: Rows, model: str, group: list[Spectra]) -> None:
    for first, second in combinations(range(len(group)), 2):
        for layer in group[0]:
            (spectrum, factors), (other, others) = group[first][layer], group[second][layer]
            true = overlaps(spectrum.space, other.space)
            kronecker = factored_overlaps(factors, others)
            place = model, layer, first, second
            pairs = enumerate(zip(true, kronecker, strict=True), start=1)
            rows["overlaps"] += [(*place, k, *pair) for k, pair in pairs]
            outputs = len(factors.taus)
            alignment = float(factors.inputs[:, 0] @ others.inputs[:, 0]) ** 2
            # The theorem asks for its condition in both networks.
            reach = min(factors.reach, others.reach)
            k = np.arange(1, min(outputs, len(true)) + 1)
            # The least squares line through 0.
            slope = float(np.sum(k * true[: len(k)]) / np.sum(k**2)) * outputs
            highest = int(np.argmax(true)) + 1, float(np.max(true))
            found = reach, alignment, *highest, slope, int(np.argmax(kronecker)) + 1
            rows["pairs"].append((*place, outputs, *found))


EXPERIMENT = Experiment(
    listing("hessian-overlap"),
    config=Config,
    presets=PRESETS,
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(),
    answer=answer,
    finite=("networks.loss",),
)
