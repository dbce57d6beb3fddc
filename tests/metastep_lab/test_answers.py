"""What every experiment answers to its question: the words follow from the numbers."""

from types import SimpleNamespace

import numpy as np
import pytest

from metastep_lab.catalog import CATALOG
from metastep_lab.experiment import load
from metastep_lab.tables import Record, columns

BY_NAME = {one.name: load(one) for one in CATALOG}


def record(config, arrays=None, **tables):
    return Record(SimpleNamespace(**config), tables, {}, arrays or {})


def step_size_quadratic(status, method="log-domain"):
    rows = [(method, 10, status, 0, 0), ("reverse-float32", 40, "stuck", 100, 0)]
    names = "method horizon status failed_steps zero_steps"
    return record({}, convergence=columns(names, rows))


def least_squares(train, dim=200):
    config = {"dim": dim, "samples": (100,), "noise": (1.0,)}
    rows = [
        (1.0, 100, "train-by-train", "training", 0.1),
        (1.0, 100, "train-by-train", "test", train),
        (1.0, 100, "train-by-validation", "test", 1.2),
    ]
    return record(config, rmse=columns("noise samples mode split mean", rows))


def least_squares_sgd(near, far):
    names = "mode range dim samples error standard_error median_error step_size_times_dim "
    rows = [
        ("train-by-train", "wide", 12, 6, far, 0.1, far, 1.0, 1.0),
        ("train-by-validation", "stated", 12, 3, near, 0.01, near, 1.0, 0.1),
    ]
    return record({}, optimum=columns(f"{names}step_size_times_horizon", rows))


def mlp_optimizer(better, seeds=(0, 1, 2)):
    rows = [
        (0.2, 200, mode, split, "best", 400, seed, accuracy + 0.01 * seed)
        for mode, accuracy in (("train-by-validation", 0.8), ("train-by-train", 0.8 - better))
        for split in ("train", "test clean")
        for seed in seeds
    ]
    # The same differences in every repetition would have no error.
    rows[-1] = (*rows[-1][:-1], rows[-1][-1] + 0.001)
    names = "noise samples mode split checkpoint step meta_seed accuracy"
    return record({"noise": (0.2,), "samples": 200}, accuracy=columns(names, rows))


def maml_linear(best, error=0.1):
    setting = {"setting": "6a", "figure": 6, "panel": "a", "both_rates": False}
    one = SimpleNamespace(**setting, dim=50, equations=2)
    rows = [
        (6, "a", "best_train_rate", best, best, error),
        (6, "a", "gain", -0.1, -0.1, 0.01),
        (6, "a", "loss_at_zero", 1.0, 1.0, 0.1),
    ]
    names = "figure panel quantity theory simulated standard_error"
    loss = columns("figure panel theory simulated standard_error", [(6, "a", 1.0, 1.0, 0.1)])
    return record({"settings": lambda: [one]}, optimum=columns(names, rows), loss=loss)


def maml_wishart(best, error=0.1):
    rows = [
        (quantity, value, value, noise)
        for quantity, value, noise in (("best_train_rate", best, error), ("gain", -0.1, 0.01))
        for _ in range(2)
    ]
    loss = columns("panel train_rate simulated", [("b", 0.0, 1.0)])
    optimum = columns("quantity theory simulated standard_error", rows)
    return record({}, optimum=optimum, loss=loss)


def maml_nonlinear(difference, runs=50):
    config = {"paper_rate": -0.0075, "paper_test_rate": 0.01, "epochs": (300,)}
    rows = [
        ("paper", limit, epochs, -0.0075, 0.01, difference, 0.01, difference / 0.01, runs)
        for limit, epochs in (("linearized", np.inf), ("trained", 300))
    ]
    names = "reading limit epochs train_rate test_rate difference standard_error z runs"
    return record(config, difference=columns(names, rows))


