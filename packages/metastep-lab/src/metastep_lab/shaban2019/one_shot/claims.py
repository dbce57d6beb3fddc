"""What the tables of `one-shot` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, Table, select

SURE = 2.0  # standard errors
MARGIN = 0.02  # of accuracy, within which methods count as equal
TARGET = 0.9
PAPER_ACCURACY = {1: 95.6, 10: 96.3, 25: 96.1, 50: 95.8}  # Table 4, after 5000 steps
ENOUGH = 3  # repetitions to speak of a cause
DECAY = 0.1  # of the relative error from window 1 to half the horizon


def _methods(table: Table) -> list[str]:
    return list(dict.fromkeys(str(name) for name in table["method"]))


def _difference(record: Record, method: str, other: str) -> tuple[np.ndarray, float, float] | None:
    """Return differences of test accuracy by repetition, their mean and its standard error."""
    rows = select(record.tables["paired"], method=method, other=other)
    values = np.asarray(rows["difference"], float)
    if values.size == 0:
        return None
    within = np.sqrt(np.sum(np.asarray(rows["standard_error"], float) ** 2)) / values.size
    between = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else 0.0
    return values, float(values.mean()), float(max(within, between))


def _points(values: np.ndarray) -> str:
    return ", ".join(f"{100 * value:+.1f}" for value in values)


def answer(record: Record) -> str:
    """Say how well truncation does on new characters, and whether all of the learning does more."""
    config, table = record.config, record.tables["summary"]
    truncated, guess = f"{config.middle}-RMD", 1 / config.ways
    rows = select(table, method=truncated)
    mean, error = _mean_and_error(rows)
    able = mean - SURE * error > guess
    against = {name: _difference(record, truncated, name) for name in ("full", "short horizon")}
    labels = {"full": f"all {config.horizon}", "short horizon": "a single one"}
    words = "".join(
        f"; through {labels[name]} on {_mean_and_error(select(table, method=name))[0]:.3f} "
        f"(difference {found[1]:+.3f}±{found[2]:.3f})"
        for name, found in against.items()
        if found is not None
    )
    opening = _need(against["full"]) if able else "No, no better than guessing"
    return (
        f"{opening}. Tuned for {config.outer_steps} steps through the last {config.middle} of "
        f"{config.horizon} learning steps, it is right on {mean:.3f}±{error:.3f} of drawings of "
        f"characters that it never saw (guessing: {guess:.2f}){words}."
    )


def _mean_and_error(rows: Table) -> tuple[float, float]:
    """Return the mean accuracy over repetitions, and its standard error."""
    values = np.asarray(rows["accuracy"], float)
    within = np.sqrt(np.sum(np.asarray(rows["standard_error"], float) ** 2)) / values.size
    between = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else 0.0
    return float(values.mean()), float(max(within, between))


def _need(found: tuple[np.ndarray, float, float] | None) -> str:
    """Say whether the whole gradient is needed."""
    if found is None:
        return "Yes; whether it has to, this run cannot tell: it did not try"
    _, mean, error = found
    if mean - SURE * error > -MARGIN:
        return "Yes, and it does not have to"
    needs = mean + SURE * error < -MARGIN
    return "Yes, but it has to" if needs else "Yes, but whether it has to is undecided"


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Table 4 and Figure 7 against the tables."""
    return (
        _target_claim(record),
        _horizon_claim(record),
        _equality_claim(record),
        _cost_claim(record),
        _cosine_claim(record),
        _start_claim(record),
        _decay_claim(record),
        *_cause_claims(record),
    )


