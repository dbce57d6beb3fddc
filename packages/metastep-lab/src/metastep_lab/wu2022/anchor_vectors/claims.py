"""What the tables of `anchor-vectors` say: its answer and its claims."""

from collections.abc import Sequence

import numpy as np

from metastep_lab.claims import Claim, span, yes_or_no
from metastep_lab.tables import Record, select

# Thesis of Wu, Table 3.1: model to the MSE of log Z and of log Z_bulk without the top 100 words.
PAPER = {
    "GPT-2 Large": (0.7296, 0.0740),
    "GPT-2 XL": (0.7716, 0.0648),
    "OPT-125M": (0.6688, 0.0443),
    "OPT-1.3B": (0.5234, 0.0402),
}
SHOWN = 100  # words that the bulk of Table 3.1 leaves out
FACTOR = 0.7296 / 0.0740  # the smallest ratio in Table 3.1, that of GPT-2 Large
NO_ANCHOR = 4.0  # a ratio below it is called no anchor in the two claims that are not the paper's
LINEAR = 0.9  # R2 from which log Z counts as linear in the hidden state
DOMINANT = 2.0  # ratio of the first two singular values from which one direction dominates
VARIES = 1.0  # nats between the 5% and 95% quantiles of a partition function that is not constant


def shown_bulk(top: Sequence[int]) -> int:
    """Return the bulk size that is compared with log Z: 100, or else the largest there is.

    Args:
        top: the bulk sizes of a run.
    """
    return SHOWN if SHOWN in top else max(top)


def model_names(record: Record, trained: bool) -> list[str]:
    """Return the models that were trained (or those that were not), in the order of the run.

    Args:
        record: the run.
        trained: which ones.
    """
    models = record.tables["models"]
    return [str(name) for name in models["model"][models["trained"] == trained]]


