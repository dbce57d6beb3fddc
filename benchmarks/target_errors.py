"""When are checked targets worth having? `HypercleanedRegressor` with and without them.

    python benchmarks/target_errors.py [--seeds 5]

Targets of scikit-learn's diabetes data are spoilt in four ways: gross errors of either sign, the
same error for random examples, targets exchanged among examples, and the same error for the
examples of the largest body mass index. 140 examples are kept back; the second model has them as
its validation set. The table has the average precision of the scores and the mean squared error on
the true targets of the training examples, means over seeds with the standard errors of the
differences.
"""

import argparse
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.metrics import average_precision_score

from metastep.sklearn import HypercleanedRegressor

CHECKED, RATES, SHIFT, MASS = 140, (0.1, 0.25, 0.4), 150.0, 2
Spoilt = tuple[np.ndarray, np.ndarray]  # the targets, and which of them are wrong
Spoil = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], Spoilt]


def gross(inputs: np.ndarray, targets: np.ndarray, rate: float, rng: np.random.Generator) -> Spoilt:
    """Add errors of 200 to 400, which is about the range of the targets, of either sign."""
    wrong, count = rng.random(len(inputs)) < rate, len(inputs)
    return targets + wrong * rng.choice([-1, 1], count) * rng.uniform(200, 400, count), wrong


def shifted(
    inputs: np.ndarray, targets: np.ndarray, rate: float, rng: np.random.Generator
) -> Spoilt:
    """Add the same number to random targets."""
    wrong = rng.random(len(inputs)) < rate
    return targets + wrong * SHIFT, wrong


def exchanged(
    inputs: np.ndarray, targets: np.ndarray, rate: float, rng: np.random.Generator
) -> Spoilt:
    """Exchange targets among random examples."""
    wrong, given = rng.random(len(inputs)) < rate, targets.copy()
    given[wrong] = rng.permutation(given[wrong])
    return given, wrong


def of_a_group(
    inputs: np.ndarray, targets: np.ndarray, rate: float, rng: np.random.Generator
) -> Spoilt:
    """Add the same number to the examples of the largest body mass index."""
    del rng
    wrong = inputs[:, MASS] > np.quantile(inputs[:, MASS], 1 - rate)
    return targets + wrong * SHIFT, wrong


KINDS: tuple[Spoil, ...] = (gross, shifted, exchanged, of_a_group)


def measure(spoil: Spoil, rate: float, seed: int) -> np.ndarray:
    """Return precision and error, (2, 2): without checked targets, and with them."""
    inputs, targets = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    checked, train = order[:CHECKED], order[CHECKED:]
    given, wrong = spoil(inputs[train], targets[train], rate, rng)
    judges = (inputs[checked], targets[checked])
    models = [
        HypercleanedRegressor(random_state=0).fit(inputs[train], given, *more)
        for more in ((), judges)
    ]
    precision = [average_precision_score(wrong, model.label_scores_) for model in models]
    error = [np.mean((model.predict(inputs[train]) - targets[train]) ** 2) for model in models]
    return np.array([precision, error])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="When are checked targets worth having?")
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(f"{'':16}AP without, with (gain)         error without, with (gain)")
    for spoil in KINDS:
        for rate in RATES:
            found = np.array([measure(spoil, rate, seed) for seed in range(seeds)])
            gains = found[:, :, 1] - found[:, :, 0]
            error = gains.std(axis=0, ddof=1) / seeds**0.5
            (alone, checked), (rough, fine) = found.mean(axis=0)
            gain, change = gains.mean(axis=0)
            print(
                f"{spoil.__name__:11}{rate:5.0%}{alone:7.3f}{checked:7.3f}{gain:+7.3f} ± "
                f"{error[0]:.3f}{rough:12.0f}{fine:7.0f}{change:+7.0f} ± {error[1]:.0f}"
            )


if __name__ == "__main__":
    main()
