"""What the tables of `least-squares` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, select

TRAIN, VALIDATION = "train-by-train", "train-by-validation"


def answer(record: Record) -> str:
    """Say what both step sizes make of new examples, where there are few and where many."""
    config = record.config
    few, many = config.samples[0], max(config.samples)
    if few >= config.dim:
        return f"This run cannot tell: no task has fewer examples than its {config.dim} unknowns."
    at = {"samples": few, "noise": max(config.noise)}
    fit, train, valid = _errors(record, **at)
    everywhere = _errors(record, samples=few)
    overfits, helps = everywhere[1] > 3 * everywhere[0], everywhere[2] < everywhere[1]
    both = overfits & helps
    opening = "Yes to both" if both.all() else "Only in part" if (overfits | helps).any() else "No"
    said = (
        f"{opening}. With {few} examples for {config.dim} unknowns and noise {at['noise']:g}, the "
        f"step size tuned on training loss has an error of {fit[0]:.2f} on the training examples "
        f"and of {train[0]:.2f} on new ones; the one tuned on validation loss of {valid[0]:.2f} on "
        "new ones."
    )
    if many <= config.dim:
        return said
    _, train, valid = _errors(record, samples=many, noise=config.noise[0])
    many_say = f"With {many} examples and noise {config.noise[0]:g} the errors on new ones are"
    return f"{said} {many_say} {train[0]:.2f} and {valid[0]:.2f}."


def _errors(record: Record, **where: float) -> tuple[np.ndarray, ...]:
    """Return the training and the test RMSE of train-by-train, and the test RMSE of the other."""
    shown = ((TRAIN, "training"), (TRAIN, "test"), (VALIDATION, "test"))
    return tuple(_rmse(record, mode, split, **where) for mode, split in shown)


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold section 5 and Theorems 5 and 6 against the tables."""
    return (
        *_noise_claims(record),
        *_sample_claims(record),
        _closed_form_claim(record),
        _descent_claim(record),
        _theorem_5_claim(record),
        _theorem_6_claim(record),
    )


def _rmse(record: Record, mode: str, split: str, **where: float) -> np.ndarray:
    return select(record.tables["rmse"], mode=mode, split=split, **where)["mean"]


def _listed(symbol: str, values: np.ndarray, *columns: np.ndarray) -> str:
    """Write `symbol=value a / b` for every value and the numbers beside it."""
    numbers = zip(*columns, strict=True)
    return ", ".join(
        f"{symbol}={value:g} " + " / ".join(f"{x:.3f}" for x in row)
        for value, row in zip(values, numbers, strict=True)
    )


def _noise_claims(record: Record) -> tuple[Claim, ...]:
    config = record.config
    samples, noise = config.samples[0], np.array(config.noise)
    at = {"samples": samples}
    train_error = _rmse(record, TRAIN, "training", **at)
    train_test, valid_test = (_rmse(record, mode, "test", **at) for mode in (TRAIN, VALIDATION))
    valid_error = _rmse(record, VALIDATION, "training", **at)
    order = np.argsort(noise)
    gap = (train_test - valid_test)[order]
    few = samples < config.dim
    return (
        Claim(
            "train-by-train-overfits",
            "Figure 2: with fewer samples than dimensions, train-by-train fits the noise of the "
            "training examples and its test error is above the noise level and far above its "
            "training error (here: more than three times it).",
            bool(np.all(train_test > 3 * train_error) and np.all(train_test > noise))
            if few
            else None,
            "RMSE by noise level, training / test: "
            + _listed("sigma", noise, train_error, train_test),
        ),
        Claim(
            "validation-generalises",
            "Figure 2: with fewer samples than dimensions, train-by-validation has a smaller test "
            "error than train-by-train at every noise level, close to its training error (here: "
            "less than twice it).",
            bool(np.all(valid_test < train_test) and np.all(valid_test < 2 * valid_error))
            if few
            else None,
            "RMSE by noise level, training / test of train-by-validation / test of "
            "train-by-train: " + _listed("sigma", noise, valid_error, valid_test, train_test),
        ),
        Claim(
            "gap-grows-with-noise",
            "Figure 2: the more noise, the larger the difference between the two.",
            bool(np.all(np.diff(gap) > 0)) if few and gap.size > 1 else None,
            "difference of test RMSE by noise level: " + _listed("sigma", noise[order], gap),
        ),
    )


