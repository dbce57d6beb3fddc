"""A tiny network against plain gradients, dense least squares and the library's MAML problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.compilation import compiled
from metastep.problems.maml import MAMLProblem
from metastep_lab.bernacchia2021.maml_nonlinear.nonlinear_regression import (
    Layer,
    draw_quadratic_tasks,
    initial_network,
    meta_loss,
    meta_train,
    new_task_losses,
    trace,
)
from metastep_lab.bernacchia2021.maml_nonlinear.tangent_regression import (
    outer_coefficients,
    tangent_kernel,
    tangent_losses,
    tangent_problem,
)
from metastep_lab.bernacchia2021.mixed_regression import RegressionTasks

DIM, WIDTH = 4, 6
SIZES = {"dim": DIM, "variability": 0.5, "noise": 1.0, "tasks": 3}
RATES = np.array([-0.1, 0.0, 0.15])
STEP_SIZE = 0.02


def plain_outputs(network, inputs):
    """Evaluate the network as one would write it."""
    for layer in network[:-1]:
        inputs = jax.nn.relu(inputs @ layer.weights + layer.bias)
    return (inputs @ network[-1].weights + network[-1].bias)[..., 0]


def plain_loss(network, outer, batch):
    """Return (1/2) mean squared error, in the signature of a problem's loss."""
    del outer
    return jnp.mean((plain_outputs(network, batch[0]) - batch[1]) ** 2) / 2


def plain_adapted_loss(network, task, rate):
    """Take one step with a copy of the weights; measure on the validation examples."""
    slope = jax.grad(plain_loss)(network, None, task[:2])
    return plain_loss(jax.tree.map(lambda w, g: w - rate * g, network, slope), None, task[2:])


