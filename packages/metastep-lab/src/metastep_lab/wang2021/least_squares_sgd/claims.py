"""The claims of `least-squares-sgd`, statements of the paper, and its answer."""

import numpy as np

from metastep_lab.claims import Numbers, Statement, lacking, span
from metastep_lab.tables import Frame, Record
from metastep_lab.theory import least_squares_sgd as theory

# What "the same up to a constant" and "at least a constant" mean here: the paper gives none for the
# step sizes, and 1 / (128 L) = 8e-5 for the error over the noise variance.
FACTOR = 4.0
LEAST_NOISE_SHARE = 0.1
LEAST_GAIN = 0.01
LARGEST_Z = 5.0


def train(record: Record, region: str) -> Frame:
    """Return the rows of `optimum` of train-by-train in a range, `stated` or `wide`."""
    return record.rows("optimum", mode="train-by-train", range=region)


def validation(record: Record, parts: int, region: str = "stated") -> Frame:
    """Return the rows of train-by-validation that descends on d / parts examples."""
    rows = record.rows("optimum", mode="train-by-validation", range=region)
    return rows[rows["samples"] * parts == rows["dim"]]


def is_long(record: Record, rows: Frame) -> Frame:
    """Return a mask of the rows of train-by-train with the long horizon."""
    return rows["horizon"] == record.config.long_multiple * rows["dim"]


def _by_dim(rows: Frame, column: str) -> str:
    return "; ".join(f"d={int(dim)} {span(values)}" for dim, values in rows.groupby("dim")[column])


def answer(record: Record) -> str:
    """Say the size of either step size, and its error."""
    # d / 4 examples to descend on and d / 4 to validate: the same n = d / 2 as train-by-train has.
    trained, validated = train(record, "wide"), validation(record, 4)
    near, far = validated["error"], trained["median_error"]
    error = validated["standard_error"].max(skipna=False)
    if not np.all(np.isfinite([*near, *far, error])):
        return "This run cannot tell: some of its averages grew beyond every number."
    if near.max() + 2 * error < far.min():
        only = near.max() + 2 * error < 1 < far.min()
        opening = f"{'Only t' if only else 'T'}he one from validation loss generalizes"
        opening += "" if only else " better"
    elif near.min() - 2 * error > far.max():
        opening = "The one from training loss generalizes better"
    else:
        opening = "This run cannot tell which generalizes better"
    return (
        f"{opening}. Validation loss chooses {span(validated['step_size_times_horizon'])} divided "
        f"by the number of steps, which ends at a squared distance of {span(near)} (±{error:.2g}"
        f") from the true weights; training loss {span(trained['step_size_times_dim'])} divided "
        f"by the number of weights, which ends at {span(far)}. Without training it is 1."
    )


def _same(rows: Frame, column: str) -> bool:
    """Whether a column is the same up to the factor, and no minimizer is an end of its range."""
    # A minimizer at an end of its range says where the range ends, not where the objective does.
    values = rows[column]
    return values.max() <= FACTOR * values.min() and not rows["at_boundary"].any()


def _stated_range(record: Record) -> Numbers:
    """Compare the minimizers in the range of Theorem 9 with those over every step size."""
    cell = ["dim", "horizon"]
    wide, stated = train(record, "wide").set_index(cell), train(record, "stated")
    limits = [theory.train_by_train_range(int(dim)) for dim in stated["dim"]]
    short = stated[~is_long(record, stated)].set_index(cell)
    return {
        "ends": stated["at_boundary"].astype(bool),
        "at_limit": np.isclose(stated["step_size"], limits),
        "scaled": span(stated["step_size_times_dim"]),
        "larger": span(wide["step_size"] / short["step_size"]),
        "beyond": span(wide["objective"] / short["objective"]),
        "fall": span(1 - short["error"]),
    }