def _sample_claims(record: Record) -> tuple[Claim, ...]:
    config = record.config
    at = {"noise": config.noise[0]}
    table = select(record.tables["rmse"], mode=TRAIN, split="test", **at)
    order = np.argsort(table["samples"])
    samples, train = table["samples"][order], table["mean"][order]
    gap = train - _rmse(record, VALIDATION, "test", **at)[order]
    beyond = samples > config.dim
    peak = samples[np.argmax(train)]
    text = "difference of test RMSE by samples: " + _listed("n", samples, gap)
    return (
        Claim(
            "gap-decreases-with-samples",
            "Figure 3: the difference between the two decreases as there are more data.",
            bool(np.all(np.diff(gap) < 0)) if gap.size > 1 else None,
            text,
        ),
        Claim(
            "gap-closes-beyond-dim",
            "Theorem 6: with many more samples than dimensions the difference goes to zero (here: "
            "it falls below a tenth of that with the fewest).",
            bool(np.all(np.diff(gap[beyond]) < 0) and gap[beyond][-1] < 0.1 * gap[0])
            if beyond.sum() > 1 and not beyond[0]
            else None,
            text,
        ),
        Claim(
            "double-descent",
            "Not in the paper: the test error of train-by-train is largest where there are as "
            "many samples as dimensions.",
            bool(peak == config.dim) if config.dim in samples and samples.size > 2 else None,
            "test RMSE by samples: " + _listed("n", samples, train),
        ),
    )


def _closed_form_claim(record: Record) -> Claim:
    table, dim = record.tables["population"], record.config.dim
    apart = np.abs(table["objective"] - table["population"])
    untrained = _untrained(table["noise"])
    # Averages over the spectrum of a finite matrix differ from the law's by terms of order 1 / d.
    allowed = 4 * table["standard_error"] + untrained / dim
    known = np.isfinite(allowed)
    z = np.abs(table["z"])[known]
    return Claim(
        "closed-form",
        "Not in the paper: the Marchenko-Pastur law gives both objectives in closed form; the "
        "simulation agrees at every step size within four standard errors and 1 / d of the loss "
        "of no training.",
        bool(np.all(apart[known] <= allowed[known])) if known.any() else None,
        f"{z.size} (correlated) step sizes and settings: largest |z| {z.max():.2f}, largest "
        f"difference {np.max(apart[known] / untrained[known]):.2g} of the loss of no training"
        if known.any()
        else "needs at least two tasks and step sizes at which no run diverges",
    )


def _untrained(noise: np.ndarray) -> np.ndarray:
    """Return the population loss of w = 0."""
    return (1 + noise**2) / 2


def _descent_claim(record: Record) -> Claim:
    ends = record.tables["descent_end"]
    apart = np.abs(np.log(ends["step_size"] / ends["grid_step_size"]))
    cases = "; ".join(
        f"{mode}, noise {noise:g}: {found:.4g} (grid {best:.4g})"
        for noise, _, mode, found, best in zip(*ends.values(), strict=True)
    )
    return Claim(
        "descent-finds-the-optimum",
        "Not in the paper, which searches a grid: meta-gradient descent finds the same step sizes, "
        "within a tenth of the best of a fine grid on the same tasks.",
        bool(np.all(apart < np.log(1.1))) if apart.size else None,
        cases or "descent_steps is 0",
    )


def _theorem_5_claim(record: Record) -> Claim:
    table = record.tables["theorem_5"]
    noise = max(record.config.noise)
    train, valid = (select(table, noise=noise, mode=mode) for mode in (TRAIN, VALIDATION))
    late = train["horizon"] >= 40
    spread = lambda values: values.max() / values.min()
    constant = spread(train["scaled"]) < 1.5 and spread(valid["scaled"]) < 1.5
    separated = train["error"][late].min() > 0.5 * noise**2 and valid["error"].max() < 1
    samples = record.config.samples[0]
    few = samples < record.config.dim
    simulated = _excess(record, samples, noise) / noise**2
    return Claim(
        "theorem-5",
        "Theorem 5: with fewer samples than dimensions and much noise, the step size of "
        "train-by-train is of order 1 with an error of order sigma^2, that of train-by-validation "
        "of order 1 / t with an error below that of no training (here: both orders to a factor of "
        "1.5 over t, and the first error above half of sigma^2, by the closed form for large d and "
        "step sizes up to where it diverges, and by simulation at one t; the theorem's probability "
        "of 0.99 is not sampled).",
        bool(constant and separated and simulated > 0.5) if few else None,
        f"noise {noise:g}, horizons {train['horizon'].min():g} to {train['horizon'].max():g}: "
        f"eta_train {train['scaled'].min():.4f} to {train['scaled'].max():.4f}, eta_valid * t "
        f"{valid['scaled'].min():.4f} to {valid['scaled'].max():.4f}; from t = 40 on error / "
        f"sigma^2 of train-by-train at least {train['error'][late].min() / noise**2:.3f} "
        f"(simulated at t = {record.config.horizon} {simulated:.3f}); error of "
        f"train-by-validation at most {valid['error'].max():.4f}, and no training has 1: the "
        "theorem's constant gain is small at high noise",
    )


def _excess(record: Record, samples: float, noise: float) -> float:
    """Return the simulated E|w - w*|^2 of train-by-train: what its test error has beyond noise."""
    (error,) = _rmse(record, TRAIN, "test", samples=samples, noise=noise)
    return float(error**2 - noise**2)


