"""The claims of `anchor-vectors`, statements of sections 3.4.2, 3.4.3 and B.3, and its answer."""

from collections.abc import Callable

import numpy as np

from metastep_lab.claims import Statement, each, every, lacking, span, yes_or_no
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.anchor_vectors.published import TABLE_3_1, without
from metastep_lab.wu2022.anchor_vectors.reading import (
    both,
    errors,
    model_names,
    needs_trained,
    selected,
    shown_bulk,
)

FACTOR = min(z / bulk for z, bulk in TABLE_3_1.values())  # that of GPT-2 Large
NO_ANCHOR = 4.0  # below this ratio there is no anchor, in two claims of our own
LINEAR = 0.9  # R2 from which log Z counts as linear in the hidden state
DOMINANT = 2.0  # ratio of the first two singular values from which one direction dominates
VARIES = 1.0  # nats between the 5% and 95% quantiles of a partition function that is not constant


def answer(record: Record) -> str:
    """Say which share of the bulk one vector explains, before and after training."""
    if not model_names(record, True):
        return "This run cannot tell: it has no trained model."
    rows, controls = errors(record), errors(record, trained=False)
    opening = yes_or_no((rows["ratio"] >= FACTOR) & (rows["r2_bulk"] > rows["r2_z"]))
    # Without an intercept R2 may be negative: worse than the mean is no share of the variance.
    parts = rows[["r2_z", "r2_bulk"]].clip(lower=0)
    untrained = "" if controls.empty else f" (before training {span(controls['ratio'])} times)"
    return (
        f"{opening}. Without the {shown_bulk(record.config.top)} most probable words it explains "
        f"{span(parts['r2_bulk'])} of the variance of the logarithm of the sum in the trained "
        f"models, with them {span(parts['r2_z'])}. Leaving them out makes its mean squared error "
        f"{span(rows['ratio'])} times smaller{untrained}."
    )


def _by_bulk(record: Record) -> Frame:
    """Return the mean squared errors, one row for each trained model, one column for each k."""
    rows = record.frames["every_position"].pivot(index="model", columns="top", values="mse")
    return rows.loc[model_names(record, True)]


def _listed_by_bulk(rows: Frame) -> str:
    sizes = ", ".join(f"{k:g}" for k in rows.columns)
    listed = (
        f"{model} " + " / ".join(f"{error:.3g}" for error in errors)
        for model, errors in rows.iterrows()
    )
    return f"MSE at k = {sizes}: " + "; ".join(listed)


def _start(record: Record) -> Frame:
    """Return the ratios of errors without the first states of each window, and with them."""
    rows = errors(record)[["ratio"]]
    return rows.assign(every=errors(record, "every_position")["ratio"])


def _dictionary(record: Record) -> Frame:
    """Return the statistics of all dictionaries, those of trained models first."""
    trained, untrained = (model_names(record, kind) for kind in (True, False))
    rows = record.frames["dictionary"].set_index("model").loc[trained + untrained]
    norms = rows["norm_high"] / rows["norm_low"]
    return rows.assign(trained=rows.index.isin(trained), norms=norms)


def _with_untrained(template: str, opening: str, control: str, what: str) -> Callable[[Frame], str]:
    """Return the evidence of trained models, and that of untrained ones if there are any."""

    def write(rows: Frame) -> str:
        controls = rows[~rows["trained"]]
        text = each(template, opening)(rows[rows["trained"]])
        return text + (each(control, f"; {what}: ")(controls) if len(controls) else "")

    return write


def _clusters(record: Record) -> Frame:
    """Return the errors of one anchor and of one for each cluster, of models with two clusters."""
    joint, clusters = (
        rows[rows["top"] == shown_bulk(record.config.top)]
        for rows in (record.frames["mse"], record.frames["clusters"])
    )
    apart = clusters.groupby("model")["mse"]
    rows = record.frames["models"].set_index("model")
    rows = rows[rows.index.isin(apart.groups)]
    return rows.assign(
        joint=joint.set_index("model")["mse"],
        largest=apart.max(),
        listed=apart.agg(lambda errors: " / ".join(f"{error:.3g}" for error in errors)),
    )


