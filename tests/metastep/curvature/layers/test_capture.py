"""What cannot be captured, and wrong input, say so."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

from metastep.curvature import (
    BatchRisk,
    EmpiricalRisk,
    Hessian,
    find_layers,
    full_hessian_eigenpairs,
    kronecker_eigenpairs,
    kronecker_hessian,
)
from metastep.curvature.layers.capture import example_factors

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
X, Y = jnp.ones((4, 3)), jnp.array([0, 1, 2, 0])
W, B = jnp.eye(3), jnp.zeros(3)


def in_a_loop(params, x):
    return jax.lax.scan(lambda hidden, _: (params["W"] @ hidden, None), x, length=2)[0]


def twice(params, x):
    return params["W"] @ jax.nn.relu(params["W"] @ x)


def tied(params, x):
    return params["W"].T @ jax.nn.relu(params["W"] @ x)


def overlapping(params, x):
    return params["W"][:2] @ x + params["W"][1:] @ x


def grouped_batch(params, x):
    kernel = params["W"].reshape(3, 1, 3)
    z = jax.lax.conv_general_dilated(x.reshape(3, 1, 1), kernel, (1,), "SAME", batch_group_count=3)
    return z.reshape(-1)[:3]


def in_a_branch(params, x):
    return jax.lax.cond(x[0] > 0, lambda w: w @ x, lambda w: -w @ x, params["W"])


@jax.custom_jvp
def own_rule(params, x):
    return params["W"] @ x


own_rule.defjvp(lambda at, along: (own_rule(*at), own_rule(at[0], along[1])))

UNCAPTURABLE = {
    "loop": (in_a_loop, "inside a scan, in every step"),
    "branch": (in_a_branch, "inside a cond; choose the branch in Python"),
    "own rule": (own_rule, "inside a custom_jvp_call, which brings its own derivative"),
    "shared": (twice, "used 2 times"),
    "tied": (tied, "used 2 times"),
    "elementwise": (lambda params, x: (params["W"] * 2) @ x, "operation mul"),
    "overlapping": (overlapping, "parts of it that are used as matrices overlap"),
    "grouped batch": (grouped_batch, "convolution whose batch is in groups"),
    "returned": (lambda params, x: params["W"], "returned by the model"),
    "unused": (lambda params, x: x, "used 0 times"),
    "product of two": (lambda params, x: params["W"] @ params["W"] @ x, "dot_general"),
}


@pytest.mark.parametrize("row", UNCAPTURABLE)
def test_what_cannot_be_captured_says_why_and_what_to_do(row):
    model, why = UNCAPTURABLE[row]
    loss = lambda output, target: jnp.sum(output) * target
    risk = EmpiricalRisk(model, loss, {"W": W}, X, Y)
    with pytest.raises(
        ValueError, match=rf"layers has W(\[0\])?, which cannot be captured.*({why})"
    ) as e:
        find_layers(risk)
    assert "Hessian or GaussNewton" in str(e.value)


def test_a_scan_is_walked_as_it_runs(x64):
    """Backwards, with outputs that it stacks, and with inputs that are no parameters."""

    def model(params, x):
        step = lambda hidden, both: (both[0] @ hidden + both[1], jnp.sum(hidden))
        stacks = params["W"], jnp.arange(2.0)
        last, sums = jax.lax.scan(step, x, stacks, reverse=True)
        return last * sums[0] + sums[1]

    params = {"W": jnp.arange(18.0).reshape(2, 3, 3) / 10}
    inputs = jnp.linspace(0, 1, 6).reshape(2, 3)
    risk = EmpiricalRisk(model, CROSS_ENTROPY, params, inputs, Y[:2])
    x = inputs[1]
    factors, _ = example_factors(risk, ("W[0]", "W[1]"), False, (x, Y[1]))
    first = params["W"][1] @ x + 1  # the stack's last step comes first
    assert jnp.allclose(factors["W[1]"].inputs, x[None], atol=1e-12)
    assert jnp.allclose(factors["W[0]"].inputs, first[None], atol=1e-12)
    slopes = jax.jacrev(lambda w: model({"W": params["W"].at[0].set(w)}, x))(params["W"][0])
    # The derivative by W is the one by the layer's output times its input.
    found = jnp.einsum("cpo,pn->con", factors["W[0]"].jacobian, factors["W[0]"].inputs)
    assert jnp.allclose(found, slopes, atol=1e-12)


def test_groups_have_no_single_kronecker_product():
    model = lambda params, x: jnp.einsum("gon,gn->go", params["W"], x.reshape(3, 1)).reshape(-1)
    risk = EmpiricalRisk(model, CROSS_ENTROPY, {"W": jnp.ones((3, 1, 1))}, X, Y)
    assert find_layers(risk)["W"].groups == 3
    for call in (kronecker_hessian, lambda risk: full_hessian_eigenpairs(risk, 1)):
        with pytest.raises(ValueError, match=r"W with 3 groups.*allowed are layers of one group"):
            call(risk)


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
