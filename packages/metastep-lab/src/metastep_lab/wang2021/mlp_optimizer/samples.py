"""The numbers of samples of `mlp-optimizer`, and how train-by-train and others use them."""

from typing import Any, NamedTuple

from metastep.learned.segment import Objective
from metastep_lab.wang2021.mlp_optimizer.digit_classification import (
    training_objective,
    validation_objective,
)

TRAIN_BY_TRAIN, TRAIN_BY_TRAIN_2N = "train-by-train", "train-by-train-2n"
TRAIN_BY_VALIDATION = "train-by-validation"


class Arm(NamedTuple):
    """How the samples of one mode are used: training and validation examples, and the objective."""

    train: int
    validation: int
    objective: Objective


class Size(NamedTuple):
    """A number of samples: how each mode uses them, and the steps of a test.

    Attributes:
        samples: on which networks are trained in tests.
        arms: of the modes.
        test_steps: the steps of a test.
    """

    samples: int
    arms: dict[str, Arm]
    test_steps: int


def few(samples: int) -> dict[str, Arm]:
    """Return the use of n samples, n to validate beside them, and 2 n."""
    return {
        TRAIN_BY_TRAIN: Arm(samples, 0, training_objective),
        TRAIN_BY_TRAIN_2N: Arm(2 * samples, 0, training_objective),
        TRAIN_BY_VALIDATION: Arm(samples, samples, validation_objective),
    }


def many(total: int) -> dict[str, Arm]:
    """Return the use of a number of samples a sixth of which is for validation."""
    # 50,000 + 10,000 of MNIST, as "TbV50000+10000" of the figures.
    training = total * 5 // 6
    return {
        TRAIN_BY_TRAIN: Arm(total, 0, training_objective),
        TRAIN_BY_VALIDATION: Arm(training, total - training, validation_objective),
    }


def sizes(config: Any, available: int) -> list[Size]:
    """Return the numbers of samples of a configuration.

    Raises:
        ValueError: if one needs more samples than are available for training.
    """
    found = [
        ("totals", Size(total, many(total), config.long_test_steps)) for total in config.totals
    ]
    if config.samples is not None:
        found.insert(0, ("samples", Size(config.samples, few(config.samples), config.test_steps)))
    for field, size in found:
        for mode in config.modes:
            arm = size.arms.get(mode)
            if arm is not None and arm.train + arm.validation > available:
                needed = arm.train + arm.validation
                raise ValueError(
                    f"{field} has {size.samples}, of which {mode} needs {needed}; allowed are at "
                    f"most the {available} that {config.dataset} has for training"
                )
    return [size for _, size in found]
