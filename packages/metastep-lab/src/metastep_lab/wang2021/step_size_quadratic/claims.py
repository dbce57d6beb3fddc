"""What the tables of `step-size-quadratic` say about the paper's statements."""

from collections.abc import Iterator

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.tables import Record, Table
from metastep_lab.theory import quadratic_step_size as theory

CLOSE = 0.1
# Tables 1-2: (t, eta_0) to whether "Ours", "Tensorflow GD" and "Tensorflow RMSProp" converge. For
# GD at t = 10 the earlier version prints a tick and the thesis (Table D.1) a cross: here a cross.
PAPER = {
    (10, 0.1): (True, False, True),
    (20, 0.1): (True, False, True),
    (40, 0.1): (True, False, False),
    (80, 0.1): (True, False, False),
    (40, 0.001): (True, False, True),
    (40, 0.01): (True, False, True),
    (40, 1.0): (True, False, False),
}
FLOAT32 = np.finfo(np.float32)

Rows = dict[str, np.ndarray]


def rows(table: Table, **conditions: object) -> Rows:
    """Return the rows of a table whose named columns equal the given values."""
    keep = np.full(len(next(iter(table.values()))), True)
    for name, value in conditions.items():
        keep &= np.asarray(table[name]) == value
    return {name: np.asarray(column)[keep] for name, column in table.items()}


def _cells(table: Table) -> Iterator[tuple[int, float, dict[str, object]]]:
    """Yield horizon, start and the row for every row of a part of `convergence`."""
    for index, (horizon, start) in enumerate(zip(table["horizon"], table["start"], strict=True)):
        yield int(horizon), float(start), {name: column[index] for name, column in table.items()}


def _name(horizon: float, start: float) -> str:
    return f"(t = {int(horizon)}, eta_0 = {start:g})"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _problem(record: Record) -> tuple[np.ndarray, np.ndarray]:
    return record.arrays["hessian"], record.arrays["start"]


def shown_cell(record: Record) -> tuple[int, float]:
    """Return the horizon and start of Figure 1: the largest t, and the start nearest to 0.1."""
    starts = record.config.start_step_sizes
    return max(record.config.horizons), min(starts, key=lambda start: abs(start - 0.1))


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the paper's statements about tuning a step size against the tables."""
    return (
        _within_300(record),
        _converges(record),
        _settles(record),
        _accuracy(record),
        _overflow(record),
        _float64(record),
        _gradient_descent(record),
        _rmsprop(record),
        _exact_gradient_descent(record),
        _exact_rmsprop(record),
        _second_derivatives(record),
        _bounded(record),
        _limit(record),
    )


def _undecided(record: Record, *methods: str) -> str | None:
    lacking = [name for name in methods if name not in record.config.methods]
    return f"this run lacks the method {lacking[0]}" if lacking else None


def _convergence(record: Record, method: str) -> Rows:
    return rows(record.tables["convergence"], method=method)


def _within_300(record: Record) -> Claim:
    text = (
        "Section 5, Figure 1: with t = 80 and eta_0 = 0.1, eta converges quickly within 300 steps, "
        "and similarly elsewhere (here: to within 10% of eta* after 300 updates, in the largest t "
        "and the start nearest to 0.1)."
    )
    why = _undecided(record, "log-domain")
    if why is None and record.config.meta_steps < 300:
        why = f"this run has {record.config.meta_steps} updates"
    if why is not None:
        return Claim("figure-1-within-300-steps", text, None, why)
    found = _convergence(record, "log-domain")
    horizon, start = shown_cell(record)
    here = rows(found, horizon=horizon, start=start)
    predicted = rows(record.tables["optimum"], horizon=horizon)["predicted_steps"].item()
    within = found["relative_error_300"] < CLOSE
    after = here["relative_error_300"].item()
    return Claim(
        "figure-1-within-300-steps",
        text,
        after < CLOSE,
        f"{_name(horizon, start)}: |eta - eta*| / eta* is {after:.3g} after 300 updates, "
        f"{here['relative_error_1000'].item():.3g} after 1000, at most "
        f"{here['relative_error_last'].item():.3g} in the last 100; the meta step size is small "
        f"enough to settle only after {predicted:.0f} updates. Within 10% after 300 updates: "
        f"{np.sum(within)} of {within.size} cells",
    )


