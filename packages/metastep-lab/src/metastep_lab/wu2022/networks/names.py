"""The names that the thesis gives its networks."""

import re
from itertools import chain

import numpy as np

from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.image_networks import (
    VGG11,
    VGG11_CHANNELS,
    ResNet18,
)

MOST = 6  # layers in a figure
NARROWEST = 4  # E[M] of a layer needs some eigenvalues to compare
DEEPEST = 64
SIZE = r"[1-9]\d{0,4}"
CONNECTED = re.compile(rf"F((?:-{SIZE}(?:\^[1-9]\d?)?)+)(-BN)?")
LENET5 = re.compile(rf"LeNet5(?:-\(fc1-({SIZE})\))?(-BN)?")
IMAGES = re.compile(rf"(VGG11|ResNet18)-W({SIZE})")
GRAMMAR = (
    "F-WIDTH^DEPTH with any number of such parts (F-200^2, F-1500^3, F-200^2-100), LeNet5 or "
    "LeNet5-(fc1-WIDTH), either with -BN at the end, VGG11, VGG11-WWIDTH and ResNet18-WWIDTH "
    f"(VGG11-W32); widths from {NARROWEST}, at most {DEEPEST} hidden layers"
)

Network = DigitNetwork | VGG11 | ResNet18


def network_of(name: str, classes: int = 10) -> Network:
    """Return the network of a name, as in Appendix C.5.2 of the thesis.

    `F-200^2` is fully connected with two hidden layers of 200 units, `F-200^2-100` has a third one
    of 100. `LeNet5-(fc1-80)` has 80 units in its first fully connected layer. `-BN` stands for
    batch normalization. `VGG11` has its usual channels, 64 to 512; `VGG11-W32` has 32 in every
    convolution.

    Raises:
        ValueError: for any other name; it gives the grammar.

    Example:
        >>> network_of("F-200^2-100-BN")
        DigitNetwork(channels=(), hidden=(200, 200, 100), batch_norm=True, classes=10)
    """
    network = _parsed(name, classes)
    if network is None or min(_widths(network)) < NARROWEST:
        raise ValueError(f"model is {name!r}; allowed are {GRAMMAR}")
    return network


def _parsed(name: str, classes: int) -> Network | None:
    if found := CONNECTED.fullmatch(name):
        parts = [part.partition("^") for part in found[1].removeprefix("-").split("-")]
        hidden = tuple(
            chain.from_iterable([int(width)] * int(depth or 1) for width, _, depth in parts)
        )
        if len(hidden) > DEEPEST:
            return None
        return DigitNetwork(hidden=hidden, batch_norm=bool(found[2]), classes=classes)
    if found := LENET5.fullmatch(name):
        hidden = int(found[1] or 120), 84
        return DigitNetwork((6, 16), hidden, bool(found[2]), classes)
    if found := IMAGES.fullmatch(name):
        width = int(found[2])
        if found[1] == "ResNet18":
            return ResNet18(width, classes)
        return VGG11((width,) * len(VGG11_CHANNELS), classes)
    return VGG11(VGG11_CHANNELS, classes) if name == "VGG11" else None


def _widths(network: Network) -> tuple[int, ...]:
    if isinstance(network, DigitNetwork):
        return network.hidden
    return (network.width,) if isinstance(network, ResNet18) else network.channels


def narrowest(network: Network) -> int:
    """Return the units of the narrowest hidden layer after the convolutions, or channels."""
    return min(_widths(network))


def drawn(layers: list[str]) -> list[str]:
    """Return the layers that figures show: all but those on shortcuts, at most six of them."""
    names = [name for name in layers if not name.startswith("sc-")]
    places = np.linspace(0, len(names) - 1, min(MOST, len(names)))
    return [names[round(place)] for place in places]
