"""What the tables of `maml-nonlinear` say: its answer, claims and figures."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import t as student

from metastep_lab.claims import Claim
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, Table, select

LEVEL = 0.0027
"""The probability beyond three standard errors, which decides a sign: many are looked at."""

PAPER = "paper"
WITHOUT_HALF = 2.0
"""Both rates act this much stronger under a loss without the 1/2."""


def answer(record: Record) -> str:
    """Say what the paper's negative rate does to the loss, trained and in the linearized limit."""
    rates, differences = _paper(record), _finest(record, PAPER)
    verdicts, words = [], []
    for name, limits in (("trained", ("trained", "controlled")), ("linearized", ("linearized",))):
        chosen = _most_precise(differences, limits, rates)
        if chosen is not None:
            verdicts.append(_verdict(differences[chosen], rates))
            words.append(_effect(name, differences[chosen], rates, verdicts[-1]))
    if not words:
        return "This run cannot tell: the paper's rates were not run, or fewer than two times."
    known = {verdict for verdict in verdicts if verdict is not None}
    opening = "This run cannot tell" if not known else "Only in part"
    if len(known) == 1:
        sure = None not in verdicts and len(verdicts) == 2
        opening = ("Yes" if True in known else "No") + ("" if sure else ", as far as it can tell")
    return (
        f"{opening}. A step size of {rates[0]:g} in training instead of 0 changes the loss on new "
        f"tasks by {' and by '.join(words)}. Linearized means: replaced by its tangent at the "
        "start."
    )


