"""The configuration of `hessian-structure`, and its presets by figure of the thesis."""

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge

from metastep_lab.configuration import ONCE, Count, NotNegative, Positive, configuration
from metastep_lab.wu2022.networks.images import BATCH, Dataset, Scaling
from metastep_lab.wu2022.networks.names import network_of
from metastep_lab.wu2022.networks.training import Momentum

LEAST = 20  # eigenpairs of a Hessian: those of twice the classes


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn), mnist, cifar10 or cifar100.
        model: networks; F-200^2 has two hidden layers of 200 units, F-200-100 a narrower second
            one, BN batch normalization; LeNet5-(fc1-80) has 80 units in its first fully connected
            layer; VGG11-W32 has 32 channels in each convolution, and so on with ResNet18.
        labels: of the images, or drawn at random.
        scaling: of the images, to mean 0 and variance 1 of each color over all pixels, or from 0
            to 1.
        examples: for training and for the Hessians.
        epochs: of stochastic gradient descent in batches of 128.
        step_size: of the descent.
        momentum: of the descent.
        weight_decay: added to the gradient, times the parameters.
        models: networks of each kind, trained independently.
        top: eigenpairs of each Hessian.
    """

    dataset: Dataset = "mnist"
    model: Annotated[tuple[str, ...], *ONCE] = ("F-200^2", "F-200^2-BN", "LeNet5", "F-11^2")
    labels: Annotated[tuple[Literal["true", "random"], ...], *ONCE] = ("true", "random")
    scaling: Scaling = "normalized"
    examples: Annotated[int, Ge(BATCH)] = 10_000
    epochs: Count = 60
    step_size: Positive = 0.05
    momentum: Momentum = 0.0
    weight_decay: NotNegative = 0.0
    models: Count = 3
    top: Annotated[int, Ge(LEAST)] = 50

    def __post_init__(self):
        """Refuse unknown networks."""
        for name in self.model:
            network_of(name)


_PAPER = replace(
    Config(),
    model=("F-200^2",),
    labels=("true",),
    examples=60_000,
    epochs=1000,
    step_size=0.01,
    models=5,
)
_CIFAR10 = replace(_PAPER, dataset="cifar10", examples=50_000)
PRESETS = {
    "quick": replace(
        Config(),
        dataset="digits",
        model=("F-200^2", "F-200^2-BN", "F-11^2"),
        examples=1797,
        models=2,
        top=20,
    ),
    "reduced": Config(),
    "paper": _PAPER,
    "fig-4.3": replace(_PAPER, labels=("true", "random"), model=("F-200^2", "F-20^2"), models=1),
    "fig-c1": replace(_PAPER, model=("F-200^2", "F-200^4", "F-600^4", "F-600^8"), models=1),
    # Figures C.8 and C.17 have 120 and 200 eigenvectors.
    "fig-c7": replace(_CIFAR10, model=("LeNet5",), models=1, top=200),
    "fig-c12": replace(_CIFAR10, model=("VGG11",), models=1),
    "table-c5-mnist": replace(_PAPER, model=("F-200^2", "F-600^2", "F-600^4", "F-600^8")),
    "table-c5-cifar10": replace(_CIFAR10, model=("F-600^2", "F-1500^3", "VGG11-W32", "VGG11-W64")),
    "table-c5-lenet": replace(
        _CIFAR10,
        model=("LeNet5", "LeNet5-(fc1-80)", "LeNet5-(fc1-100)", "LeNet5-(fc1-150)"),
    ),
    "table-c5-cifar100": replace(
        _CIFAR10,
        dataset="cifar100",
        model=(
            "VGG11-W48",
            "VGG11-W64",
            "VGG11-W80",
            "ResNet18-W48",
            "ResNet18-W64",
            "ResNet18-W80",
        ),
    ),
    "table-c7-mnist": replace(_PAPER, model=("F-200^2-BN", "F-600^2-BN", "F-600^4-BN"), models=3),
    "table-c7-cifar10": replace(_CIFAR10, model=("LeNet5", "LeNet5-BN"), models=3),
}
"""The thesis's figures and tables by name: paper is 4.2, fig-c7 is C.7 to C.11 and C.17."""
