"""The claims of `step-size-quadratic`, statements of the paper, and its answer."""

from collections.abc import Callable
from itertools import product

import numpy as np

from metastep_lab.claims import Statement, each, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record, where
from metastep_lab.wang2021.step_size_quadratic import measures
from metastep_lab.wang2021.step_size_quadratic.measures import CLOSE, FIGURE_1, PAPER, descents


def answer(record: Record) -> str:
    """Say how often descent ends at the best step size, and where back-propagation is stuck."""
    table = record.frames["convergence"]
    right = where(table, method="log-domain")["status"] == "converged"
    if right.empty:
        return "This run cannot tell: it lacks the method log-domain, which is always exact."
    said = (
        f"{yes_or_no(right)}. Descent by the exact gradient ends within 10 % of the best step size "
        f"in {right.sum()} of {right.size} cases."
    )
    return said + "".join(_stuck(table, precision) for precision in ("float32", "float64"))


def _stuck(table: Frame, precision: str) -> str:
    ends = where(table, method=f"reverse-{precision}")
    lost = where(ends, status="stuck")
    if ends.empty:
        return ""
    said = f" Back-propagation in {precision} gets stuck in {len(lost)} of {len(ends)}"
    if lost.empty:
        return f"{said}."
    steps = ", ".join(f"{t:g}" for t in np.unique(lost["horizon"]))
    # `stuck` looks at the last hundred updates: at least as many had no gradient if that is why.
    useless = lost["failed_steps"] + lost["zero_steps"] >= 100
    why = ": its gradient becomes zero or no number" if useless.all() else ""
    return f"{said}, with {steps} training steps{why}."


def _methods(*names: str) -> Callable[[Record], str | None]:
    has = lambda record: {*names} <= {*record.config.methods}
    return lacking(f"needs the method {' and '.join(names)}", has)


def _table(name: str, kind: str, column: int, text: str) -> Statement:
    """Compare one row of Tables 1-2 with both methods of a kind, cell by cell."""
    methods = (f"reverse-{kind}", f"stop-gradient-{kind}")
    row = each("{name} paper {paper}, here {status} ({relative_error_last:.2g})")

    def evidence(found: dict[str, Frame]) -> str:
        agree = np.concatenate([rows["agree"] for rows in found.values()])
        words = ". ".join(f"{method}: {row(rows)}" for method, rows in found.items())
        return f"{agree.sum()} of {agree.size} cells agree. {words}"

    def has(record: Record) -> bool:
        cells = product(record.config.horizons, record.config.start_step_sizes)
        return {*methods} <= {*record.config.methods} and not PAPER.keys().isdisjoint(cells)

    return Statement(
        name,
        text,
        lacks=lacking(f"needs the methods {' and '.join(methods)} and a cell of Tables 1-2", has),
        measure=lambda record: {
            method: measures.cells(record, method, column) for method in methods
        },
        verdict=lambda found: all(rows["agree"].all() for rows in found.values()),
        evidence=evidence,
    )


