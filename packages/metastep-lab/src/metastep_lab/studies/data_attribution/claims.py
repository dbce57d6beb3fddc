"""What the tables of `data-attribution` say: its statements and its answer."""

from functools import partial

import numpy as np
import pandas as pd

from metastep_lab.claims import (
    Numbers,
    Statement,
    beyond,
    each,
    lacking,
    listed,
    mean_and_error,
    span,
    yes_or_no,
)
from metastep_lab.tables import Frame, Record

BARS = {"linear": 0.95, "network": 0.95, "transformer": 0.9}
"""The LDS that exact scores must have at the smooth step size."""

SHARE, SUBSETS, SEEDS = 0.05, 50, 3
"""What the bars are for: removals of this share at most, so many of them and seeds at least."""

LOW = 0.7
"""An LDS of which a user has to be warned."""

RELATED = 0.5
CLEAR = 2.0
"""Standard errors by which a difference counts."""

TIMES = 3
"""How many times as many spoilt examples as by chance must be found."""


def smooth(record: Record, name: str = "scores") -> Frame:
    """Return the rows of a table at the smooth step size."""
    return record.frames[name].query("speed == @record.config.speeds[0]")


def by_method(record: Record, model: str) -> Frame:
    """Return the LDS at the smooth step size: one row for each seed, one column for each method."""
    rows = smooth(record).query("model == @model")
    return rows.pivot(index="seed", columns="method", values="lds")


def _too_small(record: Record, model: str | None = None) -> str | None:
    config = record.config
    if model is not None and model not in config.models:
        return f"needs the {model} model"
    if config.seeds < SEEDS or config.subsets < SUBSETS or config.share > SHARE:
        return (
            f"needs {SEEDS} seeds, {SUBSETS} subsets and a share of at most {SHARE:g}; this run "
            f"has {config.seeds}, {config.subsets} and {config.share:g}"
        )
    return None


def _exact(record: Record, model: str) -> Numbers:
    scores = by_method(record, model)
    mean, error = mean_and_error(scores["exact"])
    others = scores.drop(columns="exact").mean()
    return {"mean": mean, "error": error, "others": listed(others, ".3f")}


def _over_others(model: str, table: Frame) -> list[tuple]:
    """Return the lead of the exact scores over each other method, paired by seed.

    `table` has a row for each seed and a column for each method. A method that failed where the
    exact scores did not is left out. Where these failed their lead is NaN, which decides nothing.
    """
    others, fine = table.drop(columns="exact"), table["exact"].notna()
    others = others.loc[:, others[fine].notna().all()]
    # Paired: the seeds differ more than the methods.
    leads = others.rsub(table["exact"], axis=0)
    found = zip(leads, *mean_and_error(leads), strict=True)
    return [(f"{model} over {other}", *lead) for other, *lead in found]


def _leads(record: Record) -> Frame:
    """Return the exact LDS minus that of each other method."""
    models = record.config.models
    rows = [row for model in models for row in _over_others(model, by_method(record, model))]
    return pd.DataFrame(rows, columns=["pair", "lead", "error"])


def _warnings(record: Record) -> Numbers:
    """Return the LDS of the exact scores, by whether they were trusted; failed ones count as 0."""
    exact = record.frames["scores"].query("method == 'exact'")
    # Both tables have seconds, hence the suffix.
    runs = exact.merge(
        record.frames["training"], on=["model", "speed", "seed"], suffixes=("", "_training")
    )
    # Scores that are not finite rank nothing, which is chance.
    runs = runs.assign(lds=runs["lds"].fillna(0.0))
    believed = runs["trusted"] == 1
    bars = runs["model"].map(BARS)
    return {
        "runs": runs,
        "missed": int(np.sum(believed & (runs["lds"] < LOW))),
        "false": int(np.sum(~believed & (runs["lds"] >= bars))),
        "good": runs["lds"][believed],
        "bad": runs["lds"][~believed],
    }


