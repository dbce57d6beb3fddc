"""Small language models: causal, trained to the same bits in any number of parts."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from metastep_lab.wu2022.language import (
    AbstractLanguageModel,
    GatedRecurrentModel,
    Recipe,
    TransformerModel,
    begin,
    next_token_loss,
    train,
    window_states,
)

VOCABULARY, HIDDEN, TIME = 11, 8, 12
MODELS = {
    "gru": lambda key: GatedRecurrentModel(VOCABULARY, HIDDEN, key=key),
    "transformer": lambda key: TransformerModel(
        VOCABULARY, HIDDEN, context=TIME, layers=1, heads=2, key=key
    ),
}
RECIPE = Recipe(steps=60, batch=8, context=TIME, step_size=0.02)
# Each word decides the next one: a model that has learned it has a loss near 0, log 11 before.
CYCLE = jnp.tile(jax.random.permutation(jax.random.key(3), VOCABULARY), 20)


@pytest.mark.parametrize("name", MODELS)
def test_states_depend_on_the_past_only(name, key):
    tokens = jax.random.randint(key, (3, TIME), 0, VOCABULARY)
    changed = tokens.at[:, 7].set((tokens[:, 7] + 1) % VOCABULARY)
    model = eqx.filter_jit(MODELS[name])(key)
    states = eqx.filter_jit(window_states)
    before, after = (states(model, windows) for windows in (tokens, changed))
    assert before.shape == (3, TIME, HIDDEN)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.all(np.abs(before[:, 7:] - after[:, 7:]).max(axis=(0, 2)) > 0)


def test_training_learns_and_its_parts_have_the_bits_of_the_whole(key):
    start = begin(MODELS["transformer"](key), RECIPE, key)
    whole, losses = train(start, RECIPE, CYCLE, RECIPE.steps)
    middle, first = train(start, RECIPE, CYCLE, RECIPE.steps // 2)
    end, second = train(middle, RECIPE, CYCLE, RECIPE.steps // 2)
    np.testing.assert_array_equal(np.concatenate([first, second]), losses)
    assert eqx.tree_equal(end, whole)
    # The first loss is that of almost equal probabilities, as the embedding begins near zero.
    assert float(losses[0]) == pytest.approx(np.log(VOCABULARY), abs=0.1)
    assert float(losses[-1]) < 0.3


class OneWord(AbstractLanguageModel):
    """The state is the embedding of the last word."""

    embedding: Array

    def hidden_states(self, tokens):
        return self.embedding[tokens]


def test_the_loss_is_the_mean_negative_log_probability(key):
    words, tokens = np.asarray(jax.random.normal(key, (5, 3))), [0, 3, 1, 4, 4]
    logits = words.astype(np.float64) @ words.T
    table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([table[now, later] for now, later in itertools.pairwise(tokens)])
    loss = next_token_loss(OneWord(jnp.asarray(words)), jnp.asarray(tokens))
    assert float(loss) == pytest.approx(expected, rel=1e-6)  # float32 against float64


WRONG = {
    "vocabulary": (lambda key: GatedRecurrentModel(1, 4, key=key), "vocabulary is 1"),
    "hidden": (lambda key: GatedRecurrentModel(5, 0, key=key), "hidden is 0"),
    "scale": (lambda key: GatedRecurrentModel(5, 4, scale=0.0, key=key), "scale is 0"),
    "heads": (lambda key: TransformerModel(5, 6, context=4, heads=4, key=key), "heads is 4"),
    "steps": (lambda key: Recipe(steps=0), "steps is 0"),
    "batch": (lambda key: Recipe(steps=1, batch=0), "batch is 0"),
    "step_size": (lambda key: Recipe(steps=1, step_size=-1.0), "step_size is -1"),
    "long": (lambda key: MODELS["transformer"](key).hidden_states(CYCLE), "tokens has 220"),
    "short": (
        lambda key: train(begin(MODELS["gru"](key), RECIPE, key), RECIPE, CYCLE[:TIME], 1),
        "tokens has 12 entries; allowed are more than the context, 12",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(make, message, key):
    with pytest.raises(ValueError, match=message):
        make(key)