def truncation_toy(left, windows=(1, 20)):
    config = {"horizon": 20, "outer_steps": 40, "windows": windows}
    bias = columns("window ratio cosine", [(window, 0.5, 0.5) for window in windows])
    limit = [(name, window, left, 0.3) for name in ("f", "f-tilde") for window in windows]
    path = columns("objective step gradient_norm", [("f", 0, 1.0)] * len(windows))
    names = "objective window gradient_norm distance"
    return record(config, bias=bias, limit=columns(names, limit), trajectory=path)


def hypercleaning(found):
    given, true = np.arange(20) % 2, np.zeros(20, int)
    weights = np.where((given != true) & (np.arange(20) < found), 0.0, 1.0)
    rows = [("5-RMD", 5.0, 0.9), ("noisy labels", np.nan, 0.8), ("clean labels", np.nan, 0.95)]
    summary = columns("method window test_accuracy", rows)
    summary = {**summary, "validation_loss": np.ones(3)}
    arrays = {"given": given, "true": true, "weights": weights[None]}
    return record({"threshold": -3.0}, arrays, summary=summary)


def task_interaction(gain, trials=4):
    rows = [
        (method, window, trial, loss, accuracy + 0.01 * trial)
        for method, window, loss, accuracy in (
            ("untuned", np.nan, 1.0, 0.5),
            ("5-RMD", 5.0, 0.9, 0.5 + gain),
        )
        for trial in range(trials)
    ]
    rows[-1] = (*rows[-1][:-1], rows[-1][-1] + 0.001)
    arrays = {"coupling": np.eye(3)[None, None], "classes": np.array(["cat", "dog", "ship"])}
    names = "method window trial validation_loss test_accuracy"
    return record({}, arrays, summary=columns(names, rows))


def label_noise(lead, seeds=5):
    ours, other = "hypercleaning", "confident learning"
    arms = ((ours, "clean"), (ours, "noisy"), (other, "none"), (other, "clean"), (other, "noisy"))
    rows = [
        (
            "uniform-50",
            seed,
            method,
            level,
            0.5 + (lead if method == ours else 0) + 0.001 * seed * index,
        )
        for index, (method, level) in enumerate(arms)
        for seed in range(seeds)
    ]
    detection = columns("noise seed method validation f1", rows)
    return record({"noise": ("uniform-50",), "seeds": seeds}, detection=detection)


def sparse_coding(masking, value=200, seeds=(0, 1)):
    rows = [
        ("realization", value, "local", algorithm, seed, 0.1, error)
        for algorithm, error in (("baseline", 0.3), ("masking", masking))
        for seed in seeds
    ]
    names = "vary value initialization algorithm seed error_initial error"
    return record({"atoms": 100, "initialization": ("local",)}, recovery=columns(names, rows))


def anchor_vectors(bulk, trained=1):
    models = columns("model trained", [("gru-0", trained)])
    rows = [("gru-0", 0, 0.4, 0.6), ("gru-0", 100, bulk, 1 - bulk)]
    return record({"top": (0, 100)}, models=models, mse=columns("model top mse r2", rows))


def downstream_transfer(agreement):
    rows = [
        (family, 1.0, 0.0, logits, "teacher", 0.7 * agreement, agreement)
        for family in ("teacher", "shifted", "silenced")
        for logits in ("raw", "anchored")
    ]
    names = "family strength divergence logits fitted_on accuracy agreement"
    return record({}, accuracy=columns(names, rows))


def hessian_two_layer(overlap, units=200):
    names = "units kronecker row_span weighted_row_span"
    return record({}, overlaps=columns(names, [(units, overlap, 0.8, 0.9)]))


def pac_bayes(ours, seeds=5, methods=("base", "iter")):
    rows = [
        ("true", seed, method, bound + 0.01 * seed, 0.05)
        for method, bound in (("base", 0.5), ("iter", ours))
        for seed in range(seeds)
    ]
    config = {"methods": methods, "labels": ("true",), "epochs": 10}
    return record(config, bounds=columns("labels seed method bound test_error", rows))


def one_shot(lead, accuracy=0.8):
    config = {"ways": 5, "middle": 10, "horizon": 50, "outer_steps": 100}
    rows = [("10-RMD", accuracy, 0.01), ("full", accuracy - lead, 0.01)]
    paired = columns("method other difference standard_error", [("10-RMD", "full", lead, 0.01)])
    summary = columns("method accuracy standard_error", rows)
    return record(config, summary=summary, paired=paired)


