"""Every trap found in peers, as a fact about this library (letters as in the study of peers).

(a), (b): conjugate gradients that return the wrong iterate are in estimators/test_implicit.py.
(c): an evolution strategy whose gradient is too small by sigma^2 is in estimators/test_sampled.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.tasks import accuracy
from metastep_lab import data
from tests.cases import PROBLEMS, exact_estimators
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

HORIZON = 9
EXACT = exact_estimators(HORIZON)


@pytest.mark.parametrize("estimator", EXACT.values(), ids=EXACT)
def test_d_every_batch_index_is_drawn_exactly_once(estimator, key):
    """A sampler of a peer draws one batch too many and uses the last one twice."""
    problem = ms.TrainingProblem(
        loss=lambda w, outer, batch: -jnp.sum(w * batch) + 0 * outer,
        objective=lambda w, outer: jnp.sum(w * 10.0 ** jnp.arange(HORIZON)) + outer,
        init_params=jnp.zeros(HORIZON),
        optimizer=optax.sgd(1.0),
        horizon=HORIZON,
        batch=lambda t, key: jax.nn.one_hot(t, HORIZON),
    )
    estimate = ms.hypergradient(problem, jnp.array(0.0), estimator, key=key)
    assert float(estimate.value) == 111_111_111.0


@pytest.mark.parametrize("estimator", EXACT.values(), ids=EXACT)
def test_replayed_steps_see_the_same_batches(estimator, key):
    """hypertorch draws new batches when it replays steps: the gradient of another trajectory."""
    batch = lambda t, key: jax.random.normal(key)
    problem = ms.TrainingProblem(
        loss=lambda w, outer, batch: jnp.sum((w - outer * batch) ** 2) / 2,
        objective=lambda w, outer: jnp.sum(w),
        init_params=jnp.zeros(1),
        optimizer=optax.sgd(0.5),
        horizon=HORIZON,
        batch=batch,
    )
    outer = jnp.array(2.0)
    estimate = ms.hypergradient(problem, outer, estimator, key=key)
    # w_T is linear in outer, with the batches as coefficients.
    assert np.isclose(estimate.grad, estimate.value / outer, rtol=1e-13, atol=0)


def test_e_accuracy_is_no_error_rate_and_replaced_is_not_wrong():
    perfect = jnp.eye(3)
    assert accuracy(perfect, perfect, jnp.arange(3)) == 1.0
    labels = np.zeros(20_000, np.int64)
    given, replaced = data.corrupt_labels(labels, 10, 0.5, np.random.default_rng(0))
    wrong = given != labels
    assert np.all(replaced[wrong])
    # Half are replaced, nine tenths of these wrong; five standard errors of 20,000 draws.
    assert abs(replaced.mean() - 0.5) < 0.018
    assert abs(wrong.mean() - 0.45) < 0.018


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adamw(0.1, weight_decay=0.3),
        optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1)),
    ],
    ids=["momentum", "adamw", "decay"],
)
@pytest.mark.parametrize("estimator", EXACT.values(), ids=EXACT)
def test_f_momentum_and_weight_decay_are_kept(estimator, optimizer, key):
    """A peer sets both to zero in silence; others reset the momentum at the cut."""
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2)
    start, outer = jnp.array([1.0, -1.0]), jnp.array(0.5)
    problem = ms.TrainingProblem(loss, lambda w, outer: jnp.sum(w**3), start, optimizer, HORIZON)
    w, state = start, optimizer.init(start)
    for _ in range(HORIZON):
        updates, state = optimizer.update(jax.grad(loss)(w, outer, None), state, w)
        w = optax.apply_updates(w, updates)
    estimate = ms.hypergradient(problem, outer, estimator, key=key)
    assert np.isclose(estimate.value, jnp.sum(w**3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", [*EXACT.values(), ms.Implicit()], ids=[*EXACT, "implicit"])
def test_g_every_estimate_can_be_differentiated_forward(estimator, key):
    """A checkpointed adjoint of a peer cannot; here outer Hessian-vector products just work."""
    problem, outer = PROBLEMS["quadratic"]()
    direction = jnp.array([0.3, -1.0, 0.5])
    grad = jax.jit(lambda outer: estimator.estimate(problem, outer, None, key)[0].grad)
    _, product = jax.jvp(grad, (outer,), (direction,))
    width = 1e-5
    slope = (grad(outer + width * direction) - grad(outer - width * direction)) / (2 * width)
    assert relative_distance(product, slope) < 1e-8  # central differences carry about 1e-10
