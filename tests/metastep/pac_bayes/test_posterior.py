"""Optimization and measurement of a posterior against formed noise, autodiff and formulas."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep import pac_bayes
from metastep.curvature import EmpiricalRisk
from metastep.pac_bayes import basis as rotations
from metastep.pac_bayes import posterior as posteriors
from metastep.pac_bayes.certify import cross_entropy_bits
from metastep.pac_bayes.optimize import Optimized, _Fixed, _objective, checked_prior, penalty
from tests.helpers import relative_distance

KEY = jax.random.key(3)
SGD = optax.sgd(0.05)  # one object: another one would compile again
ROTATIONS = {
    "BASE": pac_bayes.BASE,
    "APPR": pac_bayes.APPR,
    "ITER": pac_bayes.ITER.repeated(2),
    "ITER_M": pac_bayes.ITER_M.repeated(2),
}


def model(params, x):
    """Two layers with biases, and a scale that belongs to no layer."""
    hidden = jax.nn.relu(params["fc1"] @ x + params["b1"])
    return params["scale"] * (params["fc2"] @ hidden + params["b2"])


def make_params(key):
    normal = lambda i, *shape: 0.5 * jax.random.normal(jax.random.fold_in(key, i), shape)
    return {
        "fc1": normal(0, 6, 5),
        "b1": normal(1, 6),
        "fc2": normal(2, 2, 6),
        "b2": jnp.zeros(2),
        "scale": jnp.ones(2),
    }


@pytest.fixture(scope="module")
def risk():
    inputs = jax.random.normal(KEY, (60, 5))
    targets = (inputs[:, 0] + inputs[:, 1] ** 2 > 0.5).astype(int)
    return EmpiricalRisk(model, cross_entropy_bits, make_params(KEY), inputs, targets)


@pytest.fixture(scope="module")
def parts(risk):
    """Layout, posterior and a rotated basis."""
    layout = posteriors.find_layout(risk)
    posterior = posteriors.initial_posterior(risk, layout)
    return layout, posterior, rotations.kronecker_basis(risk, layout)


def test_layout_and_start(risk, parts):
    layout, posterior, _ = parts
    assert layout.names == ("fc1", "fc2") and layout.bias and layout.first == ("fc1",)
    joined = np.concatenate([risk.params["fc1"], risk.params["b1"][:, None]], axis=1)
    assert np.allclose(np.exp(posterior.log_scale["fc1"]), np.abs(joined))  # float32 exp and log
    assert [scale.shape for scale in posterior.other_log_scale] == [(2,)]


def test_every_basis_is_orthogonal_and_coordinates_come_back(risk, parts):
    layout, posterior, _ = parts
    for rotation in ROTATIONS.values():
        basis = rotation.basis(risk, layout)
        matrices = posterior.log_scale
        there = posteriors.to_eigenbasis(basis, matrices)
        back = posteriors.to_standard(basis, there)
        # Orthogonal to float32 rounding.
        assert relative_distance(back, matrices) < 1e-5
        assert np.isclose(
            np.linalg.norm(there["fc1"]), np.linalg.norm(matrices["fc1"]), rtol=1e-5, atol=0
        )


def test_one_hidden_layer_makes_the_approximate_output_hessian_of_the_top_exact(risk):
    params = risk.params
    plain = EmpiricalRisk(
        lambda params, x: params["fc2"] @ x, risk.loss, {"fc2": params["fc2"][:, :5]}, *risk.data
    )
    layout = posteriors.find_layout(plain)
    left, _ = rotations.chain_basis(plain, layout)
    exact, _ = rotations.kronecker_basis(plain, layout)
    # Both are eigenvectors of one matrix, up to sign; float32.
    assert np.allclose(np.abs(left["fc2"].T @ exact["fc2"]), np.eye(2), atol=1e-4)


def formed_loss(posterior, risk, layout, basis, key):
    """The loss with all noise formed as weights (line 11 of Algorithm 4)."""
    noise, other = posteriors.draw_noise(posterior, key)
    params = posteriors.perturb(risk, layout, posterior, basis, noise, other, layout.names)
    return risk.mean(params, risk.data)


def test_the_gradient_is_that_of_formed_noise(risk, parts):
    layout, posterior, basis = parts
    prior = posterior.mean
    rotated = posteriors.rotate(posteriors.first_inputs(risk, layout), basis[1])
    fixed = _Fixed(risk, prior, basis, rotated, jnp.asarray(0.025), jnp.log(0.1))
    rows = jnp.arange(risk.examples)
    first = lambda posterior: _objective(posterior, fixed, rows, KEY, layout)
    formed = lambda posterior: formed_loss(posterior, risk, layout, basis, KEY)
    complexity = lambda p: penalty(
        p.kl(prior), p.log_prior_scale, jnp.asarray(60.0), jnp.asarray(0.025)
    )
    total_formed = lambda p: formed(p) + complexity(p)

    @eqx.filter_jit
    def both(p):
        return jax.value_and_grad(first, has_aux=True)(p), jax.value_and_grad(total_formed)(p)

    ((total, summary), gradient), (value, expected) = both(posterior)
    # Two orders of summation in float32.
    assert np.isclose(total, value, rtol=1e-5, atol=0) and np.isclose(total, summary[:2].sum())
    assert relative_distance(gradient, expected) < 1e-5


def test_drawn_outputs_have_the_law_of_drawn_weights(risk, parts):
    layout, posterior, basis = parts
    quiet = eqx.tree_at(lambda p: p.log_scale["fc1"], posterior, posterior.log_scale["fc1"] - 0.5)
    optimized = Optimized(quiet, basis, layout, np.zeros((1, 3)))
    draws = 20_000
    errors = pac_bayes.draw_errors(risk, optimized, draws, KEY)
    assert errors.shape == (draws,) and set(np.unique(errors)) <= {0.0, 1.0}

    def mistakes(key):
        params = pac_bayes.draw(risk, layout, quiet, basis, key)
        outputs = jax.vmap(lambda x: model(params, x))(risk.inputs)
        return jnp.mean(jnp.argmax(outputs, axis=1) != risk.targets)

    slow = np.asarray(jax.jit(jax.vmap(mistakes))(jax.random.split(KEY, 2000)))
    spread = np.hypot(errors.std() / np.sqrt(draws), slow.std() / np.sqrt(2000))
    assert abs(errors.mean() - slow.mean()) < 4 * spread  # four standard errors


def test_optimization_tightens_the_bound_and_the_basis_helps_it_follow(risk):
    found = {}
    prior = make_params(jax.random.key(9))
    for name, rotation in ROTATIONS.items():
        found[name] = pac_bayes.optimize(
            risk, prior, rotation, key=KEY, epochs=4, batch_size=20, optimizer=SGD
        )
        total = found[name].history[:, 0] + found[name].history[:, 1]
        assert total[-1] < total[0] and np.all(np.isfinite(found[name].history))
    first = {name: optimized.history[0] for name, optimized in found.items()}
    assert np.array_equal(first["APPR"], first["ITER"])  # one basis until the second computation
    assert not np.array_equal(found["APPR"].history[-1], found["ITER"].history[-1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": 0.0}, "delta is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 61}, "batch_size is 61; allowed are the integers from 1 to 60"),
        ({"prior": {"fc1": jnp.zeros((6, 5))}}, r"the shape of .* is missing; allowed is \(\d"),
        (
            {"prior": make_params(KEY) | {"b2": jnp.array([jnp.nan, 0])}},
            "prior has infinite or NaN",
        ),
    ],
)
def test_bad_arguments(risk, changed, message):
    arguments = {"prior": make_params(KEY), "key": KEY, "batch_size": 20} | changed
    with pytest.raises(ValueError, match=message):
        pac_bayes.optimize(risk, **arguments)


class Normalized(eqx.Module):
    """A model with a number that is not trained, and a function of its own."""

    weight: jax.Array
    eps: float
    activation: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.activation(self.weight @ x) / (1 + self.eps)


def test_a_prior_is_compared_by_its_arrays():
    make = lambda value: Normalized(jnp.full((2, 3), value), 1e-5, lambda x: jnp.tanh(x))
    risk = EmpiricalRisk(
        lambda model, x: model(x),
        lambda z, y: z[y] ** 2,
        make(1.0),
        jnp.ones((4, 3)),
        jnp.ones(4, int),
    )
    given = eqx.tree_at(lambda model: model.weight, make(0.0), np.full((2, 3), 2.0, np.float32))
    found = checked_prior(given, risk)
    assert jax.tree.structure(found) == jax.tree.structure(
        eqx.filter(risk.params, eqx.is_inexact_array)
    )
    assert jax.tree.leaves(found)[0].tolist() == [[2.0] * 3] * 2
    with pytest.raises(ValueError, match=r"the shape of \.weight is \(3, 2\); allowed is \(2, 3\)"):
        checked_prior(eqx.tree_at(lambda m: m.weight, given, jnp.ones((3, 2))), risk)


def test_an_interval_that_grows_tenfold():
    """Line 7 of Algorithm 4: t mod eta = 0, with eta = 2, then 20, then 200."""
    due = [t for t in range(100) if pac_bayes.ITER.repeated(2, slowed=30).is_due(t)]
    assert due == [*range(0, 30, 2), 40]


def test_what_cannot_be(risk, parts):
    layout, posterior, basis = parts
    optimized = Optimized(posterior, basis, layout, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="every is 0"):
        pac_bayes.ITER.repeated(0)
    with pytest.raises(ValueError, match="slowed is 0"):
        pac_bayes.ITER.repeated(1, slowed=0)
    with pytest.raises(ValueError, match="draws is 0"):
        pac_bayes.draw_errors(risk, optimized, 0, KEY)
    unbounded = lambda output, target: 2.0 + 0 * output[0]
    with pytest.raises(ValueError, match="error has values from 2"):
        pac_bayes.draw_errors(risk, optimized, 500, KEY, unbounded)


@pytest.mark.parametrize("rotation", [pac_bayes.BASE, pac_bayes.APPR])
def test_everything_stays_in_the_precision_of_the_model(rotation, risk, x64):
    found = pac_bayes.optimize(
        risk, jax.tree.map(jnp.zeros_like, risk.params), rotation, key=KEY, epochs=1, batch_size=30
    )
    drawn = pac_bayes.draw(risk, found.layout, found.posterior, found.basis, KEY)
    pac_bayes.draw_errors(risk, found, 10, KEY)
    leaves = jax.tree.leaves((found.posterior, found.basis, drawn))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


def test_every_draw_has_noise_of_its_own(risk, parts):
    """Within one draw, between draws, pairs and epochs; the same for the same key."""
    layout, posterior, basis = parts
    equal_scales = jax.tree.map(jnp.zeros_like, posterior)
    one, again, other = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(posteriors.draw_noise(*arguments))])
        for arguments in (
            (equal_scales, KEY),
            (equal_scales, KEY),
            (equal_scales, jax.random.key(4)),
        )
    )
    assert np.array_equal(one, again)
    assert len(np.unique([one, other])) == one.size + other.size
    optimized = Optimized(posterior, basis, layout, np.zeros((1, 3)))
    # An error that tells every pair of weights and example from the others; two chunks of pairs.
    smooth = lambda output, target: jax.nn.sigmoid(output[0])
    errors = lambda key: pac_bayes.draw_errors(risk, optimized, 800, key, smooth)
    assert len(np.unique(errors(KEY))) > 795  # float32 numbers may meet
    assert np.array_equal(errors(KEY), errors(KEY))
    assert not np.any(errors(KEY) == errors(jax.random.key(4)))


def test_every_epoch_has_noise_of_its_own(risk):
    """A posterior that stands still: only the noise and the order of the batches differ."""
    still = optax.sgd(0.0)
    run = lambda key: pac_bayes.optimize(
        risk,
        make_params(jax.random.key(9)),
        pac_bayes.BASE,
        key=key,
        epochs=3,
        batch_size=60,
        optimizer=still,
    ).history[:, 0]
    losses = [*run(KEY), *run(jax.random.key(4))]
    assert len(np.unique(losses)) == 6


def numbered(examples):
    """A linear model whose loss tells which examples were used, whatever the weights."""
    number, y = lambda z, y: y + 0 * z[0], jnp.arange(examples) / examples
    return EmpiricalRisk(lambda p, x: p["W"] @ x, number, {"W": jnp.ones((1, 1))}, y[:, None], y)


def test_every_epoch_has_an_order_of_its_own():
    """Of 60 examples 17 are left out, and the loss is the mean over the others."""
    found = pac_bayes.optimize(
        numbered(60), {"W": jnp.zeros((1, 1))}, pac_bayes.BASE, key=KEY, epochs=3, batch_size=43
    )
    # The means are multiples of 1 / (60 * 43), far more than float32 rounds them.
    assert len(np.unique(found.history[:, 0].round(5))) == 3


def test_examples_are_drawn_with_replacement():
    """The limit for the mean error needs independent draws, not every example in turn."""
    risk = numbered(1000)
    layout = posteriors.find_layout(risk)
    parts = posteriors.initial_posterior(risk, layout), rotations.standard_basis(risk, layout)
    optimized = Optimized(*parts, layout, np.zeros((1, 3)))
    drawn = pac_bayes.draw_errors(risk, optimized, 500, KEY, lambda output, target: target)
    # Of 1000 examples 500 draws meet 1000 (1 - 0.999^500) = 394, with a standard deviation of 8.
    assert abs(len(np.unique(drawn)) - 394) < 32
