"""The claims of `hessian-two-layer`, statements of the thesis, and its answer."""

from collections.abc import Callable

from metastep_lab.claims import Statement, every, falls
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_two_layer.samples import MEAN_SHARE, PREDICTED

WIDE = 200
DECOUPLED = 0.98


def means(record: Record) -> Frame:
    """Return the means over seeds, by width."""
    return _by_width(record.frames["overlaps"].groupby("units", as_index=False).mean())


def _by_width(rows: Frame) -> Frame:
    return rows.set_index("n=" + rows["units"].map("{:g}".format))


WORST = {"gap_output": "max", "gap_hessian": "max", "independent": "min", "kronecker": "min"}


def _worst(record: Record) -> Frame:
    """Return the worst seed by width: the theorems are about nearly every network, not a mean."""
    return _by_width(record.frames["overlaps"].groupby("units", as_index=False).agg(WORST))


def answer(record: Record) -> str:
    """Say how near the widest network is to a Kronecker product, and its top eigenspace."""
    rows = means(record)
    first, last = rows.iloc[0], rows.iloc[-1]
    plain, weighted = last["row_span"], last["weighted_row_span"]
    opening = "Yes, nearly" if last["kronecker"] > DECOUPLED else "No"
    if last["units"] < WIDE:
        opening = f"This run cannot tell, with widths below {WIDE}"
    narrow = f" ({first['kronecker']:.3f} with {first['units']:g})" if len(rows) > 1 else ""
    fits = weighted > plain
    return (
        f"{opening}. With {last['units']:g} hidden units the leading eigenvectors of the Hessian "
        f"and of the Kronecker product overlap by {last['kronecker']:.3f}{narrow}, where 1 is the "
        "same space. The leading space of its output factor overlaps by "
        f"{max(plain, weighted):.3f} with the row span of the next layer's weights"
        f"{' times the share of examples in which a unit is active' if fits else ''}, by "
        f"{min(plain, weighted):.3f} {'without' if fits else 'times'} these shares."
    )


def _when_wide(condition: str) -> Callable[[Frame], bool | None]:
    """Return the verdict whether a condition holds at every width from `WIDE` on."""

    def verdict(rows: Frame) -> bool | None:
        wide = rows[rows["units"] >= WIDE]
        return wide.eval(condition).all() if len(wide) else None

    return verdict


def _narrows(column: str, limit: float) -> Callable[[Frame], bool | None]:
    """Return the verdict whether a column falls with the width, below a limit from `WIDE` on."""

    def verdict(rows: Frame) -> bool | None:
        small = _when_wide(f"{column} < {limit}")(rows)
        return None if small is None or len(rows) < 2 else small and falls(rows[column])

    return verdict


NEEDS_WIDTHS = f"Two widths, one of them from {WIDE} on, decide this."
CLAIMS = (
    Statement(
        "output-gap",
        "(4.7): lambda_c / lambda_(c-1) of E[M] tends to 0 with the width n, with probability 1 in "
        f"the limit (here: the largest of all networks falls with every width and is below 0.25 "
        f"from n = {WIDE} on).",
        measure=_worst,
        verdict=_narrows("gap_output", 0.25),
        evidence="{gap_output:.4f}",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "hessian-gap",
        "Theorem 4.4.1, (4.6): so does that of H (here: the largest of all networks falls with "
        f"every width and is below 0.25 from n = {WIDE} on).",
        measure=_worst,
        verdict=_narrows("gap_hessian", 0.25),
        evidence="{gap_hessian:.4f}",
        reasons={
            False: "The ratio falls with the width, as (4.6) says; that it falls below our bar "
            "at n = 200 it does not say.",
            None: NEEDS_WIDTHS,
        },
    ),
    Statement(
        "scores-have-mean-zero",
        "Lemma C.2.12: given the weights, the scores z tend to N(0, v I) (here: |E z|^2 is below "
        f"0.05 of E |z|^2 from n = {WIDE} on).",
        measure=means,
        verdict=_when_wide("mean_share < 0.05"),
        evidence="{mean_share:.3f}. Its proof uses Lemma C.2.1, by which the sum of a row of W2, n "
        "weights N(0, 1/n), tends to 0; but it is N(0, 1) for every n, so that z has a mean, "
        f"{MEAN_SHARE:.3f} of E |z|^2 in the limit.",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "scores-forget-units",
        "Lemma C.2.13 and Corollary C.2.14: given that two units are active, the scores have the "
        "same distribution in the limit (here, their mean: shifted by less than 0.1 standard "
        f"deviations from n = {WIDE} on, less with every width).",
        measure=means,
        verdict=_narrows("shift", 0.1),
        evidence="{shift:.4f}",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "curvature-has-full-rank",
        "Lemma C.2.15: E[A] has rank c - 1 in the limit (here: lambda_(c-1) above a tenth of "
        "lambda_1 at every width).",
        measure=means,
        verdict=every("least > 0.1"),
        evidence="{least:.3f}",
    ),
    Statement(
        "independent-copy",
        "Theorem 4.4.2: the top eigenspaces of E[M] and of M*, with an independent copy of the "
        "active units, coincide in the limit (here: overlap above 0.995 in every network from "
        f"n = {WIDE} on).",
        measure=_worst,
        verdict=_when_wide("independent > 0.995"),
        evidence="{independent:.4f}",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "decoupling",
        "Theorem 4.4.1: so do those of H and of E[M] (x) E[x x^T] (here: overlap above "
        f"{DECOUPLED} in every network from n = {WIDE} on).",
        measure=_worst,
        verdict=_when_wide(f"kronecker > {DECOUPLED}"),
        evidence="{kronecker:.4f}",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "row-span",
        "Theorem 4.4.2: S_2, the top eigenspace of M*, is approximately the row span of the second "
        f"layer without 1^T W, by (4.8) (here: overlap above 0.95 from n = {WIDE} on).",
        measure=means,
        verdict=_when_wide("row_span > 0.95"),
        evidence="{row_span:.4f}; with (4.8): {printed:.4f}. Lemma C.2.11, on which it rests, is "
        "false: the sum of a unit's weights has variance 1, whatever n, so that units are not "
        "active in half of the examples each.",
        reasons={None: NEEDS_WIDTHS},
    ),
    Statement(
        "weighted-row-span",
        "Not in the thesis: the eigenspace is that row span times diag(pi), pi = Phi(s / "
        "sqrt(pi - 1)) the share of examples in which a unit is active (overlap above 0.99), "
        f"and the plain row span keeps an overlap of {PREDICTED:.3f} (within 0.03).",
        measure=means,
        verdict=_when_wide(f"weighted_row_span > 0.99 and abs(row_span - {PREDICTED}) < 0.03"),
        evidence="{weighted_row_span:.4f}; plain: {row_span:.4f}",
        reasons={None: NEEDS_WIDTHS},
    ),
)
