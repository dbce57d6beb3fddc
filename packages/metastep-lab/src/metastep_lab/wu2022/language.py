"""Small language models with tied embeddings, and one compiled loop that trains them.

A model reads tokens from left to right and predicts the next one: its logits are the inner products
of the hidden state with every row of the embedding. Another kind of model needs an `embedding`
and `hidden_states`; training and evaluation use nothing else.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from metastep.compilation import compiled
from metastep.types import RandomKey, Scalar

WARM_UP = 0.05  # the part of the steps in which the step size grows
LARGEST_GRADIENT = 1.0
INITIAL_SCALE = 0.02


class AbstractLanguageModel(eqx.Module):
    """A causal language model whose last layer is log-linear and shares its rows with the input.

    Attributes:
        embedding: one row for each word, for input and output, shape (vocabulary, hidden).
    """

    embedding: eqx.AbstractVar[Float[Array, "vocabulary hidden"]]

    @abc.abstractmethod
    def hidden_states(self, tokens: Int[Array, " time"]) -> Float[Array, "time hidden"]:
        """Return what the last layer multiplies with the embedding, for each position.

        The state of a position depends only on the tokens up to it.
        """


def initial_embedding(
    key: RandomKey, vocabulary: int, hidden: int, scale: float = INITIAL_SCALE
) -> Array:
    """Draw the rows of an embedding; the scale is that of GPT-2 and OPT, where not given.

    Raises:
        ValueError: for fewer than two words, no dimension, or a scale that is not positive.
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary is {vocabulary}; allowed are integers from 2")
    if hidden < 1:
        raise ValueError(f"hidden is {hidden}; allowed are integers from 1")
    if not scale > 0:
        raise ValueError(f"scale is {scale}; allowed are positive numbers")
    return scale * jax.random.normal(key, (vocabulary, hidden))


class GatedRecurrentModel(AbstractLanguageModel):
    """One layer of gated recurrent units.

    Reference:
        Cho et al. (2014) for the unit; Press and Wolf (2017) for the tied embedding.
    """

    embedding: Float[Array, "vocabulary hidden"]
    cell: eqx.nn.GRUCell

    def __init__(
        self, vocabulary: int, hidden: int, *, scale: float = INITIAL_SCALE, key: RandomKey
    ):
        words, cell = jax.random.split(key)
        self.embedding = initial_embedding(words, vocabulary, hidden, scale)
        self.cell = eqx.nn.GRUCell(hidden, hidden, key=cell)

    def hidden_states(self, tokens: Int[Array, " time"]) -> Float[Array, "time hidden"]:
        """Run the units over the words, from a state of zeros."""
        hidden = self.embedding.shape[1]
        # Rows are small, so that logits begin near zero; as inputs they are scaled up (Vaswani et
        # al. 2017).
        inputs = self.embedding[tokens] * hidden**0.5

        def step(state: Array, word: Array) -> tuple[Array, Array]:
            state = self.cell(word, state)
            return state, state

        return jax.lax.scan(step, jnp.zeros(hidden, inputs.dtype), inputs)[1]


class _Block(eqx.Module):
    """Attention and a perceptron, each added to a normalized input."""

    first_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    second_norm: eqx.nn.LayerNorm
    perceptron: eqx.nn.MLP

    def __init__(self, hidden: int, heads: int, *, key: RandomKey):
        attention, perceptron = jax.random.split(key)
        self.first_norm = eqx.nn.LayerNorm(hidden)
        self.attention = eqx.nn.MultiheadAttention(heads, hidden, key=attention)
        self.second_norm = eqx.nn.LayerNorm(hidden)
        self.perceptron = eqx.nn.MLP(
            hidden, hidden, 4 * hidden, depth=1, activation=jax.nn.gelu, key=perceptron
        )

    def __call__(self, states: Array, mask: Array) -> Array:
        """Return the states of the next layer."""
        normal = jax.vmap(self.first_norm)(states)
        states = states + self.attention(normal, normal, normal, mask)
        return states + jax.vmap(lambda state: self.perceptron(self.second_norm(state)))(states)


class TransformerModel(AbstractLanguageModel):
    """A transformer with learned positions, normalization before each part and after the last.

    Reference:
        Radford et al. (2019), GPT-2, without dropout.
    """

    embedding: Float[Array, "vocabulary hidden"]
    positions: Float[Array, "context hidden"]
    blocks: tuple[_Block, ...]
    norm: eqx.nn.LayerNorm

    def __init__(
        self,
        vocabulary: int,
        hidden: int,
        *,
        context: int,
        layers: int = 2,
        heads: int = 4,
        scale: float = INITIAL_SCALE,
        key: RandomKey,
    ):
        if heads < 1 or hidden % heads:
            raise ValueError(f"heads is {heads}; allowed are divisors of hidden, {hidden}")
        words, places, rest = jax.random.split(key, 3)
        self.embedding = initial_embedding(words, vocabulary, hidden, scale)
        # `initial_embedding` refuses a single row.
        self.positions = initial_embedding(places, max(context, 2), hidden, scale)
        self.blocks = tuple(
            _Block(hidden, heads, key=one) for one in jax.random.split(rest, layers)
        )
        self.norm = eqx.nn.LayerNorm(hidden)

    def hidden_states(self, tokens: Int[Array, " time"]) -> Float[Array, "time hidden"]:
        """Apply every layer; at most as many tokens as there are positions."""
        time, (places, hidden) = len(tokens), self.positions.shape
        if time > places:
            raise ValueError(f"tokens has {time} entries; allowed are at most {places}")
        states = (self.embedding[tokens] + self.positions[:time]) * hidden**0.5
        mask = jnp.tril(jnp.ones((time, time), bool))
        for block in self.blocks:
            states = block(states, mask)
        return jax.vmap(self.norm)(states)


