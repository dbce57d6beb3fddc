"""The numbers that decide the statements of `step-size-quadratic`."""

from collections.abc import Iterator, Sequence

import numpy as np

from metastep_lab.claims import Numbers, each
from metastep_lab.tables import Frame, Record, where
from metastep_lab.theory import quadratic_step_size as theory

# Ours: the paper's check marks have no threshold.
CLOSE = 0.1
FIGURE_1 = 300
"""Updates within which Figure 1 converges."""
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


def _name(horizon: float, start: float) -> str:
    return f"(t = {int(horizon)}, eta_0 = {start:g})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _problem(record: Record) -> tuple[np.ndarray, np.ndarray]:
    return record.arrays["hessian"], record.arrays["start"]


def descents(record: Record, method: str) -> Frame:
    """Return the rows of `convergence` of a method, with the names of their cells."""
    rows = record.rows("convergence", method=method)
    return rows.assign(name=list(map(_name, rows["horizon"], rows["start"])))


def shown_cell(record: Record) -> tuple[int, float]:
    """Return the horizon and start of Figure 1: the largest t, and the start nearest to 0.1."""
    starts = record.config.start_step_sizes
    return max(record.config.horizons), min(starts, key=lambda start: abs(start - 0.1))


def figure_1(record: Record) -> Numbers:
    """Return the row of Figure 1's cell, and how many cells stay within 10 % of eta*.

    `largest` is the largest error after 300 updates or more.
    """
    found, (horizon, start) = descents(record, "log-domain"), shown_cell(record)
    rows = found.to_dict("records")
    found = found.assign(largest=[_largest_error(record, row) for row in rows])
    return {
        **where(found, horizon=horizon, start=start).iloc[0],
        "predicted": record.rows("optimum", horizon=horizon)["predicted_steps"].item(),
        "staying": f"{(found['largest'] < CLOSE).sum()} of {len(found)}",
    }


def _largest_error(record: Record, row: Numbers) -> float:
    """Return the largest error of a descent after the updates of Figure 1 or more."""
    cell = {name: row[name] for name in ("method", "horizon", "start")}
    path = record.rows("trajectory", **cell)
    # Row k of a path is what k updates have led to; the last one is in `convergence` alone.
    late = np.append(path["step_size"][path["step"] >= FIGURE_1], row["final_step_size"])
    return float(np.max(np.abs(late / row["optimal_step_size"] - 1)))


def ends(rows: Frame) -> str:
    """Write how many descents converged, and how the others ended."""
    off = rows[rows["status"] != "converged"]
    names = each("{name} {status}, error {relative_error_last:.2g}", between=", ")(off)
    return (
        f"{len(rows) - len(off)} of {len(rows)} cells converged, the largest error is "
        f"{rows['relative_error_last'].max(skipna=False):.2g}; not: {names or 'none'}"
    )


def settled(record: Record) -> Frame:
    """Return the largest error by horizon; `early` if descent can converge well before the end."""
    found = descents(record, "log-domain").groupby("horizon", sort=False)
    rows = record.frames["optimum"].set_index("horizon")
    # k* is where mu_k F'' = 2, the edge: some updates more have to pass before the error is down
    # to 1e-6.
    early = rows["predicted_steps"] < 0.8 * record.config.meta_steps
    return rows.assign(error=found["relative_error_last"].max(), early=early)


def accuracy(record: Record) -> Numbers:
    """Return the largest relative error of each method, and how often it is small, in words."""
    table = record.frames["accuracy"]
    worst = table.groupby("method")["relative_error"].max()
    near = table.assign(near=table["relative_error"] < 0.01)
    words = [f"{name} at most {worst[name]:.2g}" for name in ("log-domain", "log-domain-float32")]
    for method in ("reverse-float32", "reverse-float64"):
        shares = where(near, method=method).groupby("horizon", sort=False)["near"].mean()
        parts = ", ".join(f"{share:.2f} at t = {horizon:g}" for horizon, share in shares.items())
        words.append(f"{method} within 1% in a share of {parts}")
    return {"worst": worst, "words": "; ".join(words)}


def _paths(record: Record, method: str) -> Iterator[tuple[Numbers, Frame]]:
    """Yield the row of each descent, and its trajectory.

    `size` is log10 f(w_t). `idle` are the updates without a change: F or F' is not finite, or F'
    is zero.
    """
    for row in descents(record, method).to_dict("records"):
        horizon = int(row["horizon"])
        cell = {"method": method, "horizon": horizon, "start": row["start"]}
        path = record.rows("trajectory", **cell)
        # From the closed form, since the objective of the method itself may have overflowed.
        objective = theory.meta_objective(path["step_size"].to_numpy(), *_problem(record), horizon)
        finite = np.isfinite(path["meta_gradient"]) & np.isfinite(path["meta_objective"])
        idle = ~finite | (path["meta_gradient"] == 0)
        yield row, path.assign(size=objective * horizon / np.log(10), idle=idle)


