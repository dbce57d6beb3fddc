"""The configuration of `hessian-overlap`, and its presets by figure of the thesis."""

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, MinLen

from metastep_lab.configuration import ONCE, Count, NotNegative, Positive, configuration
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.image_networks import VGG11
from metastep_lab.wu2022.networks.images import BATCH, Dataset, Labels, Scaling
from metastep_lab.wu2022.networks.names import Network, network_of
from metastep_lab.wu2022.networks.training import Descent, Momentum

SOME = (MinLen(1), "at least one")


@configuration
class Config:
    """The configuration.

    The i-th entries of models, step_size, momentum and weight_decay belong together.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn), mnist, cifar10 or cifar100.
        model: networks; F-200^2 has two hidden layers of 200 units, F-100-8 a narrow second one,
            BN batch normalization; LeNet5-(fc1-80) has 80 units in its first fully connected layer;
            VGG11-W32 has 32 channels in each convolution, and so on with ResNet18.
        labels: of the images; random; or halves: 0 for the first half of the classes, else 1.
        scaling: of the images, to mean 0 and variance 1 of each color over all pixels, or from 0
            to 1.
        examples: for training and for the Hessians.
        epochs: of stochastic gradient descent in batches of 128.
        models: networks of each kind, trained independently.
        step_size: of the descent.
        momentum: of the descent.
        weight_decay: added to the gradient, times the parameters.
        rows: of the matrix from which the eigenvectors of a Hessian are computed: at least twice
            the outputs of every layer; 9 for each example are exact with 10 classes.
    """

    dataset: Dataset = "mnist"
    model: Annotated[tuple[str, ...], *ONCE] = ("F-200^2", "F-600^2", "F-600^4", "LeNet5")
    labels: Labels = "true"
    scaling: Scaling = "normalized"
    examples: Annotated[int, Ge(BATCH)] = 60_000
    epochs: Count = 1000
    models: Annotated[tuple[Count, ...], *SOME] = (5,)
    step_size: Annotated[tuple[Positive, ...], *SOME] = (0.01,)
    momentum: Annotated[tuple[Momentum, ...], *SOME] = (0.0,)
    weight_decay: Annotated[tuple[NotNegative, ...], *SOME] = (0.0,)
    rows: Annotated[int, Ge(20)] = 8000

    def __post_init__(self):
        """Refuse unknown networks, lists of several lengths, one network, and too few rows."""
        most = max(largest(network_of(name)) for name in self.model)
        if self.rows < 2 * most:
            raise ValueError(
                f"rows is {self.rows}; allowed are integers from {2 * most}, twice the outputs of "
                "the largest layer"
            )
        for name in ("step_size", "momentum", "weight_decay"):
            if len(getattr(self, name)) != len(self.models):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; allowed are as many entries as models has, "
                    f"{len(self.models)}"
                )
        if sum(self.models) < 2:
            raise ValueError(f"models is {self.models}; allowed are two networks or more")

    def descents(self) -> list[Descent]:
        """Return how each network of a kind is trained, in the order of the networks."""
        rates = zip(self.models, self.step_size, self.momentum, self.weight_decay, strict=True)
        return [Descent(*rest) for count, *rest in rates for _ in range(count)]


def largest(network: Network) -> int:
    """Return the outputs of the largest layer."""
    if isinstance(network, DigitNetwork):
        return max(*network.channels, *network.hidden, network.classes)
    hidden = max(network.channels) if isinstance(network, VGG11) else network.width
    return max(hidden, network.classes)


_CIFAR10 = replace(Config(), dataset="cifar10", model=("LeNet5",), examples=50_000)
PRESETS = {
    "quick": replace(
        Config(),
        dataset="digits",
        model=("F-30^2", "F-100-8"),
        examples=1797,
        epochs=60,
        models=(3,),
        step_size=(0.05,),
        rows=1500,
    ),
    "reduced": replace(
        Config(),
        model=("F-200^2", "LeNet5", "F-600^2", "F-600^4"),
        examples=5000,
        epochs=40,
        models=(4,),
        step_size=(0.05,),
        rows=4000,
    ),
    "paper": Config(),
    "fig-c2": replace(
        _CIFAR10,
        models=(6, 5, 5),
        step_size=(0.01, 0.001, 0.01),
        momentum=(0.0, 0.0, 0.9),
        weight_decay=(0.0, 0.0, 0.0005),
    ),
    "fig-c3-cifar10": replace(_CIFAR10, model=("VGG11-W32", "VGG11-W200")),
    "fig-c3-cifar100": replace(_CIFAR10, dataset="cifar100", model=("VGG11-W48", "VGG11-W80")),
    "fig-c4": replace(
        _CIFAR10, dataset="cifar100", model=("ResNet18-W48", "ResNet18-W64", "ResNet18-W80")
    ),
    "fig-c23": replace(_CIFAR10, model=("LeNet5", "LeNet5-BN"), models=(3,)),
}
"""The thesis's figures by name: paper are those of 4.4, C.5 and C.18 that are on MNIST.

LeNet5 is among its networks, too; the thesis has it on CIFAR-10 (4.1a, C.2, C.18), as `fig-c2`.
"""
