"""Networks for small images: fully connected or LeNet, with or without batch normalization."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from metastep.types import RandomKey

KERNEL = 5
POOL = 2
EPSILON = 1e-5  # added to a variance, as in most implementations
# Weights are [out, in, ...]; JAX's default has the outputs last.
GLOROT = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0)

Params = dict[str, dict[str, Array]]


@dataclass(frozen=True)
class DigitNetwork:
    """A ReLU network: convolutions of 5 x 5 with max-pooling by 2, then fully connected layers.

    Parameters are `{"conv1": {"weight", "bias"}, ..., "fc1": ..., ...}`, weights `[out, in]` and
    `[out, in, 5, 5]`. Batch normalization stands after every ReLU, without parameters of its own;
    its statistics are `{"conv1": {"mean", "variance"}, ...}`, one number for each channel or unit.

    Reference:
        LeCun et al. (1998); Ioffe, Szegedy (2015).

    Attributes:
        channels: of each convolution; none for a fully connected network.
        hidden: units of each hidden layer.
        batch_norm: whether activations are normalized.
        classes: number of outputs.
    """

    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    batch_norm: bool = False
    classes: int = 10

    def init(self, key: RandomKey, image: tuple[int, ...]) -> Params:
        """Draw Glorot-uniform weights for images of a shape; biases are zero."""
        return draw_layers(key, self._shapes(image))

    def initial_statistics(self) -> Params:
        """Return mean 0 and variance 1 for every normalized activation; nothing without any."""
        sizes = dict(zip(self._hidden_names(), (*self.channels, *self.hidden), strict=True))
        if not self.batch_norm:
            return {}
        return {
            name: {"mean": jnp.zeros(size), "variance": jnp.ones(size)}
            for name, size in sizes.items()
        }

    def scores(
        self,
        params: Params,
        images: Float[Array, "examples *colors rows columns"],
        statistics: Params | None = None,
    ) -> tuple[Float[Array, "examples classes"], Params]:
        """Return the score of every class, and the statistics of batch normalization.

        Those of these images are used where none are given.
        """
        used: Params = {}
        x = with_colors(images)
        for name in self._names("conv", len(self.channels)):
            weight, bias = params[name]["weight"], params[name]["bias"]
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID") + bias[:, None, None]
            x = max_pool(self._activate(name, x, statistics, used))
        x = x.reshape(len(x), -1)
        *names, last = self._names("fc", len(self.hidden) + 1)
        for name in names:
            x = x @ params[name]["weight"].T + params[name]["bias"]
            x = self._activate(name, x, statistics, used)
        return x @ params[last]["weight"].T + params[last]["bias"], used

    def __call__(
        self, variables: dict[str, Any], image: Float[Array, "*colors rows columns"]
    ) -> Array:
        """Return the scores of one image: the model of an `EmpiricalRisk`."""
        params = {name: value for name, value in variables.items() if name != "statistics"}
        return self.scores(params, image[None], variables["statistics"])[0][0]

    def _activate(self, name: str, x: Array, statistics: Params | None, used: Params) -> Array:
        # Appendix C.5.2 normalizes after the ReLU and without learned scale and shift, so that the
        # next layer's inputs have mean zero, which is what Appendix C.7.3 varies.
        x = jax.nn.relu(x)
        if not self.batch_norm:
            return x
        axes = (0, *range(2, x.ndim))
        if statistics is None:
            used[name] = {"mean": jnp.mean(x, axes), "variance": jnp.var(x, axes)}
        else:
            used[name] = statistics[name]
        spread = lambda value: value.reshape(-1, *(1,) * (x.ndim - 2))
        mean, variance = spread(used[name]["mean"]), spread(used[name]["variance"])
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON)

    def _names(self, kind: str, count: int) -> list[str]:
        return [f"{kind}{i + 1}" for i in range(count)]

    def _hidden_names(self) -> list[str]:
        return self._names("conv", len(self.channels)) + self._names("fc", len(self.hidden))

    def _shapes(self, image: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        *colors, rows, columns = image
        (first,) = colors or (1,)
        shapes: dict[str, tuple[int, ...]] = {}
        channels = pairwise((first, *self.channels))
        for name, (before, after) in zip(
            self._names("conv", len(self.channels)), channels, strict=True
        ):
            shapes[name] = (after, before, KERNEL, KERNEL)
            rows, columns = ((size - KERNEL + 1) // POOL for size in (rows, columns))
        if min(rows, columns) < 1:
            raise ValueError(
                f"image is {image}; allowed are sizes of which {len(self.channels)} convolutions "
                "leave at least one pixel"
            )
        pixels = rows * columns * (self.channels[-1] if self.channels else first)
        sizes = pairwise((pixels, *self.hidden, self.classes))
        names = self._names("fc", len(self.hidden) + 1)
        return shapes | {name: pair[::-1] for name, pair in zip(names, sizes, strict=True)}


def draw_layers(
    key: RandomKey, shapes: Mapping[str, tuple[int, ...]], draw: Initializer = GLOROT
) -> Params:
    """Draw weights of the shapes given, `[out, in, ...]`; biases are zero."""
    params = {}
    for i, (name, shape) in enumerate(shapes.items()):
        weight = draw(jax.random.fold_in(key, i), shape, jnp.float32)
        params[name] = {"weight": weight, "bias": jnp.zeros(shape[0])}
    return params


def with_colors(
    images: Float[Array, "examples *colors rows columns"],
) -> Float[Array, "examples colors rows columns"]:
    """Return images with an axis of colors, of length 1 for gray ones."""
    return images if images.ndim == 4 else images[:, None]


def max_pool(x: Float[Array, "examples channels rows columns"]) -> Array:
    """Return the largest of every 2 x 2 pixels."""
    window = (1, 1, POOL, POOL)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