def _converges(record: Record) -> Claim:
    text = (
        "Theorem 4, Tables 1-2, row 'ours': with the exact meta-gradient and meta step sizes "
        "scale / sqrt(k) eta always converges to eta* (here: within 10% in the last 100 updates)."
    )
    if why := _undecided(record, "log-domain"):
        return Claim("exact-meta-gradient-converges", text, None, why)
    found = _convergence(record, "log-domain")
    off = [
        f"{_name(horizon, start)} {row['status']}, error {row['relative_error_last']:.2g}"
        for horizon, start, row in _cells(found)
        if row["status"] != "converged"
    ]
    return Claim(
        "exact-meta-gradient-converges",
        text,
        not off,
        f"{found['start'].size - len(off)} of {found['start'].size} cells converged, the largest "
        f"error is {np.max(found['relative_error_last']):.2g}; not: {_listed(off)}",
    )


def _settles(record: Record) -> Claim:
    text = (
        "What keeps eta from settling is the meta step: once mu_k F''(eta*) < 2, that is after "
        "k* = (scale F''(eta*) / 2)^2 updates, eta locks to eta* (here: to 1e-6 where k* is below "
        "four fifths of the updates)."
    )
    if why := _undecided(record, "log-domain"):
        return Claim("settles-where-predicted", text, None, why)
    found, optimum = _convergence(record, "log-domain"), record.tables["optimum"]
    predicted = dict(zip(optimum["horizon"], optimum["predicted_steps"], strict=True))
    early = np.array([predicted[t] for t in found["horizon"]]) < 0.8 * record.config.meta_steps
    evidence = "; ".join(
        f"t = {int(t)}: k* = {k:.0f}, error in the last 100 updates up to "
        f"{np.max(rows(found, horizon=t)['relative_error_last']):.2g}"
        for t, k in predicted.items()
    )
    settled = bool(np.all(found["relative_error_last"][early] < 1e-6)) if early.any() else None
    return Claim("settles-where-predicted", text, settled, evidence)


def _accuracy(record: Record) -> Claim:
    table, words, good = record.tables["accuracy"], [], True
    for method, tolerance in (("log-domain", 1e-10), ("log-domain-float32", 1e-3)):
        worst = np.max(rows(table, method=method)["relative_error"])
        good &= bool(worst < tolerance)
        words.append(f"{method} at most {worst:.2g}")
    for method in ("reverse-float32", "reverse-float64"):
        parts = []
        for horizon in record.config.horizons:
            off = rows(table, method=method, horizon=horizon)["relative_error"]
            parts.append(f"{np.mean(off < 0.01):.2f} at t = {horizon}")
        words.append(f"{method} within 1% in a share of {', '.join(parts)}")
    return Claim(
        "log-domain-is-exact",
        "Section 3: the rescaled meta-gradient is finite and exact at every step size from 0.001 "
        "to 10 (here: relative error below 1e-10 in float64, 1e-3 in float32), where "
        "back-propagation through log f is not.",
        good,
        "relative errors: " + "; ".join(words),
    )


def _unusable(path: Rows) -> np.ndarray:
    """Mark the updates that moved nothing: F or F' is not finite, or F' is zero."""
    finite = np.isfinite(path["meta_gradient"]) & np.isfinite(path["meta_objective"])
    return ~finite | (path["meta_gradient"] == 0)


def _overflow(record: Record) -> Claim:
    text = (
        "Corollary 1: back-propagation fails for numerical reasons. In float32 it gets stuck where "
        "f(w_t) ~ (eta L - 1)^{2t} L |w_0|^2 leaves the range, above 3.4e38 or already above "
        "8.5e37 / 2t, where the adjoint 1 / (2 t f) underflows to zero: at once if eta_0 is there, "
        "else when the descent first steps there; and nowhere else."
    )
    if why := _undecided(record, "reverse-float32"):
        return Claim("float32-stuck-by-overflow", text, None, why)
    good, at_once, later, free = True, [], [], []
    for horizon, start, row in _cells(_convergence(record, "reverse-float32")):
        place: dict[str, object] = {"horizon": horizon, "start": start}
        path = rows(record.tables["trajectory"], method="reverse-float32", **place)
        size = theory.meta_objective(path["step_size"], *_problem(record), horizon) * horizon
        size, idle = size / np.log(10), _unusable(path)
        # A tenth of a decade for rounding, and for what the processor does with tiny numbers.
        lost, end = -np.log10(2 * horizon * FLOAT32.tiny) - 0.1, np.log10(FLOAT32.max) + 0.1
        good &= bool(np.all(idle[size > end]) and not np.any(idle[np.abs(size) < lost]))
        stuck = row["status"] == "stuck"
        good &= bool(size[-1] > lost) if stuck else bool(size[-1] < end)
        name, first = f"{_name(horizon, start)} 10^{size[-1]:.1f}", int(np.argmax(idle))
        group = free if not stuck else later if first else at_once
        group.append(f"{name} after {first} updates" if group is later else name)
    table, limit = record.tables["overflow"], np.log10(FLOAT32.max)
    differ = (table["log10_bound"] > limit) != (table["log10_loss"] > limit)
    cells = zip(table["horizon"][differ], table["start"][differ], strict=True)
    return Claim(
        "float32-stuck-by-overflow",
        text,
        good,
        f"f(w_t) at the last step size: stuck at once {_listed(at_once)}; stuck later "
        f"{_listed(later)}; not stuck {_listed(free)}. The estimate with |w_0| in place of its "
        "component along the eigenvector of L is above 3.4e38, and f is not, at "
        f"{_listed([_name(*cell) for cell in cells])}",
    )