def _theorem_6_claim(record: Record) -> Claim:
    config, table = record.config, record.tables["theorem_6"]
    excess = table["error"] - 1
    allowed = 4 / table["ratio"]
    many = np.array(sorted(n for n in config.samples if n > config.dim))
    ratio, noise = many / config.dim, config.noise[0]
    simulated = np.array([_excess(record, n, noise) for n in many]) * ratio / noise**2
    # A mean of squares of n test examples in each test task is known to so many noise variances.
    chance = 3 * np.sqrt(2 / (many * config.test_tasks)) * ratio
    fits = bool(np.all(simulated < 1 + 4 / ratio + chance)) if many.size else None
    falls = bool(np.all(np.diff(table["error"]) < 0) and np.all(excess < allowed))
    return Claim(
        "theorem-6",
        "Theorem 6: with n samples, n much larger than d, train-by-train has an error of at most "
        "(1 + epsilon) d sigma^2 / n, epsilon small (here: below 4 d / n, and falling, by the "
        "closed form for large d; and below that by simulation, to three standard errors).",
        False if not falls else fits,
        "error / (d sigma^2 / n) by n / d, population / least-squares solution: "
        + _listed("n/d", table["ratio"], table["error"], table["solution"])
        + (f"; simulated: {_listed('n/d', ratio, simulated)}" if many.size else ""),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figures 2 and 3 of the paper, the objectives, and the descent."""
    drawn = {
        "figure-2-noise": _rmse_figure(record, "noise", {"samples": record.config.samples[0]}),
        "figure-3-samples": _rmse_figure(record, "samples", {"noise": record.config.noise[0]}),
        "objectives": _objective_figure(record),
    }
    if len(record.tables["descent"]["step"]):
        drawn["descent"] = _descent_figure(record)
    return drawn


def _rmse_figure(record: Record, along: str, where: Mapping[str, float]) -> tuple[Figure, str]:
    panels = []
    for split in ("training", "test"):
        series, bands, predicted = {}, {}, {}
        for mode in (TRAIN, VALIDATION):
            table = select(record.tables["rmse"], mode=mode, split=split, **where)
            order = np.argsort(table[along])
            x = table[along][order]
            series[mode] = x, table["mean"][order]
            bands[mode] = table["minimum"][order], table["maximum"][order]
            predicted[mode] = x, table["prediction"][order]
        label = "noise level sigma" if along == "noise" else "examples n"
        panels.append(
            Lines(
                series=series,
                x_label=label,
                y_label=f"{split} RMSE",
                title=f"{split} error",
                x_log=along == "samples",
                bands=bands,
                dashed=predicted,
                dashed_label="closed form",
            )
        )
    fixed = ", ".join(f"{name} = {value:g}" for name, value in where.items())
    text = (
        "Training and test error (root mean square, RMSE) of the two tuned step sizes against "
        f"{'the noise level' if along == 'noise' else 'the number of examples'}, with {fixed} and "
        f"d = {record.config.dim} unknowns: mean over new tasks, their range shaded, the closed "
        "form dashed. A test error far above the training error is overfitting."
    )
    return line_figure(*panels, shared_legend=True), text


def _objective_figure(record: Record) -> tuple[Figure, str]:
    samples, panels = record.config.samples[0], []
    for mode in (TRAIN, VALIDATION):
        series, expected = {}, {}
        for noise in (min(record.config.noise), max(record.config.noise)):
            label = f"sigma = {noise:g}"
            where = {"noise": noise, "samples": samples, "mode": mode}
            table = select(record.tables["objective"], **where)
            beside = select(record.tables["population"], **where)
            scale = noise**2
            shown = table["stopped"] == 0
            series[label] = table["step_size"][shown], table["objective"][shown] / scale
            expected[label] = beside["step_size"], beside["population"] / scale
        panels.append(
            Lines(
                series=series,
                x_label="step size",
                y_label="objective / sigma²",
                title=mode,
                x_log=True,
                dashed=expected,
                dashed_label="closed form",
            )
        )
    text = (
        "What is tuned for, in units of sigma² (sigma is the noise level): the loss after training "
        f"on the training examples and on the held-out ones, against the step size at n = "
        f"{samples} examples, up to where runs begin to diverge. The minimum of a curve is the "
        "tuned step size."
    )
    return line_figure(*panels, shared_legend=True), text


def _descent_figure(record: Record) -> tuple[Figure, str]:
    table, panels = record.tables["descent"], []
    for noise in sorted(set(table["noise"])):
        series, expected = {}, {}
        for mode in (TRAIN, VALIDATION):
            path = select(table, noise=noise, mode=mode)
            best = select(record.tables["descent_end"], noise=noise, mode=mode)["grid_step_size"]
            series[mode] = path["step"], path["step_size"]
            expected[mode] = path["step"][[0, -1]], [best[0], best[0]]
        panels.append(
            Lines(
                series=series,
                x_label="meta-gradient step",
                y_label="step size",
                title=f"sigma = {noise:g}",
                y_log=True,
                dashed=expected,
                dashed_label="best of a grid",
            )
        )
    text = (
        "The step size during meta-gradient descent from 0.003, tuned on training loss and on "
        "validation loss, for two noise levels sigma; the dashed lines are the best of a fine grid "
        "on the same tasks."
    )
    return line_figure(*panels, shared_legend=True), text