def _written(found: Numbers) -> str:
    parts = [
        f"{len(found[kind])} {text}"
        + (f", LDS {span(found[kind], '.2f')}" if len(found[kind]) else "")
        for kind, text in (("good", "runs were believed"), ("bad", "were warned of"))
    ]
    return (
        f"{'; '.join(parts)}; {found['missed']} believed below {LOW:g}, {found['false']} warned of "
        "at or above their bar"
    )


def relation(record: Record) -> Numbers:
    """Return the rank correlation of the measurements before removal with the LDS."""
    runs = _warnings(record)["runs"]
    # Pearson's correlation of ranks is Spearman's.
    ranks = runs[["metasmoothness", "trusted", "lds"]].rank()
    # A removal that could not be predicted at all is worse than any that was missed.
    error = runs["removal_error"].fillna(np.inf).rank()
    return {
        "warning": -ranks["trusted"].corr(ranks["lds"]),
        "smoothness": ranks["metasmoothness"].corr(ranks["lds"]),
        "error": error.corr(ranks["lds"]),
        "runs": len(runs),
    }


def _rises(record: Record) -> Numbers:
    """Return the additional rise of the loss without the examples that exact scores choose."""
    rows, shares = [], []
    for model, curves in record.frames["curves"].groupby("model", sort=False):
        # Over the shares first: the removals of a seed contain each other, and are no draws.
        rises = curves.groupby(["seed", "method"])["rise"].mean().unstack()
        # Without a column where the exact scores failed with every seed.
        methods = rises.columns.union(["exact"])
        rows += _over_others(model, rises.reindex(columns=methods))
        by_share = curves.groupby(["removed", "method"])["rise"].mean().unstack()
        by_share = by_share.reindex(columns=methods)
        # pandas refuses to look for the largest of NaN alone, of a training that diverged.
        best = by_share.drop(columns="exact").fillna(-np.inf)
        shares += [
            f"{model} {share:.0%} {exact:.3g}, {name} {rise:.3g}"
            for share, exact, name, rise in zip(
                *(by_share.index, by_share["exact"], best.idxmax(axis=1), best.max(axis=1)),
                strict=True,
            )
        ]
    table = pd.DataFrame(rows, columns=["pair", "lead", "error"])
    return {"rows": table, "shares": "; ".join(shares)}


def _no_recall(record: Record) -> str | None:
    if not len(record.frames["recall"]):
        return "needs spoilt examples"
    return None if record.config.seeds >= SEEDS else f"needs {SEEDS} seeds"


def _recall(record: Record) -> Frame:
    """Return how much more than required exact scores find, checking as many as were spoilt."""
    config, rows = record.config, record.frames["recall"]
    shares = rows["checked"].unique()
    chance = shares[np.argmin(np.abs(shares - config.planted))]
    exact = rows[(rows["method"] == "exact") & (rows["checked"] == chance)]
    by_seed = exact.pivot(index="seed", columns="model", values="recall")
    # Scores that failed have no row: here NaN, so that the others do not speak for their seed.
    mean, error = mean_and_error(by_seed.reindex(range(config.seeds), columns=config.models))
    found = pd.DataFrame({"recall": mean, "error": error, "chance": chance}).rename_axis("model")
    return found.assign(lead=found["recall"] - TIMES * chance)


def _pairs(rows: Frame) -> str:
    parts = (f"{row.pair} {row.lead:+.3g}±{row.error:.2g}" for row in rows.itertuples())
    return "; ".join(parts)