def _target_claim(record: Record) -> Claim:
    table = record.tables["summary"]
    rows = {name: select(table, method=name) for name in _methods(table)}
    means = {name: float(np.mean(row["accuracy"])) for name, row in rows.items()}
    best = max(means, key=means.__getitem__)
    error = float(np.max(rows[best]["standard_error"]))
    decides = record.config.outer_steps >= 1000 and record.config.test_tasks >= 100
    shown = ", ".join(
        f"{name} {100 * mean:.1f} (s.e. {100 * np.max(rows[name]['standard_error']):.1f})"
        for name, mean in means.items()
    )
    return Claim(
        "reaches-ninety",
        "Table 4: 95.6 to 96.3 % after 5000 steps with 64 channels and 1200 characters. Here: the "
        f"best method reaches {100 * TARGET:g} % on held-out characters, with a standard error "
        "below 1 point.",
        bool(means[best] >= TARGET and error < 0.01) if decides else None,
        f"accuracy in %, largest standard error of a repetition: {shown}; "
        f"{record.config.outer_steps} steps, {record.config.channels} channels",
    )


def _horizon_claim(record: Record) -> Claim:
    window = record.config.middle
    found = _difference(record, f"{window}-RMD", "short horizon")
    verdict, evidence = None, "needs the short horizon"
    if found is not None:
        values, mean, error = found
        verdict = _verdict(bool(np.all(values > 0)) and mean > SURE * error, mean < -SURE * error)
        evidence = (
            f"window {window} minus short horizon by repetition {_points(values)} points, mean "
            f"{100 * mean:+.1f}, standard error {100 * error:.1f}"
        )
    return Claim(
        "window-ten-beats-short-horizon",
        "Section 4.3: with the same number of outer steps a short horizon (T = 1) reaches a lower "
        "accuracy than truncation.",
        verdict,
        evidence,
    )


def _verdict(holds: bool, fails: bool) -> bool | None:
    return True if holds else False if fails else None


def _equality_claim(record: Record) -> Claim:
    found = {w: _difference(record, f"{w}-RMD", "full") for w in record.config.windows}
    known = {window: value for window, value in found.items() if value is not None}
    equal = [abs(mean) + SURE * error <= MARGIN for _, mean, error in known.values()]
    apart = [abs(mean) - SURE * error > MARGIN for _, mean, error in known.values()]
    text = "; ".join(
        f"K={window} {_points(values)} points, mean {100 * mean:+.1f} ± {100 * error:.1f}"
        for window, (values, mean, error) in known.items()
    )
    paper = ", ".join(f"K={window} {value}" for window, value in PAPER_ACCURACY.items())
    return Claim(
        "truncation-equals-full",
        f"Table 4: truncation reaches the accuracy of full reverse mode (there {paper} %; here: "
        f"within {100 * MARGIN:g} points after the same number of steps).",
        _verdict(bool(equal) and all(equal), any(apart)),
        f"minus full reverse mode: {text}" if text else "needs full reverse mode",
    )


def _cost_claim(record: Record) -> Claim:
    table = record.tables["summary"]
    seconds = {
        name: float(np.median(select(table, method=name)["seconds_per_step"]))
        for name in _methods(table)
    }
    first = f"{record.config.windows[0]}-RMD"
    known = "full" in seconds and record.config.windows[0] == 1
    ratio = seconds[first] / seconds["full"] if known else float("nan")
    shown = ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())
    return Claim(
        "window-one-is-cheaper",
        "Table 4: an outer step with window 1 takes 0.18 of the time of full reverse mode (there "
        "0.4 s and 2.2 s; here: at most 0.6).",
        bool(ratio <= 0.6) if known and np.isfinite(ratio) else None,
        f"seconds per outer step: {shown}" + (f"; ratio {ratio:.2f}" if known else ""),
    )


def _cosine_claim(record: Record) -> Claim:
    lowest = {}
    for window in record.config.windows:
        rows = select(record.tables["cosine"], method=f"{window}-RMD", window=window)
        lowest[window] = float(np.min(rows["cosine"]))
    text = ", ".join(f"K={window} {value:+.3f}" for window, value in lowest.items())
    return Claim(
        "cosines-are-positive",
        "Figure 7: the cosine of the truncated and the exact gradient is positive all along.",
        all(value > 0 for value in lowest.values()),
        f"smallest cosine on the way by window {text}; gradients averaged over "
        f"{record.config.gradient_tasks} tasks",
    )