def _train_errors(record: Record) -> Numbers:
    variance = record.config.noise**2
    wide, stated = train(record, "wide"), train(record, "stated")
    long = is_long(record, stated)
    return {
        # The first percentile over tasks stands for "with probability 0.99". In the stated range
        # with the shorter t it would be decided by w = 0, at which nothing was learned.
        "low": np.append(wide["low_error"], stated["low_error"][long]) / variance,
        "medians": wide["median_error"] / variance,
        "long": stated["error_over_noise_variance"][long],
        "short": stated["error_over_noise_variance"][~long],
    }


def _validated(record: Record) -> dict[int, tuple[Frame, Frame]]:
    """Return the minimizers in the stated range and over every step size, by d / examples."""
    return {
        parts: (validation(record, parts), validation(record, parts, "wide")) for parts in (2, 4)
    }


def _order_1_over_t(found: dict[int, tuple[Frame, Frame]]) -> bool:
    return all(
        _same(stated, "step_size_times_horizon")
        # Both are refined to about 0.01 in the logarithm, each between neighbors of its own grid.
        and np.allclose(stated["step_size"], wide["step_size"], rtol=0.1)
        for stated, wide in found.values()
    )


def _gains(record: Record) -> dict[int, Frame]:
    rows = {parts: validation(record, parts) for parts in (2, 4)}
    return {parts: found.assign(gain=1 - found["error"]) for parts, found in rows.items()}


def _compared(record: Record) -> Numbers:
    """Return the errors of both modes for each d; the weights of `moved` differ from the start."""
    trained = record.rows("optimum", mode="train-by-train")
    moved = trained[(trained["range"] == "wide") | is_long(record, trained)]
    return {
        "validated": validation(record, 4).groupby("dim")["error"].max(),
        # Train-by-train by its median, the smallest of all its cases: at the wide minimizers the
        # mean is that of a few diverging tasks, and would decide for the claim by itself.
        "trained": trained.groupby("dim")["median_error"].min(),
        "moved": moved.groupby("dim")["median_error"].agg(span),
    }