def hessian_structure(overlap, labels=("true",)):
    config = {"model": ("F-200^2",), "labels": labels, "dataset": "mnist", "top": 20}
    names, indices = ("fc1", "fc2"), range(1, 21)
    at = [("F-200^2", "true", layer, index, overlap) for layer in names for index in indices]
    layers = columns("model labels layer output_share", [(*one[:3], 0.9) for one in at])
    curves = columns("model labels layer index overlap", at)
    return record(config, spectra=curves, layers=layers)


def hessian_overlap(place, labels="true"):
    config = {"model": ("F-100-8",), "labels": labels}
    names, pair = {"fc1": 100, "fc2": 8, "fc3": 10}, ("F-100-8", 0, 1)
    at = [(*pair, layer, k + 1) for layer, m in names.items() for k in range(2 * m)]
    peaks = [int(place * names[one[3]]) for one in at]
    rows = [(*one, float(one[4] == peak), 0.1) for one, peak in zip(at, peaks, strict=True)]
    found = [(*pair, layer, m, m, 0.9, place * m, 1.0, 0.9) for layer, m in names.items()]
    return record(
        config,
        layers=columns("model layer kept", [("F-100-8", layer, 1.0) for layer in names]),
        overlaps=columns("model first second layer index overlap kronecker", rows),
        pairs=columns("model first second layer outputs reach alignment place height slope", found),
    )


def advisor(share, best=1.0):
    rows = [("network", 0, 0, best), ("network", 0, 1, share * best)]
    advice = columns("problem cost chaotic truly_chaotic", [("network", 2.0, 0, 0)])
    outcomes = columns("problem seed recommended improvement", rows)
    return record({"outer_steps": 100}, advice=advice, outcomes=outcomes)


def data_attribution(exact, seeds=3):
    config = {"models": ("linear",), "seeds": seeds, "subsets": 50, "share": 0.05}
    config |= {"speeds": (1.0, 30.0)}
    scores = [
        ("linear", speed, seed, method, lds)
        for speed in config["speeds"]
        for seed in range(seeds)
        for method, lds in (("exact", exact / speed), ("gradient cosine", 0.2))
    ]
    training = [
        ("linear", speed, seed, speed < 2) for speed in (1.0, 30.0) for seed in range(seeds)
    ]
    return record(
        config,
        scores=columns("model speed seed method lds", scores),
        training=columns("model speed seed trusted", training),
    )


