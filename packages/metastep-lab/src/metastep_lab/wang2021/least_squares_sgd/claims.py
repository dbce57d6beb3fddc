"""What the tables of `least-squares-sgd` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim, span
from metastep_lab.figures.style import Axes, Figure, new_figure, style
from metastep_lab.tables import Record, select
from metastep_lab.theory import least_squares_sgd as theory

# What "the same up to a constant" and "at least a constant" mean here: the paper gives none for the
# step sizes, and 1 / (128 L) = 8e-5 for the error over the noise variance.
FACTOR = 4.0
LEAST_NOISE_SHARE = 0.1
LEAST_GAIN = 0.01
LARGEST_Z = 5.0

Rows = dict[str, np.ndarray]


def _rows(record: Record, table: str, **conditions: object) -> Rows:
    return select(record.tables[table], **conditions)


def _train(record: Record, region: str) -> Rows:
    return _rows(record, "optimum", mode="train-by-train", range=region)


def _validation(record: Record, parts: int, region: str = "stated") -> Rows:
    """Train-by-validation that descends on d / parts examples."""
    found = _rows(record, "optimum", mode="train-by-validation", range=region)
    keep = found["samples"] * parts == found["dim"]
    return {name: column[keep] for name, column in found.items()}


def _by_dim(found: Rows, values: np.ndarray) -> str:
    """The span of values for each d, in words."""
    return "; ".join(
        f"d={int(dim)} {span(values[found['dim'] == dim])}" for dim in np.unique(found["dim"])
    )


def answer(record: Record) -> str:
    """Say how large either step size is, and how far from the truth it ends."""
    train, valid = _train(record, "wide"), _validation(record, 4)
    near, far = valid["error"], train["median_error"]
    error = np.max(valid["standard_error"])
    if not np.all(np.isfinite([*near, *far, error])):
        return "This run cannot tell: some of its averages grew beyond every number."
    if np.max(near) + 2 * error < np.min(far):
        only = np.max(near) + 2 * error < 1 < np.min(far)
        opening = f"{'Only t' if only else 'T'}he one from validation loss generalizes"
        opening += "" if only else " better"
    elif np.min(near) - 2 * error > np.max(far):
        opening = "The one from training loss generalizes better"
    else:
        opening = "This run cannot tell which generalizes better"
    return (
        f"{opening}. Validation loss chooses {span(valid['step_size_times_horizon'])} divided "
        f"by the number of steps, which ends at a squared distance of {span(near)} (±{error:.2g}"
        f") from the true weights; training loss {span(train['step_size_times_dim'])} divided "
        f"by the number of weights, which ends at {span(far)}. Without training it is 1."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Theorems 9 and 10 against the tables."""
    return (
        *_train_step_claims(record),
        *_train_error_claims(record),
        *_validation_claims(record),
        _comparison_claim(record),
        _simulation_claim(record),
    )


def _train_step_claims(record: Record) -> tuple[Claim, ...]:
    wide, stated = _train(record, "wide"), _train(record, "stated")
    scaled = wide["step_size_times_dim"]
    same = bool(np.max(scaled) <= FACTOR * np.min(scaled) and not np.any(wide["at_boundary"]))
    ends = stated["at_boundary"].astype(bool)
    limits = np.array([theory.train_by_train_range(int(dim)) for dim in stated["dim"]])
    binds = bool(np.all(ends & np.isclose(stated["step_size"], limits)))
    short = stated["horizon"] < record.config.long_multiple * stated["dim"]
    beyond = wide["objective"] / stated["objective"][short]
    return (
        Claim(
            "train-by-train-step-size",
            "Theorem 9: eta_train is of order 1/d. Here: minimized over every step size, eta_train "
            f"* d is the same within a factor {FACTOR:g} for all d and t, and no end of the range.",
            same if len(record.config.dims) > 1 else None,
            "eta_train * d over the horizons: " + _by_dim(wide, scaled),
        ),
        Claim(
            "train-by-train-stated-range",
            "In the range of Theorem 9, eta up to 1 / (2 L^3 d) with L = 100, the objective falls "
            "to the end: that eta_train is of order 1/d there is the doing of the range.",
            binds,
            f"the minimizer is the upper end in {int(np.sum(ends))} of {ends.size} cases, eta d = "
            f"{span(stated['step_size_times_dim'])}; beyond it, at step sizes larger by a "
            f"factor of {span(wide['step_size'] / stated['step_size'][short])}, the objective "
            f"falls on to {span(beyond)} of its value. In these horizons the weights hardly "
            f"move at the stated end: E|w - w*|^2 falls from 1 by "
            f"{span(1 - stated['error'][short])}",
        ),
    )


