"""Who finds wrong labels without a clean example: ours or cleanlab.

    python benchmarks/label_noise.py [--data DIR] [--sets digits,wine,...] [--seeds 5] [--out FILE]
    python benchmarks/label_noise.py --sets digits --noises uniform --rates 0.2

Labels of whole data sets are corrupted, uniformly or from each class to the next. Every method gets
the features and these labels. cleanlab is used as its documentation recommends: the probabilities
of a logistic regression on standardized features, cross-validated in five folds, with its default
rule for flags and its default scores; and once more with the penalty that cross-validation chooses.
`metastep clean` gets a CSV file, and its suspects.csv and weights.csv are judged. The table has F1
of the flags and the average precision of the scores; the last rows count where ours or the command
is below cleanlab. Finished rows of FILE are not computed again.
"""

import argparse
import csv
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from metastep.sklearn import HypercleanedClassifier
from metastep_lab.cli import invoke
from metastep_lab.data import mnist

RATES = (0.1, 0.25, 0.4)
NOISES = ("uniform", "class-dependent")
CLEAN_SHARE = 0.1
OURS = ("ours", "metastep clean")
Verdict = tuple[np.ndarray, np.ndarray]  # flags, and scores that are larger for worse labels
Method = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Verdict]
FIELDS: tuple[str, ...] = (
    "set",
    "noise",
    "rate",
    "seed",
    "method",
    "f1",
    "average_precision",
    "seconds",
)