def _effect(name: str, table: Table, rates: tuple[float, float], verdict: bool | None) -> str:
    """Write a difference of a network, and whether its sign is more than chance."""
    row = _at(table, rates)
    better = row["difference"][0] < 0
    note = "not decided" if verdict is None else "lower" if better else "higher"
    note += ", but a larger rate is better still" if verdict is False and better else ""
    return (
        f"{row['difference'][0]:+.3f}±{row['standard_error'][0]:.3f} in the {name} network "
        f"({row['runs'][0]:g} runs: {note})"
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold Figure 5 against the tables, and the tables against each other."""
    config = record.config
    rates = config.paper_rate, config.paper_test_rate
    doubled = WITHOUT_HALF * rates[0], WITHOUT_HALF * rates[1]
    return (
        _optimum_claim(
            record,
            "negative-optimum",
            "Figure 5: the test loss of the trained network is smaller at the train rate "
            f"{rates[0]:g} than at zero and at positive ones.",
            ("trained", "controlled"),
            rates,
        ),
        _optimum_claim(
            record,
            "negative-optimum-linearized",
            "Figure 5 in the linearized limit, with the exact solution of the outer problem.",
            ("linearized",),
            rates,
        ),
        _optimum_claim(
            record,
            "negative-optimum-without-half",
            "Figure 5 if the squared error has no 1/2, so that both rates act twice as strongly: "
            f"train rate {doubled[0]:g} at test rate {doubled[1]:g} here (trained network).",
            ("trained", "controlled"),
            doubled,
        ),
        *_other_test_rates(record),
        *_readings_claims(record),
        _training_claim(record),
        _limit_claim(record),
        _adaptation_claim(record),
        _protocol_claim(record),
    )


def _finest(record: Record, reading: str) -> dict[str, Table]:
    """The differences of a reading by limit: exact, and trained to the last epoch."""
    table = select(record.tables["difference"], reading=reading)
    last = max(record.config.epochs)
    found = {
        "linearized": select(table, limit="linearized", epochs=math.inf),
        "trained": select(table, limit="trained", epochs=last),
        "controlled": select(table, limit="controlled", epochs=last),
    }
    return {name: part for name, part in found.items() if len(part["z"])}


def _most_precise(
    differences: Mapping[str, Table], limits: tuple[str, ...], rates: tuple[float, float]
) -> str | None:
    """The limit whose difference at a train and a test rate has the smallest standard error."""
    errors = {
        name: _at(differences[name], rates)["standard_error"]
        for name in limits
        if name in differences
    }
    known = {name: error[0] for name, error in errors.items() if np.isfinite(error).any()}
    return min(known, key=known.__getitem__) if known else None


def _at(table: Table, rates: tuple[float, float]) -> Table:
    return select(table, train_rate=rates[0], test_rate=rates[1])


def _decisive(runs: np.ndarray) -> np.ndarray:
    """How many standard errors decide a sign after a number of runs; 3 after many."""
    # One degree of freedom for the mean, and one for the slope of a control variate.
    return student.isf(LEVEL / 2, np.maximum(runs - 2, 1))


def _verdict(table: Table, rates: tuple[float, float]) -> bool | None:
    """Whether a negative rate is better than zero and positive ones; None where undecided."""
    row = _at(table, rates)
    if not len(row["z"]) or not abs(row["z"][0]) > _decisive(row["runs"])[0]:
        return None
    curve = select(table, test_rate=rates[1])
    best = np.nanargmin(curve["difference"])
    return bool(row["z"][0] < 0 and curve["train_rate"][best] < 0)


def _number(row: Table, index: int = 0) -> str:
    return f"{row['difference'][index]:+.4f}±{row['standard_error'][index]:.4f}"


def _curve(table: Table, test_rate: float) -> str:
    rows = select(table, test_rate=test_rate)
    order = np.argsort(rows["train_rate"])
    return ", ".join(f"rate={rows['train_rate'][i]:g} {_number(rows, i)}" for i in order)


def _optimum_claim(
    record: Record,
    name: str,
    text: str,
    limits: tuple[str, ...],
    rates: tuple[float, float],
    reading: str = PAPER,
) -> Claim:
    differences = _finest(record, reading)
    chosen = _most_precise(differences, limits, rates)
    if chosen is None:
        return Claim(name, text, None, "these rates were not run, or fewer than two times")
    table, row = differences[chosen], _at(differences[chosen], rates)
    runs = row["runs"][0]
    control = ", with the linearized network as control variate" if chosen == "controlled" else ""
    limit = _at(differences["linearized"], rates)
    beside = "" if chosen == "linearized" else f"; in the linearized limit {_number(limit)}"
    return Claim(
        name,
        text,
        _verdict(table, rates),
        f"at {rates[0]:g}, {_number(row)} (z = {row['z'][0]:.1f}, decisive from "
        f"{_decisive(runs):.1f}; {runs:g} runs{control}){beside}; loss minus that of rate 0 by "
        f"train rate, {_curve(table, rates[1])}",
    )


def _other_test_rates(record: Record) -> tuple[Claim, ...]:
    """One claim for each weaker adaptation, in the linearized limit, which has the most runs."""
    config = record.config
    return tuple(
        _optimum_claim(
            record,
            f"negative-optimum-test-rate-{test_rate:g}",
            f"Not in the paper: with the weaker adaptation {test_rate:g} on new tasks the train "
            f"rate {config.paper_rate:g} is better than zero and positive ones (linearized limit).",
            ("linearized",),
            (config.paper_rate, test_rate),
        )
        for test_rate in config.test_rates
        if 0 <= test_rate < config.paper_test_rate
    )


def _readings_claims(record: Record) -> tuple[Claim, ...]:
    """One claim for each other reading of the network."""
    found, rates = [], _paper(record)
    for name in record.tables["reading"]["reading"]:
        if name != PAPER:
            limits = _finest(record, name)
            for limit in ("linearized", *(("trained",) if "trained" in limits else ())):
                found.append(
                    _optimum_claim(
                        record,
                        f"negative-optimum-{name.replace(' ', '-')}"
                        + ("" if limit == "linearized" else "-trained"),
                        f"Figure 5 with another network: {name}"
                        + (" (linearized limit)." if limit == "linearized" else " (trained)."),
                        ("linearized",) if limit == "linearized" else ("trained", "controlled"),
                        rates,
                        name,
                    )
                )
    return tuple(found)


def _paper(record: Record) -> tuple[float, float]:
    return record.config.paper_rate, record.config.paper_test_rate


def _training_claim(record: Record) -> Claim:
    table, last = record.tables["training"], max(record.config.epochs)
    end = select(table, epochs=last) if len(table["epochs"]) else table
    largest = np.max(end["maximum"], initial=0.0)
    # A thousandth of the loss that noise alone would cause changes no difference in sight.
    allowed = record.config.noise**2 / 2 / 1000
    return Claim(
        "training-converged",
        "Section 5.4: the outer descent is run until convergence; here its loss ends below a "
        "thousandth of the noise, for every rate and run.",
        bool(largest <= allowed) if len(end["maximum"]) else None,
        f"largest outer loss after {last} epochs {largest:.2g}, allowed {allowed:.2g}"
        if len(end["maximum"])
        else "trained_runs is 0",
    )


def _limit_claim(record: Record) -> Claim:
    config, differences = record.config, _finest(record, PAPER)
    text = (
        "Section 5.3 (Jacot et al. 2018): a wide network behaves as its linearization; here: run "
        "by run, the differences of the trained network are correlated above 0.9 with those of the "
        "linearized one, and no decided signs differ, at the paper's test rate and at twice it, "
        "which is the paper's if its squared error has no 1/2."
    )
    if "trained" not in differences:
        return Claim("limit-predicts-training", text, None, "trained_runs is 0")
    verdicts, words = [], []
    for test_rate in (config.paper_test_rate, WITHOUT_HALF * config.paper_test_rate):
        if test_rate in config.test_rates:
            verdict, evidence = _limit_at(differences, test_rate)
            verdicts.append(verdict)
            words.append(evidence)
    known = bool(verdicts) and None not in verdicts
    holds = False if False in verdicts else True if known else None
    evidence = "; ".join(words) or "the paper's test rates were not run"
    return Claim("limit-predicts-training", text, holds, evidence)


def _limit_at(differences: Mapping[str, Table], test_rate: float) -> tuple[bool | None, str]:
    """Whether the linearized network predicts the trained one at a test rate, and the numbers."""
    trained = select(differences["trained"], test_rate=test_rate)
    estimate = differences.get("controlled", differences["trained"])
    estimate = select(estimate, test_rate=test_rate)
    beside = select(differences["linearized"], test_rate=test_rate)
    same = np.isin(beside["train_rate"], estimate["train_rate"])
    product = estimate["z"] * beside["z"][same]
    decided = abs(estimate["z"]) > _decisive(estimate["runs"])
    decided &= abs(beside["z"][same]) > _decisive(beside["runs"][same])
    lowest = trained["correlation"].min() if len(trained["z"]) else math.nan
    verdict = bool(lowest > 0.9 and np.all(product[decided] > 0)) if math.isfinite(lowest) else None
    return verdict, (
        f"test rate {test_rate:g}: smallest correlation {lowest:.3f} over {len(trained['z'])} "
        f"rates, {decided.sum()} signs decided in both, {np.sum(product[decided] < 0)} of them "
        "different"
    )


def _adaptation_claim(record: Record) -> Claim:
    table = select(record.tables["loss"], reading=PAPER, limit="linearized", epochs=math.inf)
    table = select(table, train_rate=0)
    base, test_rate = select(table, test_rate=0), record.config.paper_test_rate
    paper = select(table, test_rate=test_rate)
    text = (
        "Section 6: the learning rate on new tasks should be positive (linearized limit, train "
        "rate 0)."
    )
    if not len(base["mean"]) or not len(paper["mean"]):
        return Claim("adaptation-helps", text, None, "needs test rate 0 and the paper's")
    error = math.hypot(base["standard_error"][0], paper["standard_error"][0])
    apart = paper["mean"][0] - base["mean"][0]
    evidence = ", ".join(
        f"test rate={rate:g} {mean:.4f}±{spread:.4f}"
        for rate, mean, spread in zip(
            table["test_rate"], table["mean"], table["standard_error"], strict=True
        )
    )
    holds = None if abs(apart) < 3 * error else bool(apart < 0)
    return Claim("adaptation-helps", text, holds, f"loss at {evidence}")


def _protocol_claim(record: Record) -> Claim:
    rate, test_rate = _paper(record)
    table = select(record.tables["loss"], reading=PAPER, limit="linearized", epochs=math.inf)
    zero = select(table, train_rate=0, test_rate=test_rate)
    row = select(_finest(record, PAPER)["linearized"], train_rate=rate, test_rate=test_rate)
    text = (
        "Not in the paper: ten runs whose draws differ between rates, as its error bars suggest, "
        "cannot show a difference of this size at three standard errors (linearized limit)."
    )
    if not len(zero["mean"]) or not len(row["z"]):
        return Claim("ten-runs-undecided", text, None, "the paper's rates were not run")
    spread = zero["standard_error"][0] * math.sqrt(zero["runs"][0] / 10 * 2)
    paired = row["standard_error"][0] * math.sqrt(row["runs"][0] / 10)
    return Claim(
        "ten-runs-undecided",
        text,
        bool(abs(row["difference"][0]) < 3 * spread),
        f"difference {_number(row)}; standard error with ten unpaired runs {spread:.4f}, with ten "
        f"paired runs {paired:.4f}",
    )


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the test loss as the paper does, and the paired differences."""
    return {"figure-5": _loss_figure(record), "differences": _difference_figure(record)}


def _banded(table: Table, value: str) -> tuple[tuple, tuple]:
    order = np.argsort(table["train_rate"])
    x, y, error = (table[name][order] for name in ("train_rate", value, "standard_error"))
    return (1000 * x, y), (y - error, y + error)


def _loss_figure(record: Record) -> tuple[Figure, str]:
    table, config = select(record.tables["loss"], reading=PAPER), record.config
    series, bands = {}, {}
    for limit, epochs in (("linearized", math.inf), ("trained", max(config.epochs))):
        rows = select(table, limit=limit, epochs=epochs, test_rate=config.paper_test_rate)
        if len(rows["mean"]):
            series[limit], bands[limit] = _banded(rows, "mean")
    panel = Lines(
        series=series,
        x_label="1000 x train rate",
        y_label="loss on new tasks",
        title=f"test rate {config.paper_test_rate:g}",
        bands=bands,
    )
    text = (
        f"Loss of a network of width {config.width} on new tasks against the inner step size in "
        "training, mean over runs with one standard error shaded: the axes of the paper's Figure "
        "5. The errors are those of the level, which all rates of a run share; what differs "
        "between rates is in the other figure. Linearized: the network replaced by its tangent at "
        "the start."
    )
    return line_figure(panel), text


def _difference_figure(record: Record) -> tuple[Figure, str]:
    differences, panels = _finest(record, PAPER), []
    for test_rate in record.config.test_rates:
        series, bands = {}, {}
        for limit, table in differences.items():
            if limit != "trained" or "controlled" not in differences:
                rows = select(table, test_rate=test_rate)
                zero = dict.fromkeys(rows, np.zeros(1))
                rows = {name: np.append(rows[name], zero[name]) for name in _DRAWN}
                label = "trained" if limit == "controlled" else limit
                series[label], bands[label] = _banded(rows, "difference")
        panels.append(
            Lines(
                series=series,
                x_label="1000 x train rate",
                y_label="loss minus that of rate 0",
                title=f"test rate {test_rate:g}",
                bands=bands,
            )
        )
    text = (
        "Paired difference of the loss on new tasks to that of train rate 0, with one standard "
        "error shaded, for each test rate. Below zero a train rate is better than none. The errors "
        "of the trained network are reduced by what the linearized one, its tangent at the start, "
        "shows in many more runs, where there are enough."
    )
    return line_figure(*panels, shared_legend=True), text


_DRAWN = ("train_rate", "difference", "standard_error")
