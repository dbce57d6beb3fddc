"""The claims of `least-squares`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.claims import Statement, each, falls, lacking, yes_or_no
from metastep_lab.tables import Frame, Record

TRAIN, VALIDATION = "train-by-train", "train-by-validation"
SHORT = {TRAIN: "train", VALIDATION: "valid"}


def errors(record: Record, along: str) -> Frame:
    """Return the mean RMSE of both modes on both splits, as `train_test`, with its differences.

    The rows are along `noise`, at the first number of samples, or along `samples`, at the first
    noise level, ascending. `gap` is the test error of train-by-train minus that of
    train-by-validation, `ratio` is samples / dim.
    """
    fixed = "samples" if along == "noise" else "noise"
    rows = record.rows("rmse", **{fixed: getattr(record.config, fixed)[0]})
    found = rows.pivot(index=along, columns=["mode", "split"], values="mean")
    found.columns = [f"{SHORT[mode]}_{split}" for mode, split in found.columns]
    samples = found.index if along == "samples" else record.config.samples[0]
    gap = found["train_test"] - found["valid_test"]
    return found.assign(gap=gap, ratio=samples / record.config.dim)


_few = lacking(
    "needs fewer samples than dimensions",
    lambda record: record.config.samples[0] < record.config.dim,
)


def answer(record: Record) -> str:
    """Say the error of both step sizes on new examples, with few and with many examples."""
    config = record.config
    few, many, noise = config.samples[0], max(config.samples), max(config.noise)
    if _few(record):
        return f"This run cannot tell: no task has fewer examples than its {config.dim} unknowns."
    found = errors(record, "noise")
    # The factor of the claim `train-by-train-overfits`.
    overfits = found["train_test"] > 3 * found["train_training"]
    opening = yes_or_no([*overfits, *(found["gap"] > 0)], "Yes to both")
    at = found.loc[noise]
    said = (
        f"{opening}. With {few} examples for {config.dim} unknowns and noise {noise:g}, the "
        f"step size tuned on training loss has an error of {at['train_training']:.2f} on the "
        f"training examples and of {at['train_test']:.2f} on new ones; the one tuned on validation "
        f"loss of {at['valid_test']:.2f} on new ones."
    )
    if many <= config.dim:
        return said
    at = errors(record, "samples").loc[many]
    return (
        f"{said} With {many} examples and noise {config.noise[0]:g} the errors on new ones are "
        f"{at['train_test']:.2f} and {at['valid_test']:.2f}."
    )


def _simulated(record: Record) -> Frame:
    """Return the rows of `population` in which the simulation has a standard error."""
    rows = record.frames["population"]
    untrained = (1 + rows["noise"] ** 2) / 2  # the population loss of w = 0
    apart = (rows["objective"] - rows["population"]).abs()
    # Averages over the spectrum of a finite matrix differ from the law's by terms of order 1 / d.
    allowed = 4 * rows["standard_error"] + untrained / record.config.dim
    return rows.assign(share=apart / untrained, inside=apart <= allowed)[np.isfinite(allowed)]


SAMPLE_GAPS = each("n={samples:g} {gap:.3f}", "difference of test RMSE by samples: ", ", ")

CLAIMS = (
    Statement(
        "train-by-train-overfits",
        "Figure 2: with fewer samples than dimensions, train-by-train fits the noise of the "
        # The factor is ours. With n = d / 2 the closed form has 150 for train-by-train and at most
        # 1.4 for train-by-validation: neither bar, 3 here and 2 below, is near its measurement.
        "training examples and its test error is above the noise level and far above its "
        "training error (here: more than three times it).",
        lacks=_few,
        measure=lambda record: errors(record, "noise"),
        verdict=lambda rows: (
            np.all(rows["train_test"] > 3 * rows["train_training"])
            and np.all(rows["train_test"] > rows.index)
        ),
        evidence=each(
            "sigma={noise:g} {train_training:.3f} / {train_test:.3f}",
            "RMSE by noise level, training / test: ",
            ", ",
        ),
    ),
    Statement(
        "validation-generalises",
        "Figure 2: with fewer samples than dimensions, train-by-validation has a smaller test "
        "error than train-by-train at every noise level, close to its training error (here: "
        "less than twice it).",
        lacks=_few,
        measure=lambda record: errors(record, "noise"),
        verdict=lambda rows: (
            np.all(rows["gap"] > 0) and np.all(rows["valid_test"] < 2 * rows["valid_training"])
        ),
        evidence=each(
            "sigma={noise:g} {valid_training:.3f} / {valid_test:.3f} / {train_test:.3f}",
            "RMSE by noise level, training / test of train-by-validation / test of "
            "train-by-train: ",
            ", ",
        ),
    ),
    Statement(
        "gap-grows-with-noise",
        "Figure 2: the more noise, the larger the difference between the two.",
        lacks=_few,
        measure=lambda record: errors(record, "noise"),
        verdict=lambda rows: falls(-rows["gap"]),
        evidence=each(
            "sigma={noise:g} {gap:.3f}", "difference of test RMSE by noise level: ", ", "
        ),
    ),
    Statement(
        "gap-decreases-with-samples",
        "Figure 3: the difference between the two decreases as there are more data.",
        measure=lambda record: errors(record, "samples"),
        verdict=lambda rows: falls(rows["gap"]),
        evidence=SAMPLE_GAPS,
        reasons={
            False: "The difference peaks where there are as many examples as dimensions, since "
            "the test error of train-by-train does; beyond that it decreases.",
        },
    ),
    Statement(
        "gap-closes-beyond-dim",
        "Figure 3, as expected by Theorem 6: with many more samples than dimensions the difference "
        "goes to zero (here: it falls below a tenth of that with the fewest).",
        lacks=lacking(
            "needs two numbers of samples above the dimension, and one that is not",
            lambda record: (
                sum(n > record.config.dim for n in record.config.samples) > 1
                and min(record.config.samples) <= record.config.dim
            ),
        ),
        measure=lambda record: errors(record, "samples"),
        verdict=lambda rows: (
            falls(rows.query("ratio > 1")["gap"])
            and rows["gap"].iloc[-1] < 0.1 * rows["gap"].iloc[0]
        ),
        evidence=SAMPLE_GAPS,
    ),
    Statement(
        "double-descent",
        "Not in the paper: the test error of train-by-train is largest where there are as "
        "many samples as dimensions.",
        lacks=lacking(
            "needs three numbers of samples, the dimension among them",
            lambda record: (
                len(record.config.samples) > 2 and record.config.dim in record.config.samples
            ),
        ),
        measure=lambda record: errors(record, "samples"),
        verdict=lambda rows: rows["ratio"][rows["train_test"].idxmax()] == 1,
        evidence=each("n={samples:g} {train_test:.3f}", "test RMSE by samples: ", ", "),
    ),
    Statement(
        "closed-form",
        "Not in the paper: the Marchenko-Pastur law gives both objectives in closed form; the "
        "simulation agrees at every step size within four standard errors and 1 / d of the loss "
        "of no training.",
        lacks=lacking(
            "needs at least two tasks and step sizes at which no run diverges",
            lambda record: len(_simulated(record)),
        ),
        measure=_simulated,
        verdict=lambda rows: rows["inside"].all(),
        evidence=lambda rows: (
            f"{len(rows)} (correlated) step sizes and settings: largest |z| "
            f"{rows['z'].abs().max():.2f}, largest difference {rows['share'].max():.2g} of the "
            "loss of no training"
        ),
    ),
    Statement(
        "descent-finds-the-optimum",
        "Not in the paper, which searches a grid: meta-gradient descent finds the same step sizes, "
        "within a tenth of the best of a fine grid on the same tasks.",
        lacks=lambda record: "descent_steps is 0" if record.frames["descent_end"].empty else None,
        measure=lambda record: record.frames["descent_end"],
        verdict=lambda rows: np.all(
            np.abs(np.log(rows["step_size"] / rows["grid_step_size"])) < np.log(1.1)
        ),
        evidence=each("{mode}, noise {noise:g}: {step_size:.4g} (grid {grid_step_size:.4g})"),
    ),
)
