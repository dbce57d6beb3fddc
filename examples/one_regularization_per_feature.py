"""One regularization for all features, for each group, or for each feature?

A grid search can tune one regularization; by hypergradients fifty are no harder. Whether they help
is another question: more hyperparameters fit the held-out examples more closely. Here all of them
are tuned by five-fold cross-validation and judged on examples that neither training nor tuning has
seen. Where 40 columns of noise were appended to the measurements of the diabetes data, one
regularization for the measurements and one for the other columns help a lot. One for each feature
needs more than 200 examples to help there, and harms on the breast cancer data, where even three
groups (the mean, the error and the worst of each measurement) do.

Run it as `python examples/one_regularization_per_feature.py [FOLDER]`; it writes the figure
`one-regularization-per-feature` to the folder, by default the current one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import train_test_split

from metastep.sklearn import HypergradientLogisticRegression, HypergradientRidge
from metastep_lab.figures.style import Lines, line_figure, save

SPLITS = 10


def measure(
    estimator: Any,
    data: tuple[np.ndarray, np.ndarray],
    groups: Sequence[Any] | None,
    size: int,
    loss: Callable[[Any, np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Return the loss on held-out and on new examples, shape (splits, 2)."""
    found = []
    for seed in range(SPLITS):
        X, X_new, y, y_new = train_test_split(*data, train_size=size, random_state=seed)
        model = estimator(groups=groups, random_state=seed).fit(X, y)
        found.append((model.validation_loss_curve_[-1], loss(model, X_new, y_new)))
    return np.array(found)


def panel(
    title: str,
    estimator: Any,
    data: tuple[np.ndarray, np.ndarray],
    groupings: Mapping[str, Sequence[Any] | None],
    sizes: Sequence[int],
    loss: tuple[str, Callable[[Any, np.ndarray, np.ndarray], float]],
) -> Lines:
    """Compare the groupings over numbers of training examples."""
    new, bands, held_out = {}, {}, {}
    for name, groups in groupings.items():
        found = np.array([measure(estimator, data, groups, size, loss[1]) for size in sizes])
        means, errors = found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(SPLITS)
        new[name], held_out[name] = (sizes, means[:, 1]), (sizes, means[:, 0])
        bands[name] = means[:, 1] - errors[:, 1], means[:, 1] + errors[:, 1]
        print(f"{title}, {name}: on new examples", *np.round(means[:, 1], 3))
    return Lines(
        new,
        "training examples",
        loss[0],
        title,
        legend_title="one regularization for",
        bands=bands,
        dashed=held_out,
        dashed_label="held out",
    )


def main(folder: Path) -> None:
    """Compare groupings on both data sets, and draw what was found."""
    diabetes, cancer = load_diabetes(), load_breast_cancer()
    noise = np.random.default_rng(0).standard_normal((len(diabetes.target), 40))
    figure = line_figure(
        panel(
            "Diabetes and 40 columns of noise",
            HypergradientRidge,
            (np.hstack([diabetes.data, noise]), diabetes.target),
            {"all": [0] * 50, "each group": [0] * 10 + [1] * 40, "each feature": None},
            (100, 200, 300),
            (
                "mean squared error",
                lambda model, X, y: mean_squared_error(y, model.predict(X)),
            ),
        ),
        panel(
            "Breast cancer",
            HypergradientLogisticRegression,
            (cancer.data, cancer.target),
            {"all": [0] * 30, "each group": [0] * 10 + [1] * 10 + [2] * 10, "each feature": None},
            (100, 200, 400),
            ("cross-entropy (nats)", lambda model, X, y: log_loss(y, model.predict_proba(X))),
        ),
        shared_legend=True,
    )
    save(figure, folder / "one-regularization-per-feature")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