CLAIMS = (
    Statement(
        "train-by-train-step-size",
        "Theorem 9: eta_train is of order 1/d. Here: minimized over every step size, eta_train "
        f"* d is the same within a factor {FACTOR:g} for all d and t, and no end of the range.",
        lacks=lacking("needs two dimensions", lambda record: len(record.config.dims) > 1),
        measure=lambda record: train(record, "wide"),
        verdict=lambda rows: _same(rows, "step_size_times_dim"),
        evidence=lambda rows: (
            f"eta_train * d over the horizons: {_by_dim(rows, 'step_size_times_dim')}"
        ),
    ),
    Statement(
        "train-by-train-stated-range",
        "In the range of Theorem 9, eta up to 1 / (2 L^3 d) with L = 100, the objective falls "
        "up to the end: eta_train is of order 1/d there because the range ends there.",
        measure=_stated_range,
        verdict=lambda found: np.all(found["ends"] & found["at_limit"]),
        evidence=lambda found: (
            f"the minimizer is the upper end in {found['ends'].sum()} of {found['ends'].size} "
            "cases, eta d = {scaled}; beyond it, at step sizes larger by a factor of {larger}, the "
            "objective falls on to {beyond} of its value. In these horizons the weights hardly "
            "move at the stated end: E|w - w*|^2 falls from 1 by {fall}".format(**found)
        ),
    ),
    Statement(
        "train-by-train-error",
        lambda record: (
            "Theorem 9: with probability 0.99 over the test task the learned step size leaves "
            f"E|w - w*|^2 of order sigma^2 (here: at least {LEAST_NOISE_SHARE:g} sigma^2 in 99 of "
            f"100 tasks, over every step size and, with t = {record.config.long_multiple:,} d, in "
            "the stated range)."
        ),
        measure=_train_errors,
        verdict=lambda found: found["low"].min() >= LEAST_NOISE_SHARE,
        evidence=lambda found: (
            "first percentile {low} sigma^2; median {medians} sigma^2 over every step size; mean "
            "{long} sigma^2 in the stated range with the long t. With shorter t the weights do not "
            "move in the stated range and the error over sigma^2, {short}, is that of w = 0".format(
                **{name: span(values) for name, values in found.items()}
            )
        ),
    ),
    Statement(
        "unrestricted-step-size-diverges",
        "Why Appendix D restricts the step size: the minimizer over every step size is so "
        "close to divergence that on some fresh tasks E|w - w*|^2 grows without bound.",
        measure=lambda record: train(record, "wide"),
        verdict=lambda rows: (rows["diverging"] > 0).any(),
        evidence=lambda rows: (
            f"fraction of fresh tasks: {_by_dim(rows, 'diverging')}; mean error up to "
            f"{rows['error'].max():.2g} while the medians are at most "
            f"{rows['median_error'].max():.3g}"
        ),
    ),
    Statement(
        "train-by-validation-step-size",
        "Theorem 10: eta_valid is of order 1/t. Here, with the population loss in place of a "
        "validation set (drawn ones, and the truncation: step-size-guarantees): for either number "
        f"of examples eta_valid * t is the same within a factor {FACTOR:g} for all d and t, "
        "inside the stated range (with c_5 = 1), and the minimizer over every step size as well.",
        lacks=lacking(
            "needs two dimensions or two horizons",
            lambda record: len(record.config.dims) * len(record.config.validation_multiples) > 1,
        ),
        measure=_validated,
        verdict=_order_1_over_t,
        evidence=lambda found: (
            "eta_valid * t over the horizons: "
            + "; ".join(
                f"n_1 = d/{parts}: {_by_dim(stated, 'step_size_times_horizon')}"
                for parts, (stated, _) in found.items()
            )
        ),
    ),
    Statement(
        "train-by-validation-error",
        "Theorem 10: E|w - w*|^2 is below |w*|^2 = 1 by a constant on fresh tasks (here: by at "
        f"least {LEAST_GAIN:g} and two standard errors).",
        measure=_gains,
        verdict=lambda found: all(
            np.all(rows["gain"] >= np.maximum(LEAST_GAIN, 2 * rows["standard_error"]))
            for rows in found.values()
        ),
        evidence=lambda found: (
            "1 - E|w - w*|^2 over the horizons: "
            + "; ".join(
                f"n_1 = d/{parts}: {_by_dim(rows, 'gain')} (standard error at most "
                f"{rows['standard_error'].max():.2g})"
                for parts, rows in found.items()
            )
        ),
    ),
    Statement(
        "validation-generalizes-better",
        "Theorems 9 and 10 together: of n = d/2 examples in all, descending on half and choosing "
        "the step size by the other half ends nearer to w* than descending on all and choosing it "
        "by the training loss (here: the mean of the first is below the median of the second, at "
        "every t and range).",
        measure=_compared,
        verdict=lambda found: (found["validated"] < found["trained"]).all(),
        evidence=lambda found: (
            "E|w - w*|^2, train-by-validation (largest) against train-by-train (where t is long "
            "enough for the weights to move): "
            + "; ".join(
                f"d={int(dim)} {error:.3g} against {found['moved'][dim]}"
                for dim, error in found["validated"].items()
            )
        ),
    ),
    Statement(
        "simulation-agrees",
        "Not in the paper: the exact expectations are those of stochastic gradient descent; the "
        f"means of simulated runs are within {LARGEST_Z:g} standard errors.",
        measure=lambda record: {
            "z": record.frames["simulation"]["z"],
            "scores": ", ".join(f"{z:.2f}" for z in record.frames["simulation"]["z"]),
        },
        verdict=lambda found: (found["z"].abs() < LARGEST_Z).all(),
        evidence="{config.simulations} runs: z = {scores}",
    ),
)