def next_token_loss(model: AbstractLanguageModel, tokens: Int[Array, " time"]) -> Scalar:
    """Return the mean negative log probability of tokens[1:], each after those before it."""
    logits = model.hidden_states(tokens[:-1]) @ model.embedding.T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:]).mean()


class Recipe(eqx.Module):
    """The training of a model: Adam, with a warm-up of the step size and a cosine decay.

    Attributes:
        steps: of training in total.
        batch: windows of text in each step.
        context: tokens that are predicted in each window.
        step_size: the largest one.
    """

    steps: int = eqx.field(static=True)
    batch: int = eqx.field(static=True, default=32)
    context: int = eqx.field(static=True, default=64)
    step_size: float = eqx.field(static=True, default=3e-3)

    def __check_init__(self):
        """Check the values of the fields."""
        for name in ("steps", "batch", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are integers from 1")
        if not self.step_size > 0:
            raise ValueError(f"step_size is {self.step_size}; allowed are positive numbers")

    def optimizer(self) -> optax.GradientTransformation:
        """Return Adam on gradients whose norm is limited to 1."""
        warm_up = max(1, round(WARM_UP * self.steps))
        schedule = optax.warmup_cosine_decay_schedule(
            # optax refuses a decay that is not longer than its warm-up.
            0.0,
            self.step_size,
            warm_up,
            max(self.steps, warm_up + 1),
        )
        return optax.chain(optax.clip_by_global_norm(LARGEST_GRADIENT), optax.adam(schedule))


class Training(eqx.Module):
    """The state of training: saved and loaded, it continues bitwise as if uninterrupted.

    Attributes:
        model: as trained so far.
        optimizer_state: of the recipe's optimizer.
        step: the number of steps done.
        key: from which the windows of every step are drawn.
    """

    model: AbstractLanguageModel
    optimizer_state: optax.OptState
    step: Int[Array, ""]
    key: RandomKey


def begin(model: AbstractLanguageModel, recipe: Recipe, key: RandomKey) -> Training:
    """Return the state before the first step."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    return Training(model, recipe.optimizer().init(parameters), jnp.asarray(0), key)


@compiled
def train(
    training: Training, recipe: Recipe, tokens: Int[Array, " length"], count: int
) -> tuple[Training, Float[Array, " count"]]:
    """Train for `count` steps on random windows of a text, which is longer than a context.

    Example:
        >>> tokens = jnp.tile(jnp.arange(5), 20)
        >>> model = GatedRecurrentModel(5, 8, key=jax.random.key(0))
        >>> recipe = Recipe(steps=60, batch=4, context=10, step_size=0.03)
        >>> trained, losses = train(begin(model, recipe, jax.random.key(1)), recipe, tokens, 60)
        >>> bool(losses[-1] < 0.1)
        True

    The same count compiles once. Any split of the steps gives bitwise the same result. Returns the
    state afterwards, and the loss of each step before its update, in nats for each token.

    Raises:
        ValueError: if the text is no longer than a context.
    """
    windows = len(tokens) - recipe.context
    if windows < 1:
        raise ValueError(
            f"tokens has {len(tokens)} entries; allowed are more than the context, {recipe.context}"
        )
    optimizer = recipe.optimizer()
    parameters, static = eqx.partition(training.model, eqx.is_inexact_array)

    def batch_loss(parameters: AbstractLanguageModel, batch: Array) -> Scalar:
        model = eqx.combine(parameters, static)
        return jax.vmap(next_token_loss, (None, 0))(model, batch).mean()

    def step(carry: tuple, _: None) -> tuple[tuple, Scalar]:
        parameters, state, done = carry
        # From the step's number: however the steps are split, each draws the same windows.
        key = jax.random.fold_in(training.key, done)
        starts = jax.random.randint(key, (recipe.batch, 1), 0, windows)
        batch = tokens[starts + jnp.arange(recipe.context + 1)]
        loss, gradient = jax.value_and_grad(batch_loss)(parameters, batch)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state, done + 1), loss

    start = parameters, training.optimizer_state, training.step
    (parameters, state, done), losses = jax.lax.scan(step, start, length=count)
    return Training(eqx.combine(parameters, static), state, done, training.key), losses


@compiled
def window_states(
    model: AbstractLanguageModel, windows: Int[Array, "windows time"]
) -> Float[Array, "windows time hidden"]:
    """Return the hidden states of several windows of text, each read from its beginning.

    One window after another, so that memory does not grow with their number.
    """
    return jax.lax.map(model.hidden_states, windows, batch_size=16)
