"""VGG11 and ResNet18 without normalization and dropout, for small images."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.types import RandomKey
from metastep_lab.wu2022.networks.digit_networks import (
    Params,
    draw_layers,
    max_pool,
    with_colors,
)

VGG11_CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (True, True, False, True, False, True, False, True)  # after each convolution of VGG11
STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # of each block of ResNet18


class AbstractImageNetwork(ABC):
    """A ReLU network of convolutions and the classifier `fc1`.

    Parameters are `{"conv1": {"weight", "bias"}, ..., "fc1": ...}`, weights `[out, in, 3, 3]` and
    `[classes, in]`. Without normalization and dropout the network is piecewise linear, and its
    outputs for one image do not depend on others.
    """

    @abstractmethod
    def init(self, key: RandomKey, image: tuple[int, ...]) -> Params:
        """Draw weights that keep the size of activations, for images of a shape."""

    def initial_statistics(self) -> Params:
        """Return nothing: no activation is normalized."""
        return {}

    def scores(
        self,
        params: Params,
        images: Float[Array, "examples *colors rows columns"],
        statistics: Params | None = None,
    ) -> tuple[Float[Array, "examples classes"], Params]:
        """Return the score of every class, and no statistics."""
        del statistics
        features = self._features(params, with_colors(images))
        return features @ params["fc1"]["weight"].T + params["fc1"]["bias"], {}

    def __call__(
        self, variables: Mapping[str, Any], image: Float[Array, "*colors rows columns"]
    ) -> Array:
        """Return the scores of one image: the model of an `EmpiricalRisk`."""
        return self.scores(dict(variables), image[None])[0][0]

    @abstractmethod
    def _features(
        self, params: Params, x: Float[Array, "examples colors rows columns"]
    ) -> Float[Array, "examples features"]:
        """Return the input of `fc1`."""


@dataclass(frozen=True)
class VGG11(AbstractImageNetwork):
    """Eight convolutions of 3 x 3, five of them followed by max-pooling by 2, and `fc1`.

    Images of 32 x 32 pixels are reduced to one pixel, so that `fc1` has one input for each channel.

    Reference:
        Simonyan, Zisserman (2015), network A; other channels: Wu (2022), Appendix C.5.2.

    Attributes:
        channels: of the eight convolutions.
        classes: number of outputs.

    Raises:
        ValueError: on construction, for other than eight numbers of channels from 1, and for a
            number of classes below 1.

    Example:
        >>> import jax
        >>> params = VGG11((4,) * 8).init(jax.random.key(0), (3, 32, 32))
        >>> params["conv8"]["weight"].shape, params["fc1"]["weight"].shape
        ((4, 4, 3, 3), (10, 4))
    """

    channels: tuple[int, ...] = VGG11_CHANNELS
    classes: int = 10

    def __post_init__(self):
        """Refuse networks without channels or outputs."""
        if len(self.channels) != len(POOLED) or min(self.channels) < 1:
            raise ValueError(f"channels is {self.channels}; allowed are eight integers from 1")
        _require_outputs(self.classes)

    def init(self, key: RandomKey, image: tuple[int, ...]) -> Params:
        """Draw weights of variance 2 / inputs (He et al., 2015).

        With those of Glorot, activations are 16 times smaller after eight ReLUs, and the loss does
        not fall in hundreds of steps.
        """
        smallest = 2 ** sum(POOLED)
        if min(image[-2:]) < smallest:
            raise ValueError(
                f"image is {image}; allowed are sizes from {smallest} x {smallest} pixels, which "
                "the pooling leaves one of"
            )
        shapes = _convolutions(self.channels, image)
        pixels = (image[-2] // smallest) * (image[-1] // smallest)
        shapes["fc1"] = (self.classes, pixels * self.channels[-1])
        return draw_layers(key, shapes, jax.nn.initializers.he_uniform(in_axis=1, out_axis=0))

    def _features(
        self, params: Params, x: Float[Array, "examples colors rows columns"]
    ) -> Float[Array, "examples features"]:
        for i, pooled in enumerate(POOLED):
            x = jax.nn.relu(_convolve(params[f"conv{i + 1}"], x))
            x = max_pool(x) if pooled else x
        return x.reshape(len(x), -1)


@dataclass(frozen=True)
class ResNet18(AbstractImageNetwork):
    """A convolution, eight blocks of two convolutions with a shortcut, a mean over pixels, `fc1`.

    All are of 3 x 3. Blocks 3, 5 and 7 halve the rows and columns; their shortcuts are convolutions
    of 1 x 1, `sc-conv1` to `sc-conv3`. The others are identities.

    Reference:
        He, Zhang, Ren, Sun (2016), as adapted to CIFAR; the widths and no batch normalization:
        Wu (2022), Appendix C.5.2.

    Attributes:
        width: channels of each convolution.
        classes: number of outputs.

    Raises:
        ValueError: on construction, for a width or a number of classes below 1.

    Example:
        >>> import jax
        >>> params = ResNet18(width=4).init(jax.random.key(0), (3, 8, 8))
        >>> sorted(params)[-3:]
        ['sc-conv1', 'sc-conv2', 'sc-conv3']
    """

    width: int
    classes: int = 10

    def __post_init__(self):
        """Refuse networks without channels or outputs."""
        if self.width < 1:
            raise ValueError(f"width is {self.width}; allowed are integers from 1")
        _require_outputs(self.classes)

    def init(self, key: RandomKey, image: tuple[int, ...]) -> Params:
        """Draw Glorot-uniform weights; those of He would double the mean square in each block."""
        shapes = _convolutions((self.width,) * (1 + 2 * len(STRIDES)), image)
        for i, stride in enumerate(STRIDES):
            if stride > 1:
                shapes[_shortcut(i)] = (self.width, self.width, 1, 1)
        shapes["fc1"] = (self.classes, self.width)
        return draw_layers(key, shapes)

    def _features(
        self, params: Params, x: Float[Array, "examples colors rows columns"]
    ) -> Float[Array, "examples features"]:
        x = jax.nn.relu(_convolve(params["conv1"], x))
        for i, stride in enumerate(STRIDES):
            y = jax.nn.relu(_convolve(params[f"conv{2 * i + 2}"], x, stride))
            y = _convolve(params[f"conv{2 * i + 3}"], y)
            x = jax.nn.relu(y + (_convolve(params[_shortcut(i)], x, stride) if stride > 1 else x))
        return jnp.mean(x, axis=(2, 3))


def _shortcut(block: int) -> str:
    return f"sc-conv{block // 2}"  # every second block, from the third on, has one


def _require_outputs(classes: int) -> None:
    if classes < 1:
        raise ValueError(f"classes is {classes}; allowed are integers from 1")


def _convolutions(channels: tuple[int, ...], image: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of conv1, conv2, ..."""
    *colors, _, _ = image
    (first,) = colors or (1,)
    pairs = pairwise((first, *channels))
    return {f"conv{i + 1}": (after, before, 3, 3) for i, (before, after) in enumerate(pairs)}


def _convolve(layer: dict[str, Array], x: Array, stride: int = 1) -> Array:
    """Return a convolution with zeros around the image; at stride 1 the size stays the same."""
    weight = layer["weight"]
    margin = weight.shape[-1] // 2
    x = jax.lax.conv_general_dilated(x, weight, (stride, stride), [(margin, margin)] * 2)
    return x + layer["bias"][:, None, None]