def _train_error_claims(record: Record) -> tuple[Claim, ...]:
    variance, multiple = record.config.noise**2, record.config.long_multiple
    wide, stated = _train(record, "wide"), _train(record, "stated")
    long = stated["horizon"] == multiple * stated["dim"]
    low = np.concatenate([wide["low_error"], stated["low_error"][long]]) / variance
    medians = wide["median_error"] / variance
    long_errors = stated["error_over_noise_variance"][long]
    short = stated["error_over_noise_variance"][~long]
    return (
        Claim(
            "train-by-train-error",
            "Theorem 9: with probability 0.99 over the test task the learned step size leaves "
            f"E|w - w*|^2 of order sigma^2 (here: at least {LEAST_NOISE_SHARE:g} sigma^2 in 99 of "
            f"100 tasks, over every step size and, with t = {multiple:,} d, in the stated range).",
            bool(np.min(low) >= LEAST_NOISE_SHARE),
            f"first percentile {span(low)} sigma^2; median {span(medians)} sigma^2 over "
            f"every step size; mean {span(long_errors)} sigma^2 in the stated range with the "
            f"long t. With shorter t the weights do not move in the stated range and the error "
            f"over sigma^2, {span(short)}, is that of w = 0",
        ),
        Claim(
            "unrestricted-step-size-diverges",
            "Why Appendix D restricts the step size: the minimizer over every step size is so "
            "close to divergence that on some fresh tasks E|w - w*|^2 grows without bound.",
            bool(np.any(wide["diverging"] > 0)),
            "fraction of fresh tasks: "
            + _by_dim(wide, wide["diverging"])
            + f"; mean error up to {np.max(wide['error']):.2g} while the medians are at most "
            f"{np.max(wide['median_error']):.3g}",
        ),
    )


def _validation_claims(record: Record) -> tuple[Claim, ...]:
    same, evidence, gains, certain = True, [], [], True
    for parts in (2, 4):
        stated, wide = _validation(record, parts), _validation(record, parts, "wide")
        scaled = stated["step_size_times_horizon"]
        same &= bool(np.max(scaled) <= FACTOR * np.min(scaled))
        same &= not np.any(stated["at_boundary"])
        same &= bool(np.allclose(stated["step_size"], wide["step_size"], rtol=0.1))
        evidence.append(f"n_1 = d/{parts}: " + _by_dim(stated, scaled))
        gain = 1 - stated["error"]
        certain &= bool(np.all(gain >= np.maximum(LEAST_GAIN, 2 * stated["standard_error"])))
        gains.append(
            f"n_1 = d/{parts}: "
            + _by_dim(stated, gain)
            + f" (standard error at most {np.max(stated['standard_error']):.2g})"
        )
    several = len(record.config.dims) * len(record.config.validation_multiples) > 1
    return (
        Claim(
            "train-by-validation-step-size",
            "Theorem 10: eta_valid is of order 1/t. Here, with the population loss in place of a "
            "validation set and without truncation at |w| = 40 sigma: for either number of "
            f"examples eta_valid * t is the same within a factor {FACTOR:g} for all d and t, "
            "inside the stated range "
            "(with c_5 = 1), and the minimizer over every step size as well.",
            same if several else None,
            "eta_valid * t over the horizons: " + "; ".join(evidence),
        ),
        Claim(
            "train-by-validation-error",
            "Theorem 10: E|w - w*|^2 is below |w*|^2 = 1 by a constant on fresh tasks (here: by at "
            f"least {LEAST_GAIN:g} and two standard errors).",
            certain,
            "1 - E|w - w*|^2 over the horizons: " + "; ".join(gains),
        ),
    )