def answer(record: Record) -> str:
    """Say how much of the bulk one vector explains, before and after training."""
    names, bulk = model_names(record, True), shown_bulk(record.config.top)
    if not names:
        return "This run cannot tell: it has no trained model."
    errors, explained = (
        [_values(record, "mse", column, names, top=k) for k in (0, bulk)]
        for column in ("mse", "r2")
    )
    ratios = errors[0] / errors[1]
    better = (ratios >= FACTOR) & (explained[1] > explained[0])
    opening = yes_or_no(better)
    parts, controls = np.maximum(explained, 0), model_names(record, False)
    before = [_values(record, "mse", "mse", controls, top=k) for k in (0, bulk)]
    untrained = f" (before training {span(before[0] / before[1])} times)" if controls else ""
    return (
        f"{opening}. Without the {bulk} most probable words it explains {span(parts[1])} of the "
        f"variance of the logarithm of the sum in the trained models, with them "
        f"{span(parts[0])}. Leaving them out makes its mean squared error {span(ratios)} "
        f"times smaller{untrained}."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold sections 3.4.2, 3.4.3 and Appendix B.3 against the tables."""
    return (
        *_bulk_claims(record),
        _untrained_claim(record),
        _start_claim(record),
        *_dictionary_claims(record),
        _partition_claim(record),
        _cluster_claim(record),
    )


def _values(
    record: Record, table: str, column: str, names: list[str], **where: float
) -> np.ndarray:
    rows = [select(record.tables[table], model=name, **where) for name in names]
    return np.array([row[column][0] for row in rows])


def _listed(names: list[str], *numbers: np.ndarray) -> str:
    """Write `name a / b` for every model and the numbers beside it."""
    rows = zip(names, zip(*numbers, strict=True), strict=True)
    return "; ".join(f"{name} " + " / ".join(f"{x:.3g}" for x in row) for name, row in rows)


def _paper() -> str:
    rows = (f"{name} {z} / {bulk} ({z / bulk:.1f})" for name, (z, bulk) in PAPER.items())
    return "Table 3.1 has " + "; ".join(rows)


def _all(conditions: np.ndarray) -> bool | None:
    """Return whether all models agree, None where there is none."""
    return bool(np.all(conditions)) if conditions.size else None


def _bulk_claims(record: Record) -> tuple[Claim, ...]:
    names, bulk = model_names(record, True), shown_bulk(record.config.top)
    at = lambda column, k: _values(record, "mse", column, names, top=k)
    errors, explained = (at("mse", 0), at("mse", bulk)), (at("r2", 0), at("r2", bulk))
    ratios = errors[0] / errors[1]
    held_out = at("held_out_mse", bulk)
    every = [_values(record, "every_position", "mse", names, top=k) for k in (0, bulk)]
    order = sorted(record.config.top)
    falling = np.array(
        [np.all(np.diff([at("mse", k)[i] for k in order]) < 0) for i in range(len(names))]
    )
    return (
        Claim(
            "bulk-is-linear",
            f"Table 3.1: log Z_bulk without the top {bulk} words is far more nearly linear in the "
            f"hidden state than log Z, its mean squared error at least {FACTOR:.1f} times smaller "
            "(the smallest ratio of the table) in every trained model, with every state.",
            _all(every[0] / every[1] >= FACTOR),
            f"MSE of log Z / of log Z_bulk / ratio: "
            f"{_listed(names, *every, every[0] / every[1])}. {_paper()}",
        ),
        Claim(
            "bulk-is-linear-with-context",
            f"The same, here: without the first {record.config.skip} states of each window, which "
            "have hardly any context and which the thesis keeps.",
            _all(ratios >= FACTOR),
            f"MSE of log Z / of log Z_bulk / ratio: {_listed(names, *errors, ratios)}",
        ),
        Claim(
            "error-falls-with-k",
            "Figure 3.1, Table B.2: the more of the most probable words are left out, the smaller "
            "the error.",
            _all(falling),
            f"MSE at k = {', '.join(map(str, order))}: "
            + _listed(names, *(at("mse", k) for k in order)),
        ),
        Claim(
            "log-z-is-not-linear",
            "Section 3.4.3: log Z itself is not linear in the hidden state; here: no trained model "
            f"explains more than {LINEAR:g} of its variance.",
            _all(explained[0] < LINEAR),
            f"R2 of log Z: {_listed(names, explained[0])}",
        ),
        Claim(
            "better-beyond-the-variance",
            "Not in the paper, which gives no variances: the error of the bulk is smaller also in "
            "proportion to the variance of what is estimated, so that R2 is larger.",
            _all(explained[1] > explained[0]),
            f"R2 of log Z / of log Z_bulk: {_listed(names, *explained)}",
        ),
        Claim(
            "anchors-generalize",
            "Not in the paper: an anchor that was fitted on half of the tokens has at most 1.5 "
            "times the error of the full fit on the other half.",
            _all(held_out <= 1.5 * errors[1]) if np.isfinite(held_out).all() else None,
            f"MSE / held-out MSE of log Z_bulk: {_listed(names, errors[1], held_out)}",
        ),
    )


def _untrained_claim(record: Record) -> Claim:
    names, bulk = model_names(record, False), shown_bulk(record.config.top)
    errors = [_values(record, "mse", "mse", names, top=k) for k in (0, bulk)]
    ratios = errors[0] / errors[1]
    variance = _values(record, "mse", "variance", names, top=0)
    return Claim(
        "untrained-control",
        "Not in the paper: before training there is no anchor. Leaving out the most probable words "
        f"does not make the error {NO_ANCHOR:g} times smaller, although log Z hardly varies: a "
        "constant is not linear in the state.",
        _all(ratios < NO_ANCHOR),
        f"MSE of log Z / of log Z_bulk / ratio / variance of log Z: "
        f"{_listed(names, *errors, ratios, variance)}"
        if names
        else "no untrained model in this run",
    )


def _start_claim(record: Record) -> Claim:
    names, bulk = model_names(record, True), shown_bulk(record.config.top)
    tables = "mse", "every_position"
    ratios = [
        _values(record, table, "mse", names, top=0) / _values(record, table, "mse", names, top=bulk)
        for table in tables
    ]
    skip = record.config.skip
    return Claim(
        "context-is-needed",
        f"Not in the paper: the first states of a window have hardly any context and no anchor; "
        f"with the first {skip} of each window in the fit, some trained model loses the factor "
        f"{NO_ANCHOR:g}.",
        bool(np.any(ratios[1] < NO_ANCHOR)) if skip and names else None,
        f"ratio of the MSE of log Z to that of log Z_bulk without them / with them: "
        f"{_listed(names, *ratios)}",
    )


def _dictionary_claims(record: Record) -> tuple[Claim, ...]:
    names, controls = model_names(record, True), model_names(record, False)
    at = lambda column, models: _values(record, "dictionary", column, models)
    second, energy = at("second_ratio", names), at("top_energy", names)
    cosines, norms = at("mean_cosine", names), at("norm_high", names) / at("norm_low", names)
    return (
        Claim(
            "one-dominant-direction",
            "Figure 3.2: the dictionary is close to low rank; here: its first singular value is at "
            f"least {DOMINANT:g} times the second one in every trained model.",
            _all(second <= 1 / DOMINANT),
            "second singular value over the first / share of the first in the sum of squares: "
            f"{_listed(names, second, energy)}"
            + (
                f"; untrained: {_listed(controls, at('second_ratio', controls))}"
                if controls
                else ""
            ),
        ),
        Claim(
            "words-in-a-cone",
            "Figures B.1, B.2: the cosines of words are biased towards positive values, and their "
            "norms are bounded; here: mean cosine above 0.1, 95% quantile of the norms below 5 "
            "times the 5% quantile.",
            _all((cosines > 0.1) & (norms < 5)),
            f"mean cosine / ratio of the quantiles of the norms: {_listed(names, cosines, norms)}"
            + (
                f"; untrained cosine: {_listed(controls, at('mean_cosine', controls))}"
                if controls
                else ""
            ),
        ),
    )


def _partition_claim(record: Record) -> Claim:
    names, bulk = model_names(record, True), shown_bulk(record.config.top)
    spans = [
        _values(record, "partition", "high", names, top=k)
        - _values(record, "partition", "low", names, top=k)
        for k in (0, bulk)
    ]
    return Claim(
        "partition-varies",
        "Figure 3.3: neither partition function is constant; here: the 5% and 95% quantiles of "
        f"both logarithms are more than {VARIES:g} nat apart in every trained model.",
        _all(np.array(spans) > VARIES),
        f"nats between the quantiles of log Z / of log Z_bulk: {_listed(names, *spans)}",
    )


def _cluster_claim(record: Record) -> Claim:
    models, bulk = record.tables["models"], shown_bulk(record.config.top)
    names = [str(name) for name in models["model"] if name in record.tables["clusters"]["model"]]
    given = set(models["model"][models["architecture"] == "hugging-face"])
    joint = [_values(record, "mse", "mse", [name], top=bulk)[0] for name in names]
    apart = [select(record.tables["clusters"], model=name, top=bulk)["mse"] for name in names]
    better = [
        bool(np.all(errors < 0.1 * error))
        for name, error, errors in zip(names, joint, apart, strict=True)
        if name in given
    ]
    evidence = "; ".join(
        f"{name}: MSE of one anchor {error:.3g}, of one for each cluster "
        + " / ".join(f"{x:.3g}" for x in errors)
        for name, error, errors in zip(names, joint, apart, strict=True)
    )
    return Claim(
        "two-anchors-of-gpt-2",
        "Appendix B.3: the partition function of GPT-2 (124M) has two clusters, each with an "
        "anchor of its own; here: in a given model with two clusters of log Z the errors of "
        "their own anchors are at least 10 times below that of one anchor for all.",
        _all(np.array(better)),
        evidence or "no model of this run has two clusters of log Z",
    )