def corrupt(labels: np.ndarray, noise: str, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Replace labels by another class: any, or the next one.

    With two classes only those of the first class are mistaken: both would be uniform noise.
    """
    classes = int(labels.max()) + 1
    chosen = rng.random(len(labels)) < rate
    if noise == "uniform":
        return (labels + chosen * rng.integers(1, classes, len(labels))) % classes
    chosen &= (labels == 0) | (classes > 2)
    return (labels + chosen) % classes


def ours(features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int) -> Verdict:
    """Use the estimator as it is."""
    del true
    return _verdict(HypercleanedClassifier(random_state=seed).fit(features, given))


def command(features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int) -> Verdict:
    """Use the command line; its folds do not depend on the seed."""
    del true, seed
    table = pd.DataFrame(features, columns=[f"x{index}" for index in range(features.shape[1])])
    with TemporaryDirectory() as name, redirect_stdout(StringIO()):
        folder = Path(name)
        table.assign(label=given).to_csv(folder / "data.csv", index=False)
        status = invoke(
            ["clean", str(folder / "data.csv"), "--label", "label", "--out", str(folder / "out")],
            (),
        )
        if status:
            raise SystemExit(f"metastep clean ended with status {status}")
        suspects, weights = (
            pd.read_csv(folder / "out" / f"{one}.csv") for one in ("suspects", "weights")
        )
    return weights["row"].isin(suspects["row"]).to_numpy(), weights["score"].to_numpy()


def ours_with_clean(
    features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int
) -> Verdict:
    """Give it a tenth of the examples with their true labels; these count as found."""
    return _clean_part(
        features, given, true, seed, lambda *four: HypercleanedClassifier().fit(*four)
    )


def _clean_part(
    features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int, fit: Callable
) -> Verdict:
    """Judge the others by a validation set; report nothing about its own examples."""
    order = np.random.default_rng(seed).permutation(len(true))
    count = max(int(CLEAN_SHARE * len(true)), 2 * (int(true.max()) + 1))
    valid, train = np.sort(order[:count]), np.sort(order[count:])
    flags, scores = _verdict(fit(features[train], given[train], features[valid], true[valid]))
    all_flags, all_scores = np.zeros(len(true), bool), np.full(len(true), np.nan)
    all_flags[train], all_scores[train] = flags, scores
    return all_flags, all_scores


def _verdict(model: HypercleanedClassifier) -> Verdict:
    flags = np.zeros(len(model.label_scores_), bool)
    flags[model.suspects_] = True
    return flags, model.label_scores_


def cleanlab(features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int) -> Verdict:
    """Use cleanlab with a logistic regression of scikit-learn."""
    del true
    return _cleanlab(LogisticRegression(max_iter=1000), features, given, seed)


def cleanlab_tuned(features: np.ndarray, given: np.ndarray, true: np.ndarray, seed: int) -> Verdict:
    """Use cleanlab with the penalty that three-fold cross-validation chooses."""
    del true
    grid = {"logisticregression__C": np.logspace(-4, 1, 6)}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    search = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(features, given)
    strength = search.best_params_["logisticregression__C"]
    return _cleanlab(LogisticRegression(C=strength, max_iter=1000), features, given, seed)


def _cleanlab(
    regression: LogisticRegression, features: np.ndarray, given: np.ndarray, seed: int
) -> Verdict:
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), regression)
    found: Any = cross_val_predict(model, features, given, cv=folds, method="predict_proba")
    return find_label_issues(given, found, n_jobs=1), 1 - get_label_quality_scores(given, found)


METHODS: dict[str, Method] = {
    "ours": ours,
    "metastep clean": command,
    "cleanlab": cleanlab,
    "cleanlab, tuned penalty": cleanlab_tuned,
    "ours, tenth clean": ours_with_clean,
}


def load(name: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels from 0."""
    if name == "mnist":
        arrays = mnist(folder).arrays
        pixels = arrays["images"].reshape(-1, 784) / np.float32(255)
        return pixels, arrays["labels"].astype(int)
    loaders = {"digits": load_digits, "wine": load_wine, "cancer": load_breast_cancer}
    return loaders[name](return_X_y=True)


def measure(options: argparse.Namespace) -> list[dict[str, str]]:
    """Fill the table, row by row."""
    rows: list[dict[str, str]] = []
    if options.out.exists():
        with open(options.out, newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[name] for name in FIELDS[:5]) for row in rows}
    with open(options.out, "a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not rows:
            writer.writeheader()
        cells = [
            (name, seed, noise, rate)
            for name in options.sets
            for seed in range(options.seeds)
            for noise in options.noises
            for rate in options.rates
        ]
        for name, seed, noise, rate in cells:
            features, true = load(name, options.data)
            given = corrupt(true, noise, rate, np.random.default_rng((seed, int(100 * rate))))
            for method in options.methods:
                if (name, noise, str(rate), str(seed), method) in done:
                    continue
                begin = perf_counter()
                with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of folds with rare classes, convergence
                    flags, scores = METHODS[method](features, given, true, seed)
                seconds = perf_counter() - begin
                seen, wrong = np.isfinite(scores), given != true
                hits = 2 * np.sum(wrong[seen] & flags[seen])
                f1 = hits / (wrong[seen].sum() + flags[seen].sum())
                precision = average_precision_score(wrong[seen], scores[seen])
                numbers = (f"{f1:.4f}", f"{precision:.4f}", f"{seconds:.2f}")
                texts = (name, noise, str(rate), str(seed), method, *numbers)
                rows.append(dict(zip(FIELDS, texts, strict=True)))
                writer.writerow(rows[-1])
                file.flush()
    return rows


def show(rows: list[dict[str, str]]) -> None:
    """Print means and standard errors, and the difference to cleanlab paired by seed."""
    losses = []
    print(f"{'':42}{'F1':>14}{'lead':>16}{'AP':>15}{'lead':>16}")
    for key in dict.fromkeys((row["set"], row["noise"], row["rate"]) for row in rows):
        cell = [row for row in rows if (row["set"], row["noise"], row["rate"]) == key]
        found = {
            method: {row["seed"]: row for row in cell if row["method"] == method}
            for method in dict.fromkeys(row["method"] for row in cell)
        }
        for method, by_seed in found.items():
            line = f"{key[0]:8}{key[1]:16}{key[2]:5}{method:24}"
            for name in ("f1", "average_precision"):
                values = np.array([float(row[name]) for row in by_seed.values()])
                line += f"{values.mean():7.3f} ±{_error(values):.3f}"
                common = [seed for seed in by_seed if seed in found.get("cleanlab", {})]
                gaps = np.array(
                    [float(by_seed[s][name]) - float(found["cleanlab"][s][name]) for s in common]
                )
                if len(gaps) and method != "cleanlab":
                    line += f" {gaps.mean():+8.3f} ±{_error(gaps):.3f}"
                    if method in OURS and gaps.mean() < 0:
                        losses.append(
                            (*key, method, name, f"{gaps.mean():+.4f} ± {_error(gaps):.4f}")
                        )
                else:
                    line += " " * 16
            print(line)
    print(
        "\nWhere ours or the command is below cleanlab on average:", "nowhere" if not losses else ""
    )
    for loss in losses:
        print("  ", *loss)


def _error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Who finds wrong labels without a clean example.")
    listed = lambda text: text.split(",")
    parser.add_argument("--sets", type=listed, default=["wine", "cancer", "digits", "mnist"])
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=list(METHODS))
    parser.add_argument("--noises", type=listed, default=list(NOISES))
    numbers = lambda text: [float(one) for one in text.split(",")]
    parser.add_argument("--rates", type=numbers, default=list(RATES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=None, help="the folder of MNIST")
    parser.add_argument("--out", type=Path, default=Path("label_noise.csv"))
    show(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
