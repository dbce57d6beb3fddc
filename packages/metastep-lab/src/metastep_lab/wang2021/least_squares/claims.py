"""The claims of `least-squares`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.claims import Numbers, Statement, each, falls, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record, where

TRAIN, VALIDATION = "train-by-train", "train-by-validation"
SHORT = {TRAIN: "train", VALIDATION: "valid"}


def errors(record: Record, along: str) -> Frame:
    """Return the mean RMSE of both modes on both splits, as `train_test`, with its differences.

    Args:
        record: the run.
        along: `noise`, at the first number of samples, or `samples`, at the first noise level.

    Returns:
        One row for each noise level or number of samples, ascending. `gap` is the test error of
        train-by-train minus that of train-by-validation, `ratio` is samples / dim.
    """
    fixed = "samples" if along == "noise" else "noise"
    rows = where(record.frames["rmse"], **{fixed: getattr(record.config, fixed)[0]})
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


def _theorem_5(record: Record) -> Numbers:
    config, rows = record.config, record.frames["theorem_5"]
    noise = max(config.noise)
    train, valid = (where(rows, noise=noise, mode=mode) for mode in SHORT)
    simulated = errors(record, "noise")["train_test"][noise] ** 2 - noise**2
    return {
        "noise": noise,
        "horizons": train["horizon"],
        "horizon": config.horizon,
        "train": train["scaled"],
        "valid": valid["scaled"],
        "excess": train.query("horizon >= 40")["error"].min() / noise**2,
        "simulated": simulated / noise**2,
        "error": valid["error"].max(),
    }


def _orders(found: Numbers) -> str:
    return (
        f"noise {found['noise']:g}, horizons {span(found['horizons'], 'g')}: eta_train "
        f"{span(found['train'], '.4f')}, eta_valid * t {span(found['valid'], '.4f')}; from t = 40 "
        f"on error / sigma^2 of train-by-train at least {found['excess']:.3f} (simulated at t = "
        f"{found['horizon']} {found['simulated']:.3f}); error of train-by-validation at most "
        f"{found['error']:.4f}, and no training has 1: the theorem's constant gain is small at "
        "high noise"
    )


def _has_both_orders(found: Numbers) -> bool:
    constant = all(values.max() / values.min() < 1.5 for values in (found["train"], found["valid"]))
    return constant and min(found["excess"], found["simulated"]) > 0.5 and found["error"] < 1


def _theorem_6(record: Record) -> Numbers:
    """Return the table, and the simulated errors in its unit with their statistical errors."""
    config, many = record.config, errors(record, "samples").query("ratio > 1")
    noise, ratio = config.noise[0], many["ratio"]
    simulated = (many["train_test"] ** 2 - noise**2) * ratio / noise**2
    # Standard error of a mean of squares of n test examples in each test task, in noise variances.
    chance = 3 * np.sqrt(2 / (many.index.to_numpy() * config.test_tasks)) * ratio
    allowed = 1 + 4 / ratio + chance
    many = many.assign(simulated=simulated, allowed=allowed)
    return {"closed": record.frames["theorem_6"], "simulated": many}


def _error_bounded(found: Numbers) -> bool | None:
    closed, many = found["closed"], found["simulated"]
    if not (falls(closed["error"]) and np.all(closed["error"] - 1 < 4 / closed["ratio"])):
        return False
    return None if many.empty else bool((many["simulated"] < many["allowed"]).all())


def _bounds(found: Numbers) -> str:
    closed = each("n/d={ratio:g} {error:.3f} / {solution:.3f}", between=", ")(found["closed"])
    simulated = each("n/d={ratio:g} {simulated:.3f}", "; simulated: ", ", ")(found["simulated"])
    return (
        f"error / (d sigma^2 / n) by n / d, population / least-squares solution: {closed}"
        f"{'' if found['simulated'].empty else simulated}"
    )


SAMPLE_GAPS = each("n={samples:g} {gap:.3f}", "difference of test RMSE by samples: ", ", ")

CLAIMS = (
    Statement(
        "train-by-train-overfits",
        "Figure 2: with fewer samples than dimensions, train-by-train fits the noise of the "
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
    ),
    Statement(
        "gap-closes-beyond-dim",
        "Theorem 6: with many more samples than dimensions the difference goes to zero (here: "
        "it falls below a tenth of that with the fewest).",
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
    Statement(
        "theorem-5",
        "Theorem 5: with fewer samples than dimensions and much noise, the step size of "
        "train-by-train is of order 1 with an error of order sigma^2, that of train-by-validation "
        "of order 1 / t with an error below that of no training (here: both orders to a factor of "
        "1.5 over t, and the first error above half of sigma^2, by the closed form for large d and "
        "step sizes up to where it diverges, and by simulation at one t; the theorem's probability "
        "of 0.99 is not sampled).",
        lacks=_few,
        measure=_theorem_5,
        verdict=_has_both_orders,
        evidence=_orders,
    ),
    Statement(
        "theorem-6",
        "Theorem 6: with n samples, n much larger than d, train-by-train has an error of at most "
        "(1 + epsilon) d sigma^2 / n, epsilon small (here: below 4 d / n, and falling, by the "
        "closed form for large d; and below that by simulation, to three standard errors).",
        measure=_theorem_6,
        verdict=_error_bounded,
        evidence=_bounds,
    ),
)