def _far_below(rows: Frame) -> bool | None:
    given = rows[rows["architecture"] == "hugging-face"]
    return given.eval("largest < 0.1 * joint").all() if len(given) else None


RATIOS = each(
    "{model} {mse_z:.3g} / {mse_bulk:.3g} / {ratio:.3g}", "MSE of log Z / of log Z_bulk / ratio: "
)
TABLE = "; ".join(f"{name} {z} / {bulk} ({z / bulk:.1f})" for name, (z, bulk) in TABLE_3_1.items())


def _not_linear(id: str, text: str | Callable[[Record], str], table: str) -> Statement:
    return Statement(
        id,
        text,
        lacks=needs_trained,
        measure=lambda record: selected(record, table),
        verdict=every(f"r2_z < {LINEAR}"),
        evidence=each("{model} {r2_z:.3g}", "R2 of log Z: "),
        reasons={
            False: "The statement is about GPT-2 and OPT; in models as small as these one "
            "direction dominates the hidden states, and log Z is nearly linear, too.",
        },
    )


CLAIMS = (
    Statement(
        "bulk-is-linear",
        lambda record: (
            f"Table 3.1: log Z_bulk without the top {shown_bulk(record.config.top)} words is far "
            "more nearly linear in the hidden state than log Z, its mean squared error at least "
            f"{FACTOR:.1f} times smaller (the smallest ratio of the table) in every trained model, "
            "with every state. GPT-2, GPT-2 Medium and OPT-350M, which the table leaves out, are "
            "exempt."
        ),
        lacks=needs_trained,
        measure=lambda record: selected(record, "every_position"),
        verdict=every(f"ratio >= {FACTOR}"),
        evidence=lambda rows: f"{RATIOS(rows)}. Table 3.1 has {TABLE}",
        reasons={
            False: "The first states of a window have hardly any context: see the next claim."
        },
    ),
    Statement(
        "bulk-is-linear-with-context",
        lambda record: (
            f"The same, here: without the first {record.config.skip} states of each window, which "
            "have hardly any context and which the thesis keeps."
        ),
        lacks=needs_trained,
        measure=selected,
        verdict=every(f"ratio >= {FACTOR}"),
        evidence=RATIOS,
        reasons={False: "The table is about GPT-2 and OPT; short training gives no anchor."},
    ),
    Statement(
        "error-falls-with-k",
        "Figure 3.1, Table B.2: the more of the most probable words are left out, the smaller "
        "the error, in all models but GPT-2, with every state.",
        lacks=needs_trained,
        measure=lambda record: without(lambda model: model.title == "GPT-2", _by_bulk(record)),
        verdict=lambda rows: np.all(np.diff(rows) < 0) if len(rows) else None,
        evidence=_listed_by_bulk,
        reasons={
            False: "The first states of a window have hardly any context, and no anchor fits them."
        },
    ),
    _not_linear(
        "log-z-is-not-linear",
        "Section 3.4.3: log Z itself is not linear in the hidden state; here: no trained model "
        f"explains more than {LINEAR:g} of its variance, with every state.",
        "every_position",
    ),
    _not_linear(
        "log-z-is-not-linear-with-context",
        lambda record: (
            f"The same, here: without the first {record.config.skip} states of each window, which "
            "the thesis keeps."
        ),
        "mse",
    ),
    Statement(
        "better-beyond-the-variance",
        "Not in the paper, which gives no variances: the error of the bulk is smaller also in "
        "proportion to the variance of what is estimated, so that R2 is larger.",
        lacks=needs_trained,
        measure=errors,
        verdict=every("r2_bulk > r2_z"),
        evidence=each("{model} {r2_z:.3g} / {r2_bulk:.3g}", "R2 of log Z / of log Z_bulk: "),
    ),
    Statement(
        "anchors-generalize",
        "Not in the paper: an anchor that was fitted on half of the tokens has at most 1.5 "
        "times the error of the full fit on the other half.",
        lacks=needs_trained,
        measure=errors,
        verdict=lambda rows: (
            rows.eval("held_out_mse_bulk <= 1.5 * mse_bulk").all()
            if np.isfinite(rows["held_out_mse_bulk"]).all()
            else None
        ),
        evidence=each(
            "{model} {mse_bulk:.3g} / {held_out_mse_bulk:.3g}", "MSE / held-out MSE of log Z_bulk: "
        ),
        reasons={
            False: "The full fit has seen the held-out tokens, too, and its error is so small "
            "that this counts.",
        },
    ),
    Statement(
        "untrained-control",
        "Not in the paper: before training there is no anchor. Leaving out the most probable words "
        f"does not make the error {NO_ANCHOR:g} times smaller, although log Z hardly varies: a "
        "constant is not linear in the state.",
        lacks=lacking("no untrained model in this run", lambda record: model_names(record, False)),
        measure=lambda record: errors(record, trained=False),
        verdict=every(f"ratio < {NO_ANCHOR}"),
        evidence=each(
            "{model} {mse_z:.3g} / {mse_bulk:.3g} / {ratio:.3g} / {variance_z:.3g}",
            "MSE of log Z / of log Z_bulk / ratio / variance of log Z: ",
        ),
    ),
    Statement(
        "context-is-needed",
        lambda record: (
            "Not in the paper: the first states of a window have hardly any context and no anchor; "
            f"with the first {record.config.skip} of each window in the fit, some trained model "
            f"loses the factor {NO_ANCHOR:g}."
        ),
        lacks=lambda record: needs_trained(record) if record.config.skip else "needs skip above 0",
        measure=_start,
        verdict=lambda rows: (rows["every"] < NO_ANCHOR).any(),
        evidence=each(
            "{model} {ratio:.3g} / {every:.3g}",
            "ratio of the MSE of log Z to that of log Z_bulk without them / with them: ",
        ),
    ),
    Statement(
        "one-dominant-direction",
        "Figure 3.2: the dictionary is close to low rank; here: its first singular value is at "
        f"least {DOMINANT:g} times the second one in every trained model.",
        lacks=needs_trained,
        measure=_dictionary,
        verdict=every(f"second_ratio <= {1 / DOMINANT} or not trained"),
        evidence=_with_untrained(
            "{model} {second_ratio:.3g} / {top_energy:.3g}",
            "second singular value over the first / share of the first in the sum of squares: ",
            "{model} {second_ratio:.3g}",
            "untrained",
        ),
    ),
    Statement(
        "words-in-a-cone",
        "Figures B.1, B.2: the cosines of words are biased towards positive values, and their "
        "norms are bounded; here: mean cosine above 0.1, 95% quantile of the norms below 5 "
        "times the 5% quantile.",
        lacks=needs_trained,
        measure=_dictionary,
        verdict=every("(mean_cosine > 0.1 and norms < 5) or not trained"),
        evidence=_with_untrained(
            "{model} {mean_cosine:.3g} / {norms:.3g}",
            "mean cosine / ratio of the quantiles of the norms: ",
            "{model} {mean_cosine:.3g}",
            "untrained cosine",
        ),
    ),
    Statement(
        "partition-varies",
        "Figure 3.3: neither partition function is constant; here: the 5% and 95% quantiles of "
        f"both logarithms are more than {VARIES:g} nat apart in every trained model.",
        lacks=needs_trained,
        measure=lambda record: both(record, "partition").eval(
            "z = high_z - low_z\nbulk = high_bulk - low_bulk"
        ),
        verdict=every(f"z > {VARIES} and bulk > {VARIES}"),
        evidence=each(
            "{model} {z:.3g} / {bulk:.3g}",
            "nats between the quantiles of log Z / of log Z_bulk: ",
        ),
        reasons={
            False: "The bar of 1 nat is ours; both vary, by a factor of exp of these numbers.",
        },
    ),
    Statement(
        "two-anchors-of-gpt-2",
        "Appendix B.3: the partition function of GPT-2 (124M) has two clusters, each with an "
        "anchor of its own; here: in a given model with two clusters of log Z the errors of "
        "their own anchors are at least 10 times below that of one anchor for all.",
        lacks=lacking(
            "no model of this run has two clusters of log Z",
            lambda record: record.frames["clusters"],
        ),
        measure=_clusters,
        verdict=_far_below,
        evidence=each("{model}: MSE of one anchor {joint:.3g}, of one for each cluster {listed}"),
        reasons={
            None: "Only GPT-2 itself decides this: give it as a model.",
        },
    ),
)
