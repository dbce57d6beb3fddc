"""What cannot be captured, and wrong input, say so."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

from metastep.curvature import BatchRisk, EmpiricalRisk, Hessian, find_layers, kronecker_eigenpairs

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
X, Y = jnp.ones((4, 3)), jnp.array([0, 1, 2, 0])
W, B = jnp.eye(3), jnp.zeros(3)


def in_a_loop(params, x):
    return jax.lax.scan(lambda hidden, _: (params["W"] @ hidden, None), x, length=2)[0]


def twice(params, x):
    return params["W"] @ jax.nn.relu(params["W"] @ x)


def tied(params, x):
    return params["W"].T @ jax.nn.relu(params["W"] @ x)


def grouped(params, x):
    z = jax.lax.conv_general_dilated(
        x.reshape(1, 3, 1), params["W"].reshape(3, 1, 3), (1,), "SAME", feature_group_count=3
    )
    return z.reshape(-1)[:3]


def in_a_branch(params, x):
    return jax.lax.cond(x[0] > 0, lambda w: w @ x, lambda w: -w @ x, params["W"])


@jax.custom_jvp
def own_rule(params, x):
    return params["W"] @ x


own_rule.defjvp(lambda at, along: (own_rule(*at), own_rule(at[0], along[1])))

UNCAPTURABLE = {
    "loop": (in_a_loop, "inside a scan"),
    "branch": (in_a_branch, "inside a cond; choose the branch in Python"),
    "own rule": (own_rule, "inside a custom_jvp_call, which brings its own derivative"),
    "shared": (twice, "used 2 times"),
    "tied": (tied, "used 2 times"),
    "elementwise": (lambda params, x: (params["W"] * 2) @ x, "operation mul"),
    "grouped": (grouped, "grouped convolution"),
    "returned": (lambda params, x: params["W"], "returned by the model"),
    "unused": (lambda params, x: x, "used 0 times"),
    "product of two": (lambda params, x: params["W"] @ params["W"] @ x, "dot_general"),
}


@pytest.mark.parametrize("row", UNCAPTURABLE)
def test_what_cannot_be_captured_says_why_and_what_to_do(row):
    model, why = UNCAPTURABLE[row]
    loss = lambda output, target: jnp.sum(output) * target
    risk = EmpiricalRisk(model, loss, {"W": W}, X, Y)
    with pytest.raises(ValueError, match=f"layers has W, which cannot be captured.*({why})") as e:
        find_layers(risk)
    assert "Hessian or GaussNewton" in str(e.value)


def test_recomputed_and_named_values_are_looked_through():
    named = lambda params, x: checkpoint_name(params["W"] @ x, "z") + params["b"]
    model = jax.jit(jax.checkpoint(named))
    layers = find_layers(EmpiricalRisk(model, CROSS_ENTROPY, {"W": W, "b": B}, X, Y), bias=True)
    assert layers["W"].bias == "b"


def test_an_unknown_layer_lists_the_names():
    risk = EmpiricalRisk(lambda p, x: p["b"]["c"] @ p["a"] @ x, CROSS_ENTROPY, NESTED, X, Y)
    with pytest.raises(ValueError, match=r"\['fc1'\]; allowed are a, b.c"):
        find_layers(risk, ["fc1"])


NESTED = {"a": W, "b": {"c": W}}

BIASES = {
    "missing": (lambda p, x: p["W"] @ x),
    "behind an activation": (lambda p, x: jax.nn.relu(p["W"] @ x) + p["b"]),
    "added twice": (lambda p, x: p["W"] @ x + p["b"] + p["b"]),
    "beside the output": (lambda p, x: (z := p["W"] @ x) * (z + p["b"])),
}


@pytest.mark.parametrize("row", BIASES)
def test_a_bias_is_taken_only_where_it_is_part_of_the_layer(row):
    risk = EmpiricalRisk(BIASES[row], CROSS_ENTROPY, {"W": W, "b": B}, X, Y)
    assert find_layers(risk, ["W"])["W"].bias is None
    with pytest.raises(ValueError, match="no bias of its own"):
        find_layers(risk, ["W"], bias=True)


LINEAR = lambda params, x: params["W"] @ x
SUM = lambda params, batch: jnp.sum(jnp.sum(batch @ params["W"], axis=1) ** 2)

WRONG = {
    "NaN": (
        lambda: EmpiricalRisk(LINEAR, CROSS_ENTROPY, {"W": W.at[0, 0].set(jnp.nan)}, X, Y),
        r"params\['W'\] has 1 entries that are infinite or NaN",
    ),
    "counts": (lambda: EmpiricalRisk(LINEAR, CROSS_ENTROPY, {"W": W}, X, Y[:2]), "leading axes"),
    "no examples": (
        lambda: EmpiricalRisk(LINEAR, CROSS_ENTROPY, {"W": W}, X[:0], Y[:0]),
        "leading axes",
    ),
    "no parameters": (lambda: EmpiricalRisk(LINEAR, CROSS_ENTROPY, {}, X, Y), "no floating-point"),
    "loss per class": (
        lambda: EmpiricalRisk(LINEAR, lambda z, y: z * y, {"W": W}, X, Y),
        r"shape \[3\]; allowed is a scalar",
    ),
    "sum": (lambda: BatchRisk(SUM, {"W": W}, X), "allowed is a loss that is the mean"),
    "batch size": (
        lambda: Hessian(EmpiricalRisk(LINEAR, CROSS_ENTROPY, {"W": W}, X, Y), batch_size=0),
        "batch_size is 0",
    ),
    "k": (lambda: kronecker_eigenpairs(W, W, 10), "k is 10; allowed are the integers from 1 to 9"),
}


@pytest.mark.parametrize("row", WRONG)
def test_wrong_input_is_named(row):
    call, message = WRONG[row]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_loss_that_is_a_mean_has_the_same_hessian(x64):
    data, params = jnp.arange(12.0).reshape(4, 3) / 10, {"W": jnp.eye(3)}
    risk = BatchRisk(lambda p, batch: SUM(p, batch) / len(batch), params, data)
    parts = Hessian(risk, batch_size=3).as_matrix()
    # The loss is the mean of (sum_ij x_i W_ij)^2.
    expected = jnp.kron(2 * data.T @ data / len(data), jnp.ones((3, 3)))
    assert jnp.max(jnp.abs(parts - expected)) < 1e-12  # float64 rounding