CLAIMS = (
    Statement(
        "figure-1-within-300-steps",
        "Section 5, Figure 1: with t = 80 and eta_0 = 0.1, eta converges quickly within 300 steps, "
        "and similarly elsewhere (here: from 300 updates on it stays within 10% of eta*, with the "
        "largest t and the start nearest to 0.1).",
        lacks=lacking(
            "needs the method log-domain and 300 updates",
            lambda record: (
                "log-domain" in record.config.methods and record.config.meta_steps >= FIGURE_1
            ),
        ),
        measure=measures.figure_1,
        verdict=lambda found: found["largest"] < CLOSE,
        evidence="{name}: |eta - eta*| / eta* is {relative_error_300:.3g} after 300 updates, at "
        "most {largest:.3g} from there on, {relative_error_last:.3g} in the last 100; "
        "the meta step size is small enough to settle only after {predicted:.0f} updates. From 300 "
        "updates on {staying} cells stay within 10%",
        reasons={
            False: "Until its meta step is small enough, eta jumps around eta*; before that it "
            "is near eta* by chance only.",
        },
    ),
    Statement(
        "exact-meta-gradient-converges",
        "Theorem 4, Tables 1-2, row 'ours': with the exact meta-gradient and meta step sizes "
        "scale / sqrt(k) eta always converges to eta* (here: within 10% in the last 100 updates).",
        lacks=_methods("log-domain"),
        measure=lambda record: descents(record, "log-domain"),
        verdict=lambda rows: (rows["status"] == "converged").all(),
        evidence=measures.ends,
        reasons={
            False: "Where k* of the claim settles-where-predicted is above the number of updates, "
            "eta still jumps around eta*.",
        },
    ),
    Statement(
        "settles-where-predicted",
        "Not in the paper: the meta step keeps eta from settling; once mu_k F''(eta*) < 2, that is "
        "after k* = (scale F''(eta*) / 2)^2 updates, eta locks to eta* (here: to 1e-6 where k* is "
        "below four fifths of the updates).",
        lacks=_methods("log-domain"),
        measure=measures.settled,
        verdict=lambda rows: (
            (rows["error"][rows["early"]] < 1e-6).all() if rows["early"].any() else None
        ),
        evidence=each(
            "t = {horizon:g}: k* = {predicted_steps:.0f}, error in the last 100 updates up to "
            "{error:.2g}"
        ),
        reasons={
            None: "Only settings whose k* is below four fifths of the updates decide, and this "
            "run has none: more updates do.",
        },
    ),
    Statement(
        "log-domain-is-exact",
        "Section 3: the rescaled meta-gradient is finite and exact at every step size from 0.001 "
        "to 10 (here: relative error below 1e-10 in float64, 1e-3 in float32), where "
        "back-propagation through log f is not.",
        measure=measures.accuracy,
        verdict=lambda found: (
            # Near eta* F' is a difference of nearly equal sums, and loses digits: against 60 digits
            # the largest errors on six random problems were 3e-13 and 2e-4.
            found["worst"]["log-domain"] < 1e-10 and found["worst"]["log-domain-float32"] < 1e-3
        ),
        evidence="relative errors: {words}",
    ),
    Statement(
        "float32-stuck-by-overflow",
        "Corollary 1: back-propagation fails for numerical reasons. In float32 it gets stuck where "
        "f(w_t) ~ (eta L - 1)^{2t} L |w_0|^2 leaves the range, above 3.4e38 or already above "
        "8.5e37 / 2t, where the adjoint 1 / (2 t f) underflows to zero: at once if eta_0 is there, "
        "else when the descent first steps there; and nowhere else.",
        lacks=_methods("reverse-float32"),
        measure=measures.overflow,
        verdict=lambda found: found["good"],
        evidence="f(w_t) at the last step size: stuck at once {at once}; stuck later {later}; not "
        "stuck {free}. The estimate with |w_0| in place of its component along the eigenvector of "
        "L is above 3.4e38, and f is not, at {differ}",
    ),
    Statement(
        "float64-agrees",
        "Not in the paper: in float64 back-propagation of log f with the paper's meta step sizes "
        "does what the exact meta-gradient does, as long as f(w_t) stays below 1e305 (t up to 80, "
        "eta_0 up to 1 where L is below 80): every F' on the way is usable, and exact to 1e-6 of "
        "the largest.",
        lacks=_methods("log-domain", "reverse-float64"),
        measure=measures.float64,
        verdict=lambda found: found["idle"] == 0 and found["worst"] < 1e-6,
        evidence="{idle} updates without a usable F', and {outside} beyond 1e305; F' is off by at "
        "most {worst:.2g} of the largest; same status in {same} cells, where the largest errors of "
        "the last 100 updates agree to a median factor of {ratio:.3g}",
    ),
    _table(
        "tables-1-2-gd",
        "constant",
        1,
        "Tables 1-2, row 'Tensorflow GD': it converges in no cell, with or without second "
        "derivatives (here: not within 10% in the last 100 updates). For t = 10 the earlier "
        "version prints a tick and the thesis, which is followed, a cross.",
    ),
    _table(
        "tables-1-2-rmsprop",
        "rmsprop",
        2,
        "Tables 1-2, row 'Tensorflow RMSProp': it converges for t = 10 and 20 from eta_0 = 0.1 and "
        "for t = 40 from eta_0 = 0.001 and 0.01, and nowhere else, with or without second "
        "derivatives.",
    ),
    Statement(
        "gd-fails-with-the-exact-gradient",
        "Not in the paper: the gradient descent of Tables 1-2 fails because of its meta step size; "
        "with the exact meta-gradient in its place it converges in no cell either.",
        lacks=_methods("log-domain-constant"),
        measure=lambda record: descents(record, "log-domain-constant"),
        verdict=lambda rows: (rows["status"] == "oscillating").all(),
        evidence=lambda rows: (
            f"|eta - eta*| / eta* reaches {span(rows['relative_error_last'])} in the last 100 "
            f"updates; statuses: {', '.join(sorted(set(rows['status'])))}"
        ),
    ),
    Statement(
        "rmsprop-with-the-exact-gradient",
        "Not in the paper: where the RMSProp of Tables 1-2 fails, it overflows; with the exact "
        "meta-gradient in its place nothing gets stuck, and every descent from 0.1 or below "
        "converges to within 10%, as the cells of the tables have to.",
        lacks=_methods("log-domain-rmsprop"),
        measure=measures.exact_rmsprop,
        verdict=lambda found: (
            found["stuck"] == 0 and found["near"] < CLOSE if found["decides"] else None
        ),
        evidence="{stuck} of {cells} cells stuck; largest error of the last 100 updates from "
        "eta_0 <= 0.1: {near:.3g}; from larger starts: {far:.3g}",
    ),
    Statement(
        "second-derivatives-off-is-the-same-setting",
        "Appendix F of the earlier version: turning off second derivatives 'ensures that the "
        "experiments have exactly the same settings' (here: d log f / d eta changes by less than "
        "1%).",
        measure=measures.second_derivatives,
        verdict=lambda found: ((found["ratio"] - 1).abs() < 0.01).all(),
        evidence=lambda found: (
            f"without over true derivative from {span(found['ratio'])}; {found['cells']}"
        ),
        reasons={
            False: "Without second derivatives every gradient on the way counts as if it did not "
            "depend on the step size, so that another derivative is followed.",
        },
    ),
    Statement(
        "meta-gradient-bounded",
        "Claim 2: |F'(eta)| <= 4 L^3 / (c_min^2 alpha (L - alpha)) for every eta >= 0, whatever t.",
        measure=measures.bounded,
        verdict=lambda found: found["largest"] <= found["bound"],
        evidence="largest |F'| along the descents and on the grid {largest:.4g}, bound "
        "{bound:.3g}: true and loose by a factor of {loose:.2g}",
    ),
    Statement(
        "optimum-tends-to-its-limit",
        "Figure 2 of the earlier version: eta* depends on t (here: as t grows it tends to 2 / (L "
        "+ alpha); at t = 5000 it is within 5% and nearer than at t = 10).",
        measure=measures.limit,
        verdict=lambda found: found["gap"].iloc[-1] < min(0.05, found["gap"][10]),
        evidence="eta* is {words}; the limit is {limit:.6g}",
    ),
)
