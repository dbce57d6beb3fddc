"""PyTorch modules as functions of JAX, held against PyTorch itself."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.interop import from_torch
from tests.helpers import relative_distance

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if find_spec("torchax") is None:  # importing it by itself fails with PyTorch 2.13
    pytest.skip("torchax is missing", allow_module_level=True)

nn = torch.nn
RNG = np.random.default_rng(0)


class Counting(nn.Module):
    """Keeps a Python number and what it computed last."""

    def __init__(self, name):
        super().__init__()
        self.linear, self.name, self.calls, self.last = nn.Linear(3, 1), name, 0, None

    def forward(self, x):
        y = self.linear(x)
        if self.name == "calls":
            self.calls += 1
        elif self.name == "last":
            self.last = y
        else:
            with torch.no_grad():
                self.linear.weight.mul_(0.9)
        return y


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: nn.BatchNorm1d(4), (5, 4)),
        (lambda: nn.BatchNorm1d(4, affine=False, momentum=0.3), (5, 4, 6)),
        (lambda: nn.BatchNorm2d(4), (3, 4, 2, 2)),
        (lambda: nn.BatchNorm1d(4, track_running_stats=False), (5, 4)),
    ],
    ids=["plain", "not affine", "images", "no statistics"],
)
def test_outputs_and_running_statistics_are_those_of_torch(norm, shape):
    module = nn.Sequential(nn.Conv1d(4, 4, 1) if len(shape) == 3 else nn.Identity(), norm())
    module.append(nn.Flatten()).append(nn.Linear(int(np.prod(shape[1:])), 2))
    params, buffers, apply = from_torch(module.train())
    apply = jax.jit(apply)
    for _ in range(2):
        x = RNG.standard_normal(shape).astype(np.float32)
        output, buffers = apply(params, buffers, x)
        expected = module(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(output, expected, atol=1e-5)
    theirs = dict(module.named_buffers())
    assert set(buffers) == set(theirs)
    for name, buffer in buffers.items():
        np.testing.assert_allclose(buffer, theirs[name].numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_follows_the_key_and_the_mode():
    module = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    params, buffers, apply = from_torch(module.train())
    x, first, second = jnp.ones((2, 3)), jax.random.key(1), jax.random.key(2)
    outputs = [apply(params, buffers, x, key=key)[0] for key in (first, first, second)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.any(outputs[0] != outputs[2])
    assert 20 < np.sum(outputs[0] == 0) < 80
    for call in (apply, jax.jit(apply)):
        with pytest.raises(ValueError, match="key is None, and module draws random numbers"):
            call(params, buffers, x)
    module.eval()
    evaluated, _ = apply(params, buffers, x, key=first)
    np.testing.assert_allclose(evaluated, module(torch.ones(2, 3)).detach().numpy(), atol=1e-6)


def test_frozen_parameters_are_buffers_and_tied_ones_are_one():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    module[1].requires_grad_(False)
    params, buffers, apply = from_torch(module)
    assert sorted(params) == ["0.bias", "0.weight", "2.bias"]
    assert sorted(buffers) == ["1.bias", "1.weight"]
    doubled = {**params, "0.weight": 2 * params["0.weight"]}
    with torch.no_grad():
        module[0].weight.mul_(2)
    output, _ = apply(doubled, buffers, jnp.ones(3))
    np.testing.assert_allclose(output, module(torch.ones(3)).detach().numpy(), rtol=1e-5)


def test_the_hypergradient_is_that_of_the_same_network_in_jax(key):
    """One weight per example; mixed mode and forward mode pass through, too."""
    module = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1))
    params, buffers, apply = from_torch(module)
    x, y = jax.random.normal(key, (8, 3)), jnp.arange(8.0) / 8

    def by_hand(params, x):
        hidden = x @ params["0.weight"].T + params["0.bias"]
        return jax.nn.gelu(hidden, approximate=False) @ params["2.weight"].T + params["2.bias"]

    def problem(predict):
        errors = lambda params: (predict(params, x)[:, 0] - y) ** 2
        return ms.TrainingProblem(
            loss=lambda params, outer, batch: jnp.mean(outer["weights"] * errors(params)),
            objective=lambda params, outer: jnp.mean(errors(params)),
            init_params=params,
            optimizer=lambda outer: optax.sgd(outer["rate"], momentum=0.9),
            horizon=4,
        )

    outer = {"weights": jnp.ones(8), "rate": 0.1}
    ours = problem(lambda params, x: apply(params, buffers, x)[0])
    expected = ms.hypergradient(problem(by_hand), outer, ms.Reverse(), key=key).grad
    for estimator in (ms.Reverse(mixed=True), ms.Forward()):
        found = ms.hypergradient(ours, outer, estimator, key=key).grad
        assert relative_distance(found, expected) < 1e-5


def test_a_causal_model_of_hugging_face():
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    params, buffers, apply = from_torch(model)
    tokens = RNG.integers(0, 30, (2, 12))
    logits = jax.jit(lambda *given: apply(*given)[0].logits)(params, buffers, tokens)
    expected = model(torch.tensor(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("calls", "sets its attribute calls"),
        ("last", "sets its attribute last"),
        ("weight", r"changes its parameter linear\.weight in place"),
    ],
)
def test_state_that_cannot_be_functional_is_refused(name, message):
    params, buffers, apply = from_torch(Counting(name))
    with pytest.raises(ValueError, match=message):
        jax.jit(apply)(params, buffers, jnp.ones((2, 3)))


def test_modules_that_cannot_be_trained_are_refused():
    with pytest.raises(ValueError, match="ReLU without a parameter that requires a gradient"):
        from_torch(nn.ReLU())
    integers = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.int32), False)])
    with pytest.raises(ValueError, match="without a parameter that requires a gradient"):
        from_torch(integers)
    with pytest.raises(ValueError, match=r"module\.0 is an instance normalization"):
        from_torch(nn.Sequential(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)))