def _float64(record: Record) -> Claim:
    text = (
        "In float64 back-propagation of log f with the paper's own meta step sizes does what the "
        "exact meta-gradient does, as long as f(w_t) stays below 1e305 (t up to 80, eta_0 up to 1 "
        "where L is below 80): every F' on the way is usable, and exact to 1e-6 of the largest."
    )
    if why := _undecided(record, "log-domain", "reverse-float64"):
        return Claim("float64-agrees", text, None, why)
    ours, theirs = (_convergence(record, name) for name in ("log-domain", "reverse-float64"))
    worst, idle, outside = 0.0, 0, 0
    for horizon, start, _ in _cells(theirs):
        place: dict[str, object] = {"horizon": horizon, "start": start}
        path = rows(record.tables["trajectory"], method="reverse-float64", **place)
        size = theory.meta_objective(path["step_size"], *_problem(record), horizon) * horizon
        inside = np.abs(size / np.log(10)) < 305
        exact = theory.meta_gradient(path["step_size"], *_problem(record), horizon)
        off = np.abs(path["meta_gradient"] - exact)[inside] / np.max(np.abs(exact))
        worst, outside = max(worst, np.max(off, initial=0.0)), outside + int(np.sum(~inside))
        idle += int(np.sum(_unusable(path)[inside]))
    same = ours["status"] == theirs["status"]
    ratio = theirs["relative_error_last"] / np.maximum(ours["relative_error_last"], 1e-15)
    return Claim(
        "float64-agrees",
        text,
        bool(idle == 0 and worst < 1e-6),
        f"{idle} updates without a usable F', and {outside} beyond 1e305; F' is off by at most "
        f"{worst:.2g} of the largest; same status in {np.sum(same)} of {same.size} cells, where "
        f"the largest errors of the last 100 updates agree to a median factor of "
        f"{np.median(ratio):.3g}",
    )


def _paper_cells(record: Record, method: str, column: int) -> tuple[list[bool], list[str]]:
    """Hold one row of Tables 1-2 against a method, cell by cell."""
    agree, words = [], []
    for horizon, start, row in _cells(_convergence(record, method)):
        if (horizon, start) in PAPER:
            expected = PAPER[horizon, start][column]
            agree.append(expected == (row["status"] == "converged"))
            words.append(
                f"{_name(horizon, start)} paper {'yes' if expected else 'no'}, here "
                f"{row['status']} ({row['relative_error_last']:.2g})"
            )
    return agree, words


def _table_claim(record: Record, name: str, text: str, kind: str, column: int) -> Claim:
    methods = (f"reverse-{kind}", f"stop-gradient-{kind}")
    why = _undecided(record, *methods)
    agree, evidence = [], []
    for method in () if why else methods:
        matches, words = _paper_cells(record, method, column)
        agree += matches
        evidence.append(f"{method}: {'; '.join(words)}")
    if not agree:
        return Claim(name, text, None, why or "this run has none of the cells of Tables 1-2")
    summary = f"{sum(agree)} of {len(agree)} cells agree. " + ". ".join(evidence)
    return Claim(name, text, all(agree), summary)


def _gradient_descent(record: Record) -> Claim:
    text = (
        "Tables 1-2, row 'Tensorflow GD': it converges in no cell, with or without second "
        "derivatives (here: not within 10% in the last 100 updates). For t = 10 the earlier "
        "version prints a tick and the thesis, which is followed, a cross."
    )
    return _table_claim(record, "tables-1-2-gd", text, "constant", 1)


def _rmsprop(record: Record) -> Claim:
    text = (
        "Tables 1-2, row 'Tensorflow RMSProp': it converges for t = 10 and 20 from eta_0 = 0.1 and "
        "for t = 40 from eta_0 = 0.001 and 0.01, and nowhere else, with or without second "
        "derivatives."
    )
    return _table_claim(record, "tables-1-2-rmsprop", text, "rmsprop", 2)