UNKNOWN = "This run cannot tell"
CASES = (
    ("step-size-quadratic", step_size_quadratic("converged"), "Yes."),
    ("step-size-quadratic", step_size_quadratic("oscillating"), "No."),
    ("step-size-quadratic", step_size_quadratic("stuck", "log-domain-rmsprop"), UNKNOWN),
    ("least-squares", least_squares(1.6), "Yes to both."),
    ("least-squares", least_squares(0.2), "No."),
    ("least-squares", least_squares(1.6, dim=50), UNKNOWN),
    ("least-squares-sgd", least_squares_sgd(0.9, 4.0), "Only the one from validation loss"),
    ("least-squares-sgd", least_squares_sgd(4.0, 0.9), "The one from training loss"),
    ("least-squares-sgd", least_squares_sgd(0.9, 0.9), UNKNOWN),
    ("least-squares-sgd", least_squares_sgd(0.9, np.inf), UNKNOWN),
    ("mlp-optimizer", mlp_optimizer(0.2), "Yes."),
    ("mlp-optimizer", mlp_optimizer(-0.2), "No."),
    ("mlp-optimizer", mlp_optimizer(0.2, seeds=(0,)), UNKNOWN),
    ("maml-linear", maml_linear(-1.0), "Yes."),
    ("maml-linear", maml_linear(1.0), "No."),
    ("maml-linear", maml_linear(-1.0, error=1.0), UNKNOWN),
    ("maml-wishart", maml_wishart(-1.0), "Yes."),
    ("maml-wishart", maml_wishart(1.0), "No."),
    ("maml-wishart", maml_wishart(-1.0, error=1.0), UNKNOWN),
    ("maml-nonlinear", maml_nonlinear(-0.1), "Yes."),
    ("maml-nonlinear", maml_nonlinear(0.1), "No."),
    ("maml-nonlinear", maml_nonlinear(-0.1, runs=3), UNKNOWN),
    ("truncation-toy", truncation_toy(1e-6), "It is off with K=1 by"),
    ("truncation-toy", truncation_toy(1e-6, windows=(20,)), UNKNOWN),
    ("hypercleaning", hypercleaning(20), "Yes."),
    ("hypercleaning", hypercleaning(5), "Only in part."),
    ("task-interaction", task_interaction(0.1), "Yes."),
    ("task-interaction", task_interaction(-0.1), "No."),
    ("task-interaction", task_interaction(0.1, trials=1), UNKNOWN),
    ("label-noise", label_noise(0.2), "Yes."),
    ("label-noise", label_noise(-0.2), "No."),
    ("label-noise", label_noise(0.2, seeds=2), UNKNOWN),
    ("data-attribution", data_attribution(0.99), "Yes."),
    ("data-attribution", data_attribution(0.5), "No."),
    ("data-attribution", data_attribution(0.99, seeds=2), UNKNOWN),
    ("sparse-coding", sparse_coding(0.1), "Better than by predicting what it sees"),
    ("sparse-coding", sparse_coding(0.4, seeds=(0,)), "No, not better"),
    ("sparse-coding", sparse_coding(0.1, value=100), UNKNOWN),
    ("anchor-vectors", anchor_vectors(0.01), "Yes."),
    ("anchor-vectors", anchor_vectors(0.3), "No."),
    ("anchor-vectors", anchor_vectors(0.01, trained=0), UNKNOWN),
    ("downstream-transfer", downstream_transfer(0.5), "No."),
    ("downstream-transfer", downstream_transfer(1.0), "Yes, as far as"),
    ("hessian-two-layer", hessian_two_layer(0.99), "Yes, nearly."),
    ("hessian-two-layer", hessian_two_layer(0.5), "No."),
    ("hessian-two-layer", hessian_two_layer(0.99, units=50), UNKNOWN),
    ("pac-bayes", pac_bayes(0.3), "Yes."),
    ("pac-bayes", pac_bayes(0.5), "No."),
    ("pac-bayes", pac_bayes(0.3, seeds=2), UNKNOWN),
    ("pac-bayes", pac_bayes(0.3, methods=("iter",)), UNKNOWN),
    ("one-shot", one_shot(0.1), "Yes, and it does not have to."),
    ("one-shot", one_shot(-0.2), "Yes, but it has to."),
    ("one-shot", one_shot(0.0, accuracy=0.2), "No, no better than guessing."),
    ("hessian-structure", hessian_structure(0.8), "Nearly."),
    ("hessian-structure", hessian_structure(0.1), "No."),
    ("hessian-structure", hessian_structure(0.8, labels=("random",)), UNKNOWN),
    ("hessian-overlap", hessian_overlap(1), "Yes."),
    ("hessian-overlap", hessian_overlap(0.5), "No."),
    ("hessian-overlap", hessian_overlap(1, labels="random"), UNKNOWN),
    ("advisor", advisor(0.99), "Yes."),
    ("advisor", advisor(0.1), "No."),
    ("advisor", advisor(1.0, best=0.0), UNKNOWN),
)


NAMES = [f"{name}-{opening}" for name, _, opening in CASES]


@pytest.mark.parametrize(("name", "made_up", "opening"), CASES, ids=NAMES)
def test_the_answer_follows_from_the_tables(name, made_up, opening):
    say = BY_NAME[name].answer
    assert say is not None
    answer = say(made_up)
    assert answer.startswith(opening)
    assert answer.endswith(".") and "nan" not in answer and "inf" not in answer.split()
    assert len(answer.split()) <= 90


def test_every_experiment_has_an_answer():
    assert [name for name, experiment in BY_NAME.items() if experiment.answer is None] == []
