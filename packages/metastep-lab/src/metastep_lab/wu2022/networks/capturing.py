"""The Hessians of a trained network's layers, captured from its training examples."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metastep.curvature import EmpiricalRisk, LayerHessian, find_layers, layer_hessian
from metastep.pac_bayes.certify import mean_risk
from metastep_lab.wu2022.networks.image_networks import AbstractImageNetwork
from metastep_lab.wu2022.networks.training import SCORED, in_order

CAPTURED = 2**27  # numbers kept of one layer: half a gibibyte
AT_ONCE = 2**24  # numbers captured at a time of a layer of an image network


def layer_names(risk: EmpiricalRisk) -> tuple[str, ...]:
    """Return the paths of the weights, without the statistics of batch normalization."""
    layers = in_order(name for name in risk.params if name != "statistics")
    return tuple(f"{name}.weight" for name in layers)


def first_examples(risk: EmpiricalRisk, count: int) -> EmpiricalRisk:
    """Return the mean over the first examples only."""
    return _among(risk, 0, count)


def captured(risk: EmpiricalRisk, name: str) -> LayerHessian:
    """Return the Hessian of a layer over as many examples as fit into memory."""
    each = numbers(risk, name).all
    count = min(CAPTURED // each, risk.examples)
    # The capture takes ten times the memory of what it keeps, and XLA's convolutions are slow in
    # the loop over batches: parts of equal size, one after the other.
    if not isinstance(risk.model, AbstractImageNetwork):
        return layer_hessian(first_examples(risk, count), name)
    at_once = max(1, min(AT_ONCE // each, SCORED))
    found = list(in_parts(first_examples(risk, count), name, at_once))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)


def in_parts(risk: EmpiricalRisk, name: str, at_once: int) -> Iterator[LayerHessian]:
    """Yield the Hessian of a layer over disjoint groups of examples, of one size.

    The layer is given by the path of its weight; a group has at most `at_once` examples. Fewer
    examples are left out than there are groups.
    """
    parts = -(-risk.examples // at_once)
    size = risk.examples // parts
    for i in range(parts):
        yield layer_hessian(_among(risk, i * size, size), name)


class Numbers(NamedTuple):
    """How many classes a network has, and how many numbers of a layer one example gives."""

    classes: int
    all: int


def numbers(risk: EmpiricalRisk, name: str) -> Numbers:
    """Return the size of what is captured of a layer, the path of whose weight is given."""
    (layer,) = find_layers(risk, [name]).values()
    classes = jax.eval_shape(risk.model, risk.params, risk.inputs[0]).shape[-1]
    return Numbers(classes, layer.positions * (layer.inputs + classes * layer.outputs))


def _among(risk: EmpiricalRisk, start: int, count: int) -> EmpiricalRisk:
    data = risk.inputs[start : start + count], risk.targets[start : start + count]
    return mean_risk(risk.model, risk.loss, risk.params, data)
