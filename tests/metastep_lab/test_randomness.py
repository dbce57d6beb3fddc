"""What the laboratory draws: the same for the same seed, different for another, apart in itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.anchors import dictionary_statistics
from metastep.anchors.synthetic import perturbed, synthetic_task
from metastep.sparse_coding import draw_signals, learn_dictionary, masked_loss, random_dictionary
from metastep_lab.bernacchia2021.maml_nonlinear import nonlinear_regression
from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression, draw_tasks
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
from metastep_lab.data.preparation import balanced_indices, corrupt_labels
from metastep_lab.shaban2019.one_shot.characters import Characters
from metastep_lab.wang2021.least_squares.step_size_grid import draw_spectral_tasks
from metastep_lab.wang2021.mlp_optimizer.digit_classification import epochs
from metastep_lab.wu2022.hessian_two_layer.samples import draw_network, sample
from metastep_lab.wu2022.language import GatedRecurrentModel, TransformerModel
from metastep_lab.wu2022.networks.digit_networks import draw_layers
from metastep_lab.wu2022.pac_bayes.problem import initialize

RATES = jnp.array([-0.5, 0.2])
REGRESSION = MixedRegression(jnp.zeros(5), noise=1.0, task_covariance=0.1)
DESIGN = Design(train_samples=3, validation_samples=1, tasks=2, target_samples=3)
generator, key = np.random.default_rng, jax.random.key
SIGNALS = draw_signals(
    generator(0), random_dictionary(generator(1), 6, 8), 40, 2, noise=0.1
).signals
START = random_dictionary(generator(2), 6, 8)
LABELS = np.repeat(np.arange(4), 10)
WORDS = generator(0).normal(size=(30, 4))


def learned(rng):
    return learn_dictionary(SIGNALS, START, 2, hidden=1, learning_rate=0.01, rng=rng).dictionary


# What is drawn from a seed, and whether all of its numbers are continuous and drawn apart.
DRAWN = {
    "dictionary": (lambda seed: random_dictionary(generator(seed), 6, 8), True),
    "signals": (lambda seed: draw_signals(generator(seed), START, 9, 6, noise=0.1).signals, True),
    "masks": (lambda seed: learned(generator(seed)), False),
    "masked loss": (
        lambda seed: masked_loss(SIGNALS, START, 2, parts=2, rng=generator(seed)),
        False,
    ),
    "pairs of words": (
        lambda seed: dictionary_statistics(WORDS, pairs=50, seed=seed).cosines,
        False,
    ),
    "anchored task": (
        lambda seed: synthetic_task(generator(seed), states=9).teacher.states[:, 1:],
        True,
    ),
    "perturbed words": (
        lambda seed: (
            perturbed(
                synthetic_task(generator(0), states=9).teacher, 0.1, generator(seed)
            ).unembedding
        ),
        True,
    ),
    "regressions": (
        lambda seed: draw_tasks(
            key(seed), REGRESSION, tasks=3, train_samples=2, validation_samples=2
        ),
        True,
    ),
    "simulated runs": (
        lambda seed: simulate(key(seed), REGRESSION, DESIGN, RATES, RATES, runs=3),
        True,
    ),
    "spectral least squares": (
        lambda seed: (lambda tasks: (tasks.singular_values, tasks.truth))(
            draw_spectral_tasks(
                generator(seed), tasks=3, dim=6, samples=4, noise=1.0, validation_samples=5, steps=3
            )
        ),
        True,
    ),
    "quadratic regressions": (
        lambda seed: nonlinear_regression.draw_quadratic_tasks(
            key(seed),
            dim=2,
            variability=1.0,
            noise=0.5,
            tasks=3,
            train_samples=2,
            validation_samples=2,
        ),
        False,
    ),
    "wide network": (
        lambda seed: nonlinear_regression.initial_network(
            key(seed), dim=3, width=4, bias_scale=1.0
        ),
        True,
    ),
    "layers": (lambda seed: draw_layers(key(seed), {"a": (3, 4), "b": (3, 4)}), False),
    "two layers": (lambda seed: draw_network(key(seed), 5, 3), True),
    "second layers": (lambda seed: sample(draw_network(key(0), 5, 3), key(seed), 2), False),
    "recurrent model": (lambda seed: GatedRecurrentModel(7, 4, key=key(seed)), False),
    "transformer": (
        lambda seed: TransformerModel(7, 4, layers=2, heads=1, context=5, key=key(seed)),
        False,
    ),
    "binary network": (lambda seed: initialize(key(seed), (4, 5, 3), 0.1), False),
    "sets": (lambda seed: balanced_indices(LABELS, (20, 12), seed), False),
    "wrong labels": (lambda seed: corrupt_labels(LABELS, 4, 0.5, generator(seed)), False),
    "orders of batches": (lambda seed: epochs(12, 4, 9, generator(seed)), False),
    "episodes": (
        lambda seed: Characters(jnp.arange(40.0).reshape(8, 5, 1, 1)).episode(
            key(seed), ways=3, queries=2
        ),
        False,
    ),
}


def arrays_of(drawn):
    leaves = jax.tree.leaves(eqx.filter(drawn, eqx.is_array))
    return [np.asarray(leaf) for leaf in leaves if np.asarray(leaf).dtype.kind in "fiub"] or [
        np.asarray(drawn)
    ]


@pytest.mark.parametrize(("draw", "apart"), DRAWN.values(), ids=DRAWN)
def test_a_seed_names_what_is_drawn(draw, apart):
    one, again, other = (arrays_of(draw(seed)) for seed in (1, 1, 2))
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert same(one, again)
    assert not same(one, other)
    if apart:
        numbers = np.concatenate([np.ravel(x) for x in (*one, *other)])
        assert len(np.unique(numbers)) == numbers.size


MODELS = {
    "transformer": lambda: TransformerModel(7, 4, layers=2, heads=1, context=7, key=key(1)),
    "layers": lambda: draw_layers(key(1), {"a": (3, 4), "b": (3, 4), "c": (3, 4)}),
    "binary network": lambda: initialize(key(1), (4, 4, 4), 0.1),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_layers_of_equal_shapes_are_drawn_apart(make):
    matrices = [x for x in arrays_of(make()) if x.ndim >= 2]
    assert len(matrices) >= 2
    numbers = np.concatenate([np.ravel(x) for x in matrices])
    assert len(np.unique(numbers)) == numbers.size


def test_classes_of_an_episode_show_other_drawings():
    """Each character's drawings are chosen by a key of its own."""
    images = jnp.broadcast_to(jnp.arange(50.0)[None, :, None, None], (9, 50, 1, 1))
    episode = Characters(images).episode(key(0), ways=9, queries=1)
    # Nine draws of fifty: hardly two alike, and never all.
    assert len(np.unique(np.ravel(jax.tree.leaves(episode)[0]))) >= 5
