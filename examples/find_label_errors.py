"""Find wrong labels among handwritten digits.

A fifth of 1,000 training labels is replaced at random. 300 digits with labels that somebody has
checked are enough for `HypercleanedClassifier` to rank the training examples by how little their
label can be trusted. Run it as `python examples/find_label_errors.py [FOLDER]`; it writes the
figure `find-label-errors` to the folder, by default the current one.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from metastep.sklearn import HypercleanedClassifier
from metastep_lab.data import corrupt_labels
from metastep_lab.figures.style import Figure, new_figure, save

SHOWN = 40


def main(folder: Path) -> None:
    """Corrupt, clean, compare, and draw the most suspicious digits."""
    X, y = load_digits(return_X_y=True)
    X_train, X_rest, y_true, y_rest = train_test_split(
        X, y, train_size=1000, stratify=y, random_state=0
    )
    X_valid, X_test, y_valid, y_test = train_test_split(
        X_rest, y_rest, train_size=300, stratify=y_rest, random_state=0
    )
    y_given, _ = corrupt_labels(y_true, 10, 0.2, np.random.default_rng(0))

    model = HypercleanedClassifier().fit(X_train, y_given, X_valid, y_valid)
    wrong, suspects = y_given != y_true, model.suspects_
    print(f"{wrong.sum()} of {len(wrong)} labels are wrong; {len(suspects)} are suspected")
    print(f"suspects that are wrong: {np.mean(wrong[suspects]):.0%}")
    print(f"wrong labels that are suspected: {np.sum(wrong[suspects]) / wrong.sum():.0%}")

    noisy = LogisticRegression(max_iter=1000).fit(X_train / 16, y_given)
    print(f"test accuracy, all labels trusted alike: {noisy.score(X_test / 16, y_test):.3f}")
    print(f"test accuracy, hypercleaned:             {model.score(X_test, y_test):.3f}")
    save(draw(X_train, y_given, y_true, suspects[:SHOWN]), folder / "find-label-errors")


def draw(X: np.ndarray, given: np.ndarray, true: np.ndarray, shown: np.ndarray) -> Figure:
    """Draw digits with their given and their true label."""
    figure, axes = new_figure(columns=10, rows=4, width=9, height=4.6)
    for panel in axes:
        panel.set_axis_off()
    for panel, row in zip(axes, shown, strict=False):
        panel.imshow(X[row].reshape(8, 8), cmap="gray_r")
        verdict = "correct" if given[row] == true[row] else f"{given[row]} → {true[row]}"
        panel.set_title(verdict, fontsize=9)
    figure.suptitle("The training examples trusted least: given label → true label", fontsize=11)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