def overflow(record: Record) -> Numbers:
    """Return whether float32 is idle beyond its range and nowhere else, and the groups of cells."""
    good = True
    groups: dict[str, list[str]] = {"at once": [], "later": [], "free": []}
    for row, path in _paths(record, "reverse-float32"):
        size, last = path["size"], path["size"].iloc[-1]
        # A tenth of a decade for rounding, and for subnormal numbers of the processor.
        lost = -np.log10(2 * row["horizon"] * FLOAT32.tiny) - 0.1
        end = np.log10(FLOAT32.max) + 0.1
        good &= bool(path["idle"][size > end].all() and not path["idle"][size.abs() < lost].any())
        stuck, first = row["status"] == "stuck", int(np.argmax(path["idle"]))
        # Between `lost` and `end` either is right: f is finite there, and its adjoint may be zero.
        good &= bool(last > lost if stuck else last < end)
        kind = "free" if not stuck else "later" if first else "at once"
        after = f" after {first} updates" if kind == "later" else ""
        groups[kind].append(f"{row['name']} 10^{last:.1f}{after}")
    table, limit = record.frames["overflow"], np.log10(FLOAT32.max)
    differ = table[(table["log10_bound"] > limit) != (table["log10_loss"] > limit)]
    groups["differ"] = list(map(_name, differ["horizon"], differ["start"]))
    return {"good": good, **{kind: _listed(names) for kind, names in groups.items()}}


def float64(record: Record) -> Numbers:
    """Compare back-propagation in float64 with the closed form and with the exact descent."""
    worst, idle, outside = 0.0, 0, 0
    for row, path in _paths(record, "reverse-float64"):
        # float64 ends at 1e308: three decades for f and for the adjoint 1 / (2 t f).
        inside = path["size"].abs() < 305
        arguments = path["step_size"].to_numpy(), *_problem(record), int(row["horizon"])
        exact = theory.meta_gradient(*arguments)
        # Relative to the largest F' of the path: at eta*, where descents end, F' itself is
        # rounding.
        off = (path["meta_gradient"] - exact)[inside].abs() / np.max(np.abs(exact))
        worst, outside = max(worst, *off), outside + np.sum(~inside)
        idle += path["idle"][inside].sum()
    ours, theirs = (
        descents(record, name).set_index("name") for name in ("log-domain", "reverse-float64")
    )
    same = ours["status"] == theirs["status"]
    # A descent that has settled may have an error of exactly zero.
    ratio = theirs["relative_error_last"] / np.maximum(ours["relative_error_last"], 1e-15)
    return {
        "idle": idle,
        "outside": outside,
        "worst": worst,
        "same": f"{same.sum()} of {same.size}",
        "ratio": np.median(ratio),
    }


def cells(record: Record, method: str, column: int) -> Frame:
    """Return the descents of a method that Tables 1-2 have, and what they print in a row."""
    rows = descents(record, method)
    cells = zip(rows["horizon"], rows["start"], strict=True)
    paper = [
        {True: "yes", False: "no"}[PAPER[cell][column]] if cell in PAPER else None for cell in cells
    ]
    rows = rows.assign(paper=paper).dropna(subset="paper")
    return rows.assign(agree=(rows["paper"] == "yes") == (rows["status"] == "converged"))


def exact_rmsprop(record: Record) -> Numbers:
    """Return the largest errors of RMSProp with the exact meta-gradient, by size of the start."""
    rows = descents(record, "log-domain-rmsprop")
    near = rows["start"] <= 0.1
    return {
        "decides": near.any(),
        "stuck": (rows["status"] == "stuck").sum(),
        "cells": len(rows),
        "near": np.max(rows["relative_error_last"][near].to_numpy(), initial=0.0),
        "far": np.max(rows["relative_error_last"][~near].to_numpy(), initial=0.0),
    }


def second_derivatives(record: Record) -> Numbers:
    """Return the ratio of the derivative without second derivatives to the true one."""
    table, (horizon, _) = record.frames["stop_gradient"], shown_cell(record)
    row = each("eta = {step_size:g}: {true:.4g} true, {stop_gradient:.4g} without")
    return {
        "ratio": table["stop_gradient"] / table["true"],
        "cells": f"t = {horizon}: {row(where(table, horizon=horizon))}",
    }


def bounded(record: Record) -> Numbers:
    """Return the largest |F'| at step sizes from 0, and its bound."""
    path = record.frames["trajectory"]
    # The claim is about eta >= 0, and the methods without projection go below.
    ours = path[path["method"].str.startswith("log-domain") & (path["step_size"] >= 0)]
    grid = record.rows("accuracy", method="log-domain")
    slopes = np.append(ours["meta_gradient"], grid["meta_gradient"])
    largest, bound = np.nanmax(np.abs(slopes)), theory.meta_gradient_bound(*_problem(record))
    return {"largest": largest, "bound": bound, "loose": bound / largest}


def limit(record: Record) -> Numbers:
    """Return the distance of eta* from its limit relative to that, by horizon."""
    rows = record.frames["limit"]
    gap = (rows["optimal_step_size"] / rows["limit"] - 1).abs().set_axis(rows["horizon"])
    words = each("{optimal_step_size:.6g} at t = {horizon:g}", between=", ")(rows)
    return {"gap": gap, "words": words, "limit": rows["limit"].iloc[0]}