def _comparison_claim(record: Record) -> Claim:
    held_out, better, words = _validation(record, 4), [], []
    train = _rows(record, "optimum", mode="train-by-train")
    moved = (train["range"] == "wide") | (
        train["horizon"] == record.config.long_multiple * train["dim"]
    )
    for dim in record.config.dims:
        ours = held_out["error"][held_out["dim"] == dim]
        theirs = train["median_error"][train["dim"] == dim]
        better.append(np.max(ours) < np.min(theirs))
        converged = train["median_error"][(train["dim"] == dim) & moved]
        words.append(f"d={int(dim)} {np.max(ours):.3g} against {span(converged)}")
    return Claim(
        "validation-generalizes-better",
        "Appendix D: of n = d/2 examples in all, descending on half and choosing the step size by "
        "the other half ends nearer to w* than descending on all and choosing it by the training "
        "loss: the mean of the first is below the median of the second, at every t and range.",
        all(better),
        "E|w - w*|^2, train-by-validation (largest) against train-by-train (where t is long enough "
        "for the weights to move): " + "; ".join(words),
    )


def _simulation_claim(record: Record) -> Claim:
    z = record.tables["simulation"]["z"]
    return Claim(
        "simulation-agrees",
        "The exact expectations are those of stochastic gradient descent: the means of simulated "
        f"runs are within {LARGEST_Z:g} standard errors.",
        bool(np.max(np.abs(z)) < LARGEST_Z),
        f"{record.config.simulations} runs: z = " + ", ".join(f"{value:.2f}" for value in z),
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the two objectives, and the learned step sizes with their errors."""
    return {"objectives": _objective_figure(record), "optimum": _optimum_figure(record)}


def _objective_figure(record: Record) -> tuple[Figure, str]:
    figure, (left, right) = new_figure(columns=2, width=11, height=4.2)
    _draw_train(left, record)
    _draw_validation(right, record)
    text = (
        "What is tuned for, against the step size; stars are the minima. Train-by-train judges a "
        "step size by the training loss, train-by-validation by the squared distance E|w - w*|² of "
        "the weights w from the true ones. d is the number of weights, n of examples, n₁ of those "
        "that are trained on, t of steps. The theorems look at step sizes up to the dotted limits."
    )
    return figure, text


def _draw_train(axes: Axes, record: Record) -> None:
    multiples = record.config.multiples
    multiple, best = multiples[len(multiples) // 2], []
    for index, dim in enumerate(record.config.dims):
        place: dict[str, object] = {"mode": "train-by-train", "dim": dim, "horizon": multiple * dim}
        data, found = (_rows(record, name, **place) for name in ("objective", "optimum"))
        minimum = found["objective"][found["range"] == "wide"].item()
        x = np.append(data["step_size"], found["step_size"]) * dim
        _curve(axes, index, dim, x, np.append(data["objective"], found["objective"]), minimum)
        best.append(minimum)
    dim = record.config.dims[0]
    limit = theory.train_by_train_range(dim) * dim
    axes.axvline(limit, color="black", linestyle=":", linewidth=1.2, label="limit of Theorem 9")
    start = np.max(_train(record, "stated")["objective"])
    axes.set(xscale="log", yscale="log", ylim=(min(best) / 3, start * 10))
    axes.set(xlabel="step size · d", ylabel="mean training loss (squared target units)")
    axes.set_title(f"Train-by-train, n = d/2, t = {multiple} d")
    axes.legend()


def _draw_validation(axes: Axes, record: Record) -> None:
    first = min(record.config.validation_multiples)
    for index, dim in enumerate(record.config.dims):
        horizon = int(np.ceil(first / theory.train_by_validation_range(dim)))
        place = {"mode": "train-by-validation", "samples": dim // 4, "horizon": horizon}
        data, found = (_rows(record, name, **place) for name in ("objective", "optimum"))
        x = np.append(data["step_size"], found["step_size"]) * horizon
        # The objective is half of |w - w*|^2 plus half the variance of the noise.
        y = 2 * np.append(data["objective"], found["objective"]) - record.config.noise**2
        _curve(axes, index, dim, x, y, np.min(y))
    axes.axvline(first, color="black", linestyle=":", linewidth=1.2, label="limit of Theorem 10")
    axes.axhline(1, color="#777777", linewidth=1, label="|w*|², no training")
    axes.set(xscale="log", xlim=(3e-3, 3 * first), ylim=(0.8, 1.6))
    axes.set(xlabel="step size · t", ylabel="mean of E|w - w*|² over the training tasks")
    times = "" if first == 1 else f"{first} "
    axes.set_title(f"Train-by-validation, n₁ = d/4, t = {times}d² ln² d")
    axes.legend()


def _curve(axes: Axes, index: int, dim: int, x: np.ndarray, y: np.ndarray, minimum: float) -> None:
    """Draw one objective through its refined minima, with a star at the lowest."""
    order, look = np.argsort(x), style(index, True)
    axes.plot(x[order], y[order], label=f"d = {dim}", **look)
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "black", "zorder": 3}
    axes.plot(x[y == minimum][:1], [minimum], color=look["color"], **star)


def _optimum_figure(record: Record) -> tuple[Figure, str]:
    figure, (left, right) = new_figure(columns=2, width=11, height=4.2)
    train, valid = _train(record, "wide"), _validation(record, 4)
    for index, dim in enumerate(record.config.dims):
        solid = style(index, True) | {"linestyle": "-"}
        open_dashed = solid | {"linestyle": "--", "markerfacecolor": "white"}
        cases = ((train, solid, "train-by-train"), (valid, open_dashed, "train-by-validation"))
        for found, look, mode in cases:
            rows = found["dim"] == dim
            x, y = found["horizon"][rows], found["step_size"][rows]
            left.plot(x, y, label=f"{mode}, d = {dim}", **look)
    left.set(xscale="log", yscale="log", xlabel="horizon t (steps)", ylabel="learned step size")
    left.set_title("Learned step sizes")
    left.legend(fontsize=8)
    for index, (label, (x, y)) in enumerate(_error_lines(record).items()):
        right.plot(x, y, label=label, **style(index, True))
    right.axhline(1, color="#777777", linewidth=1, label="|w*|², no training")
    right.set(xlabel="dimension d", ylabel="E|w - w*|² on fresh tasks", ylim=(0, None))
    right.set_xticks(record.config.dims)
    right.set_title("Distance to the truth")
    right.legend(fontsize=8, loc="center")
    text = (
        "The learned step sizes against the number of training steps t, for each dimension d; and "
        "how far from the true weights w* training with them ends on tasks that they were not "
        "tuned on. Below 1 is nearer than without training. The stated range is that of Theorem "
        "9, whose step sizes are so small that they need very many steps."
    )
    return figure, text


def _error_lines(record: Record) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label to (d, error) at the longest horizon of each case."""
    config, wide, stated = record.config, _train(record, "wide"), _train(record, "stated")
    multiple, long = max(config.multiples), config.long_multiple
    last = wide["horizon"] == multiple * wide["dim"]
    slow = stated["horizon"] == long * stated["dim"]
    lines = {
        f"train-by-train, every step size, t = {multiple} d (median)": (
            wide["dim"][last],
            wide["median_error"][last],
        ),
        f"train-by-train, stated range, t = {long:,} d (mean)": (
            stated["dim"][slow],
            stated["error"][slow],
        ),
    }
    for parts in (2, 4):
        found = _validation(record, parts)
        longest = [np.max(found["horizon"][found["dim"] == dim]) for dim in found["dim"]]
        last = found["horizon"] == longest
        label = f"train-by-validation, n₁ = d/{parts} (mean)"
        lines[label] = found["dim"][last], found["error"][last]
    return lines