def _start_claim(record: Record) -> Claim:
    method, horizon = f"{record.config.middle}-RMD", record.config.horizon
    rows = select(record.tables["cosine"], method=method, window=horizon)
    errors, angles = np.asarray(rows["relative_error"]), np.asarray(rows["cosine"])
    return Claim(
        "start-term-is-large",
        "Not in the paper: the derivative of the start (B_0), which no window has, is most of the "
        "exact gradient (here: without it alone the relative error is at least 0.5 at every "
        "measured point).",
        bool(np.all(errors >= 0.5)) if record.config.repetitions >= ENOUGH else None,
        f"window {horizon} against the exact gradient along {method}: relative error "
        f"{errors.min():.2f} to {errors.max():.2f}, cosine {angles.min():+.2f} to "
        f"{angles.max():+.2f}, {record.config.repetitions} repetitions",
    )


def _depth(record: Record, point: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return windows and the relative error, median over repetitions."""
    rows = select(record.tables["depth"], point=point, regularization=kind)
    windows = np.unique(rows["window"])
    errors = [np.median(rows["relative_error"][rows["window"] == window]) for window in windows]
    return windows, np.array(errors)


def _decay_claim(record: Record) -> Claim:
    shown, factors = [], {}
    for kind in ("tuned", "none", "strong"):
        windows, errors = _depth(record, "tuned", kind)
        half = np.argmin(np.abs(windows - record.config.horizon / 2))
        factors[kind] = errors[half] / errors[0]
        listed = ", ".join(f"K={int(w)} {e:.2g}" for w, e in zip(windows, errors, strict=True))
        shown.append(f"{kind} {listed}")
    return Claim(
        "error-decays-with-regularization",
        "Figure 7: the relative error decays exponentially with the window when the inner problem "
        "is regularized, and not when it is not (here: at half the horizon at most "
        f"{DECAY:g} of that of window 1, at tuned hyperparameters).",
        bool(factors["tuned"] <= DECAY < factors["none"]),
        "relative error by window, regularization " + "; ".join(shown),
    )


def _accuracy_at(record: Record, method: str, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test accuracies at a point of the curve and their standard errors, by repetition."""
    rows = select(record.tables["curve"], method=method, step=step, split="test")
    return np.asarray(rows["accuracy"], float), np.asarray(rows["standard_error"], float)


def _cause_claims(record: Record) -> tuple[Claim, ...]:
    """Say which change of full reverse mode closes its gap to truncation."""
    config, window = record.config, record.config.middle
    if not (config.study and config.full):
        return ()
    step, truncated = config.study_steps, f"{window}-RMD"
    before = _gap(record, truncated, "full", step)
    lags = config.repetitions >= ENOUGH and before[1] > SURE * before[2]
    found = []
    for name, what, better, other in (
        (
            "start-term-holds-back",
            "leaving out the derivative of the start (B_0)",
            truncated,
            "full, start detached",
        ),
        ("clipping-helps", "clipping the gradient", truncated, "full, clipped"),
        (
            "normalization-holds-back",
            "taking the normalization out of the head of both",
            f"{truncated}, plain head",
            "full, plain head",
        ),
    ):
        after = _gap(record, better, other, step)
        closed = 1 - after[1] / before[1] if before[1] else float("nan")
        found.append(
            Claim(
                name,
                f"Not in the paper: full reverse mode lags behind window {window}, and {what} "
                "closes at least half of the gap in every repetition.",
                bool(np.all(after[0] <= before[0] / 2)) if lags else None,
                f"window {window} minus full after {step} steps: {_points(before[0])} points; "
                f"with the change {_points(after[0])} points ({100 * closed:.0f} % closed); "
                f"accuracies {_levels(record, (truncated, 'full', better, other), step)}",
            )
        )
    return tuple(found)


def _gap(record: Record, method: str, other: str, step: int) -> tuple[np.ndarray, float, float]:
    first, first_error = _accuracy_at(record, method, step)
    second, second_error = _accuracy_at(record, other, step)
    errors = np.sqrt(np.sum(first_error**2 + second_error**2)) / first.size
    return first - second, float(np.mean(first - second)), float(errors)


def _levels(record: Record, methods: tuple[str, ...], step: int) -> str:
    means = {name: _accuracy_at(record, name, step)[0].mean() for name in dict.fromkeys(methods)}
    return ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 7 and, where it was run, the study of full reverse mode."""
    names = _methods(record.tables["summary"])
    study = [name for name in names if "," in name]
    found = {"figure-7": _main_figure(record, [name for name in names if name not in study])}
    if study:
        shown = [f"{record.config.middle}-RMD", "full", *study]
        found["study"] = _study_figure(record, [name for name in shown if name in names])
    return found


def _curve(record: Record, names: list[str], column: str, split: str, **labels: str) -> Lines:
    """Return a panel of means over repetitions with bands from the smallest to the largest."""
    series, bands = {}, {}
    for name in names:
        rows = select(record.tables["curve"], method=name, split=split)
        steps = np.unique(rows["step"])
        values = np.array([rows[column][rows["step"] == step] for step in steps])
        series[name] = steps, values.mean(axis=1)
        bands[name] = values.min(axis=1), values.max(axis=1)
    return Lines(series, "outer step", labels["y"], labels["title"], bands=bands)


def _main_figure(record: Record, names: list[str]) -> tuple[Figure, str]:
    cosines, cosine_table = {}, record.tables["cosine"]
    for window in record.config.windows:
        rows = select(cosine_table, method=f"{window}-RMD", window=window)
        steps = np.unique(rows["step"])
        mean = [rows["cosine"][rows["step"] == step].mean() for step in steps]
        cosines[f"{window}-RMD"] = steps, np.array(mean)
    depth = {}
    for kind, label in (("tuned", "as tuned"), ("none", "none"), ("strong", "strong")):
        depth[label] = _depth(record, "tuned", kind)
    figure = line_figure(
        _curve(record, names, "accuracy", "test", y="accuracy", title="Held-out characters"),
        _curve(record, names, "loss", "validation", y="cross-entropy (nats)", title="Validation"),
        Lines(cosines, "outer step", "cosine", "Truncated and exact gradient"),
        Lines(
            depth,
            "window K",
            "relative error",
            "Truncation error after tuning",
            y_log=True,
            legend_title="regularization",
        ),
    )
    text = (
        "Accuracy on held-out characters and loss on validation characters against the outer step, "
        "mean and range over repetitions, for a window of K inner steps (K-RMD), all of them "
        "(full) and training of one step (short horizon); cosine of the truncated and the exact "
        "gradient on the way; and relative error of the truncated gradient against the window at "
        "tuned hyperparameters, with the regularization as tuned, none, and strong."
    )
    return figure, text


def _study_figure(record: Record, names: list[str]) -> tuple[Figure, str]:
    norms = {}
    for name in names:
        rows = select(record.tables["training"], method=name)
        steps = np.unique(rows["step"])
        steps = steps[steps <= record.config.study_steps]
        mean = [np.median(rows["gradient_norm"][rows["step"] == step]) for step in steps]
        norms[name] = steps, np.array(mean)
    curve = _curve(record, names, "accuracy", "test", y="accuracy", title="Held-out characters")
    figure = line_figure(
        curve,
        Lines(norms, "outer step", "norm of the estimate", "Gradient (median)", y_log=True),
        shared_legend=True,
    )
    text = (
        "What changes full reverse mode, one thing at a time: accuracy on held-out characters, "
        "mean and range over repetitions, and the norm of the estimated gradient. Start detached "
        "leaves out how the gradient depends on the start, clipped limits its norm, plain head "
        "has no normalization in the last layers."
    )
    return figure, text