def _exact_gradient_descent(record: Record) -> Claim:
    text = (
        "What the gradient descent of Tables 1-2 measures is its meta step size: with the exact "
        "meta-gradient in its place it converges in no cell either."
    )
    if why := _undecided(record, "log-domain-constant"):
        return Claim("gd-fails-with-the-exact-gradient", text, None, why)
    found = _convergence(record, "log-domain-constant")
    off = found["relative_error_last"]
    return Claim(
        "gd-fails-with-the-exact-gradient",
        text,
        bool(np.all(found["status"] == "oscillating")),
        f"|eta - eta*| / eta* reaches {np.min(off):.3g} to {np.max(off):.3g} in the last 100 "
        f"updates; statuses: {_listed(sorted(set(found['status'])))}",
    )


def _exact_rmsprop(record: Record) -> Claim:
    text = (
        "What the RMSProp of Tables 1-2 measures is overflow: with the exact meta-gradient in its "
        "place nothing gets stuck, and every descent from 0.1 or below converges to within 10%, "
        "as the cells of the tables have to."
    )
    if why := _undecided(record, "log-domain-rmsprop"):
        return Claim("rmsprop-with-the-exact-gradient", text, None, why)
    found = _convergence(record, "log-domain-rmsprop")
    near = found["relative_error_last"][found["start"] <= 0.1]
    stuck = np.sum(found["status"] == "stuck")
    return Claim(
        "rmsprop-with-the-exact-gradient",
        text,
        bool(stuck == 0 and np.all(near < CLOSE)) if near.size else None,
        f"{stuck} of {found['start'].size} cells stuck; largest error of the last 100 updates from "
        f"eta_0 <= 0.1: {np.max(near, initial=0.0):.3g}; from larger starts: "
        f"{np.max(found['relative_error_last'][found['start'] > 0.1], initial=0.0):.3g}",
    )


def _second_derivatives(record: Record) -> Claim:
    table = record.tables["stop_gradient"]
    ratio = table["stop_gradient"] / table["true"]
    horizon = shown_cell(record)[0]
    here = rows(table, horizon=horizon)
    cells = "; ".join(
        f"eta = {step:g}: {true:.4g} true, {left:.4g} without"
        for _, step, true, left in zip(*here.values(), strict=True)
    )
    return Claim(
        "second-derivatives-off-is-the-same-setting",
        "Appendix F of the earlier version: turning off second derivatives 'ensures that the "
        "experiments have exactly the same settings' (here: d log f / d eta changes by less than "
        "1%).",
        bool(np.all(np.abs(ratio - 1) < 0.01)),
        f"without over true derivative from {np.min(ratio):.3g} to {np.max(ratio):.3g}; "
        f"t = {horizon}: {cells}",
    )


def _bounded(record: Record) -> Claim:
    bound = theory.meta_gradient_bound(*_problem(record))
    table = record.tables["trajectory"]
    ours = np.char.startswith(table["method"], "log-domain") & (table["step_size"] >= 0)
    slopes = np.abs(table["meta_gradient"][ours])
    grid = rows(record.tables["accuracy"], method="log-domain")["meta_gradient"]
    largest = np.nanmax(np.append(slopes, np.abs(grid)))
    return Claim(
        "meta-gradient-bounded",
        "Claim 2: |F'(eta)| <= 4 L^3 / (c_min^2 alpha (L - alpha)) for every eta >= 0, whatever t.",
        bool(largest <= bound),
        f"largest |F'| along the descents and on the grid {largest:.4g}, bound {bound:.3g}: true "
        f"and loose by a factor of {bound / largest:.2g}",
    )


def _limit(record: Record) -> Claim:
    table = record.tables["limit"]
    gap = np.abs(table["optimal_step_size"] / table["limit"] - 1)
    values = ", ".join(
        f"{best:.6g} at t = {int(horizon)}"
        for horizon, best in zip(table["horizon"], table["optimal_step_size"], strict=True)
    )
    return Claim(
        "optimum-tends-to-its-limit",
        "Figure 2 of the earlier version: eta* depends on t; as t grows it tends to 2 / (L + "
        "alpha), and at t = 5000 it is within 5% and nearer than at t = 10.",
        bool(gap[-1] < min(0.05, gap[table["horizon"] == 10].item())),
        f"eta* is {values}; the limit is {table['limit'][0]:.6g}",
    )