CLAIMS = (
    *(
        Statement(
            f"exact-{model}",
            f"Ilyas and Engstrom 2025: exact scores predict what leaving out {SHARE:.0%} of the "
            f"examples does. Here, {model}: an LDS of at least {bar:g} where training is smooth.",
            lacks=partial(_too_small, model=model),
            measure=partial(_exact, model=model),
            verdict=lambda found, bar=bar: found["mean"] >= bar,
            evidence="LDS {mean:.4f}±{error:.4f} over {config.seeds} seeds of {config.subsets} "
            "subsets; other methods: {others}",
            reasons={
                False: "This step size is at the edge of smoothness: see the metasmoothness of "
                "the runs, and those at smaller speeds."
            },
        )
        for model, bar in BARS.items()
    ),
    Statement(
        "exact-leads",
        "The LDS of exact scores is higher than that of truncated ones, of influence functions and "
        f"of gradient cosines. Here: by more than {CLEAR:g} standard errors for every model.",
        lacks=lacking(f"needs {SEEDS} seeds", lambda record: record.config.seeds >= SEEDS),
        measure=_leads,
        verdict=lambda rows: beyond(rows["lead"], CLEAR * rows["error"]),
        evidence=_pairs,
    ),
    Statement(
        "warned",
        f"Exact scores are not believed where they predict badly. Here: no run with an LDS below "
        f"{LOW:g} was believed, and none at its bar or above was warned of.",
        lacks=lacking("needs two speeds", lambda record: len(record.config.speeds) > 1),
        measure=_warnings,
        verdict=lambda found: found["missed"] == found["false"] == 0,
        evidence=_written,
        reasons={
            False: "The warning is a threshold on a single removal; at the edge of smoothness "
            "it falls on either side."
        },
    ),
    Statement(
        "warning-relates",
        "What is measured beforehand goes with the LDS. Here: over all runs the rank correlation "
        f"of the metasmoothness with it is above {RELATED:g}, and that of the error of one removal "
        f"below -{RELATED:g}.",
        lacks=lacking("needs two speeds", lambda record: len(record.config.speeds) > 1),
        measure=relation,
        verdict=lambda found: found["smoothness"] > RELATED and found["error"] < -RELATED,
        evidence="metasmoothness {smoothness:.2f}, error of one removal {error:.2f}, the warning "
        "(given or not) {warning:.2f}, {runs} runs",
    ),
    Statement(
        "leave-out",
        "Without the examples that exact scores call most helpful the loss of the queries rises "
        "more than without those of any other method. Here: by more than "
        f"{CLEAR:g} standard errors for every model, on average over the removed shares.",
        lacks=lacking(f"needs {SEEDS} seeds", lambda record: record.config.seeds >= SEEDS),
        measure=_rises,
        verdict=lambda found: beyond(found["rows"]["lead"], CLEAR * found["rows"]["error"]),
        evidence=lambda found: (
            f"{_pairs(found['rows'])}. Rise by share, exact and the best other: {found['shares']}. "
            "A derivative foretells small removals; the loss of most of a class is more than the "
            "sum of its examples."
        ),
    ),
    Statement(
        "finds-spoilt",
        "The examples with the most harmful exact scores are spoilt ones. Here: of the spoilt "
        f"ones {TIMES} times as many are among them as by chance, and more by {CLEAR:g} standard "
        "errors.",
        lacks=_no_recall,
        measure=_recall,
        verdict=lambda rows: beyond(rows["lead"], CLEAR * rows["error"]),
        evidence=each(
            "{model} {recall:.2f}±{error:.2f} (by chance {chance:.2f})",
            opening="share of the spoilt examples found: ",
        ),
        reasons={
            False: "A score says what an example does to the given queries: a spoilt example that "
            "none of a few queries resembles harms none of them."
        },
    ),
)


def answer(record: Record) -> str:
    """Say how well exact scores predict, and how well their quality can be predicted."""
    small = _too_small(record)
    if small is not None:
        return f"This run cannot tell: it {small}."
    models = list(record.config.models)
    exact = {model: _exact(record, model)["mean"] for model in models}
    opening = yes_or_no([exact[model] >= BARS[model] for model in models])
    found = _warnings(record)
    cosine = {model: by_method(record, model)["gradient cosine"].mean() for model in models}
    return (
        f"{opening}. The rank correlation of predicted and true changes of exact scores is "
        f"{listed(exact, '.3f')}; of gradient cosines {listed(cosine, '.3f')}. With larger steps "
        f"training responds less smoothly: of {len(found['runs'])} runs {len(found['bad'])} were "
        f"warned of before anything was left out, and {found['missed']} of those with a "
        f"correlation below {LOW:g} were not."
    )