@pytest.fixture
def drawn(x64):
    """A network, training tasks and new tasks in float64."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    layer = lambda inputs, outputs: Layer(normal(inputs, outputs) / inputs**0.5, normal(outputs))
    network = (layer(DIM, WIDTH), layer(WIDTH, WIDTH), layer(WIDTH, 1))
    tasks = lambda train, held_out: RegressionTasks(
        normal(3, train, DIM), normal(3, train), normal(3, held_out, DIM), normal(3, held_out)
    )
    return network, tasks(5, 2), tasks(3, 4)


def test_tasks_are_quadratic_with_the_stated_moments(key):
    sizes = SIZES | {"tasks": 20000, "variability": 0.7}
    draw = lambda key: draw_quadratic_tasks(key, **sizes, train_samples=1, validation_samples=1)
    tasks = compiled(draw)(key)
    targets = np.asarray(tasks.train_targets)[:, 0]
    # y = s^2 + z with s ~ N(0, 1 + nu^2): mean 1 + nu^2 and variance 2 (1 + nu^2)^2 + 1.
    mean = 1 + 0.7**2
    spread = np.sqrt(2 * mean**2 + 1)
    assert abs(targets.mean() - mean) < 4 * spread / np.sqrt(targets.size)
    # Two examples of a task share w and b: the covariance is 2 b's part, Var(b^2) = 2.
    shared = np.cov(targets, np.asarray(tasks.validation_targets)[:, 0])[0, 1]
    assert abs(shared - 2) < 0.2


def test_weights_have_the_variance_of_the_inputs_number(key):
    network = compiled(lambda: initial_network(key, dim=50, width=400, bias_scale=1.0))()
    assert [layer.weights.shape for layer in network] == [(50, 400), (400, 400), (400, 1)]
    for layer in network[:2]:
        inputs = layer.weights.shape[0]
        # 20000 weights or more and 400 biases: variances are known to 1% and 7%, times four.
        assert abs(inputs * np.var(layer.weights) - 1) < 0.04
        assert abs(inputs * np.var(layer.bias) - 1) < 0.28


@pytest.mark.parametrize("changed", [{"noise": -1.0}, {"tasks": 0}, {"train_samples": 0}])
def test_bad_sizes(key, changed):
    sizes = SIZES | {"train_samples": 1, "validation_samples": 1} | changed
    with pytest.raises(ValueError, match=next(iter(changed))):
        draw_quadratic_tasks(key, **sizes)


def test_stochastic_descent_takes_the_tasks_one_by_one(drawn, key):
    """Against a loop, for all rates in the same order; any split of the epochs ends the same."""
    network, training, _ = drawn
    networks = jax.tree.map(lambda x: jnp.stack([x] * len(RATES)), network)
    descend = compiled(
        lambda networks, epochs, done: meta_train(
            networks,
            training,
            jnp.asarray(RATES),
            step_size=STEP_SIZE,
            epochs=epochs,
            order=key,
            done=done,
        )
    )
    whole, ends = descend(networks, 3, 0)
    parts = descend(descend(networks, 1, 0)[0], 2, 1)[0]
    slope = jax.jit(jax.grad(plain_adapted_loss))
    for place, rate in enumerate(RATES[:2]):
        found = network
        for epoch in range(3):
            for task in jax.random.permutation(jax.random.fold_in(key, epoch), 3):
                one = tuple(part[task] for part in training)
                step = slope(found, one, rate)
                found = jax.tree.map(lambda w, g: w - STEP_SIZE * g, found, step)
        mine, split = (
            jnp.concatenate([x[place].ravel() for x in jax.tree.leaves(one)])
            for one in (whole, parts)
        )
        by_hand = jnp.concatenate([x.ravel() for x in jax.tree.leaves(found)])
        assert np.allclose(mine, by_hand, rtol=0, atol=1e-13)
        assert np.array_equal(mine, split)
        assert np.isclose(ends[place], meta_loss(found, training, rate), rtol=1e-12, atol=0)


def test_the_inner_step_is_a_plain_gradient_step(drawn, key):
    """Values and outer gradients against a `MAMLProblem`, and against finite differences."""
    network, training, _ = drawn
    flat, unflatten = ravel_pytree(network)
    direction = np.random.default_rng(1).standard_normal(flat.size)
    width = 1e-5

    @compiled
    def three(rate):
        def one(task):
            problem = MAMLProblem(plain_loss, task[:2], task[2:], horizon=1, rate=rate)
            estimate = ms.Reverse().estimate(problem, network, None, key)[0]
            return estimate.value, ravel_pytree(estimate.grad)[0]

        loss = lambda flat: meta_loss(unflatten(flat), training, rate)
        shifted = flat + width * jnp.array([[1.0], [-1.0]]) * direction
        maml = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(one)(training))
        return jax.value_and_grad(loss)(flat), maml, jax.vmap(loss)(shifted)

    for rate in RATES:
        (value, slope), expected, shifted = three(jnp.asarray(rate))
        # The same sums in another order: rounding of float64.
        np.testing.assert_allclose(value, expected[0], rtol=1e-10)
        np.testing.assert_allclose(slope, expected[1], rtol=1e-10, atol=1e-12)
        # Central differences: an error of about width^2, and rounding over width.
        along = (shifted[0] - shifted[1]) / (2 * width)
        assert abs(along - slope @ direction) < 1e-7 * abs(along)


def test_new_tasks_are_judged_after_the_same_step(drawn):
    network, _, new = drawn

    @compiled
    def both():
        plain = jax.vmap(plain_adapted_loss, (None, 0, None))
        slow = jax.vmap(lambda rate: jnp.mean(plain(network, new, rate)))(jnp.asarray(RATES))
        return new_task_losses(network, new, jnp.asarray(RATES)), slow

    np.testing.assert_allclose(*both(), rtol=1e-12)


def test_training_pairs_the_rates_and_goes_on_where_it_stopped(drawn):
    network, training, _ = drawn
    rates = jnp.asarray(RATES)
    train = compiled(
        lambda networks, rates, epochs: meta_train(
            networks, training, rates, step_size=STEP_SIZE, epochs=epochs
        )
    )
    networks = jax.tree.map(lambda x: jnp.asarray(np.stack([x] * rates.size)), network)
    whole, ends = train(networks, rates, jnp.asarray(3))
    parts, again = train(train(networks, rates, jnp.asarray(1))[0], rates, jnp.asarray(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, (whole, ends), (parts, again)))
    slope = compiled(jax.grad(meta_loss))
    descend = lambda weights, step: np.asarray(weights) - STEP_SIZE * np.asarray(step)
    for place, rate in enumerate(rates):
        alone = network
        for _ in range(3):
            alone = jax.tree.map(descend, alone, slope(alone, training, rate))
        for found, expected in zip(jax.tree.leaves(whole), jax.tree.leaves(alone), strict=True):
            # Batched products sum in another order: rounding of float64.
            np.testing.assert_allclose(np.asarray(found)[place], expected, rtol=1e-11, atol=1e-13)


class Dense:
    """The linearized problem with every gradient written out."""

    def __init__(self, network, training):
        flat, unflatten = ravel_pytree(network)
        outputs = lambda inputs: lambda flat: plain_outputs(unflatten(flat), inputs)
        self.at = compiled(lambda x: (outputs(x)(flat), jax.jacrev(outputs(x))(flat)))
        rows = [self.equations(task) for task in zip(*map(np.asarray, training), strict=True)]
        self.fixed, self.pulled = (np.concatenate(parts) for parts in zip(*rows, strict=True))

    def linear(self, inputs, targets):
        """Return gradients and what is left of the targets, as one matrix."""
        outputs, gradients = self.at(inputs)
        return np.column_stack([gradients, targets - outputs])

    def equations(self, task):
        train, validation = self.linear(*task[:2]), self.linear(*task[2:])
        return validation, validation[:, :-1] @ train[:, :-1].T @ train / len(train)

    def solution(self, rate, epochs):
        """Return the movement of the weights: nearest exact solution, or plain descent."""
        system = self.fixed - rate * self.pulled
        inputs, targets = system[:, :-1], system[:, -1]
        if np.isinf(epochs):
            return np.linalg.pinv(inputs) @ targets
        moved = np.zeros(inputs.shape[1])
        for _ in range(int(epochs)):
            moved -= STEP_SIZE * inputs.T @ (inputs @ moved - targets) / len(targets)
        return moved

    def loss(self, moved, new, test_rate):
        total = 0.0
        for task in zip(*map(np.asarray, new), strict=True):
            train, test = self.linear(*task[:2]), self.linear(*task[2:])
            slope = train[:, :-1].T @ (train[:, :-1] @ moved - train[:, -1]) / len(train)
            residual = test[:, :-1] @ (moved - test_rate * slope) - test[:, -1]
            total += np.mean(residual**2) / 2
        return total / len(new.train_targets)


def test_the_linearized_limit_is_dense_least_squares(drawn):
    network, training, new = drawn
    test_rates, epochs = np.array([0.0, 0.1]), np.array([1.0, 6.0, np.inf])

    @compiled
    def by_kernel():
        problem = tangent_problem(network, training)
        solve = lambda epochs, rate: outer_coefficients(problem, rate, STEP_SIZE, epochs)
        grid = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(jnp.asarray(epochs), RATES)
        flat = grid.reshape(-1, grid.shape[-1])
        losses = tangent_losses(network, problem, flat, new, jnp.asarray(test_rates))
        first, second = (trace(network, x) for x in (new.train_inputs, new.validation_inputs))
        return losses.reshape(*grid.shape[:2], -1), tangent_kernel(first, second)

    losses, kernel = by_kernel()
    dense = Dense(network, training)
    gradients = lambda inputs: np.asarray(dense.at(inputs)[1])
    expected = gradients(new.train_inputs[0]) @ gradients(new.validation_inputs[0]).T
    # Sums in another order: rounding of float64, amplified by the condition of a 6 by 6 matrix.
    np.testing.assert_allclose(kernel[0], expected, rtol=1e-11, atol=1e-13)
    for i, epoch in enumerate(epochs):
        for j, rate in enumerate(RATES):
            moved = dense.solution(rate, epoch)
            for k, test_rate in enumerate(test_rates):
                expected = dense.loss(moved, new, test_rate)
                np.testing.assert_allclose(losses[i, j, k], expected, rtol=1e-8)


def test_descent_of_the_limit_may_overshoot(drawn):
    """Odd and even powers of a negative factor: two steps of size two over the curvature."""
    network, training, _ = drawn
    one = RegressionTasks(*(x[:1, :1] for x in training))

    @compiled
    def coefficients():
        problem = tangent_problem(network, one)
        curvature = problem.kernel[0, 0]
        at = lambda epochs: outer_coefficients(problem, 0.0, 1.5 / curvature, epochs)[0]
        return jax.vmap(at)(jnp.array([1.0, 2.0, 3.0, jnp.inf]))

    found = coefficients()
    # 1 - (1 - 1.5)^t of the way.
    np.testing.assert_allclose(found / found[-1], [1.5, 0.75, 1.125, 1.0], rtol=1e-12)
