"""The claims of `sparse-coding` about forms of training, remarks of section 2.4."""

from collections.abc import Callable
from typing import Any

from metastep_lab.claims import Numbers, Statement, beyond, lacking, mean_and_error
from metastep_lab.tables import Frame, Record

SIMILAR = 0.2
"""Ours: of the difference between masking and baseline, what counts as similar performance."""


def _training(record: Record, start: str) -> Frame:
    """Return the errors of the forms of training from one start, a row for each seed."""
    rows = record.rows("training", initialization=start)
    return rows.pivot(index="seed", columns="algorithm", values="error")


def _against_masking(record: Record, prefix: str) -> Numbers:
    """Return how much larger the errors of a form of training are; of the best if several."""
    errors = _training(record, "sample")
    named = [name for name in errors if name.startswith(prefix)]
    best = errors[named].mean().idxmin()
    change, error = mean_and_error(errors[best] - errors["masking"])
    gap = (errors["baseline"] - errors["masking"]).mean()
    return {"best": best, "change": change, "error": error, "gap": gap, "means": errors.mean()}


def _form(
    id: str, text: str, prefix: str, verdict: Callable[[Numbers], bool | None], **rest: Any
) -> Statement:
    """Return a statement that compares a form of training with masking."""
    return Statement(
        id,
        text,
        lambda record: _against_masking(record, prefix),
        verdict,
        "{best}: {change:+.4f} ± {error:.4f} (baseline {gap:+.4f}); errors: {means:.3f}",
        lacking("needs the forms of training", lambda record: "training" in record.frames),
        **rest,
    )


def _farther(found: Numbers) -> bool | None:
    return beyond(found["change"], 2 * found["error"])


TRAINING_CLAIMS = (
    _form(
        "masks-in-turn-do-as-well",
        "Section 2.4: deterministically cycling through masks has a similar performance (here: the "
        f"error changes by less than {SIMILAR:g} of the difference between masking and baseline).",
        "masks in turn",
        lambda found: abs(found["change"]) < SIMILAR * found["gap"],
    ),
    _form(
        "one-mask-is-not-enough",
        "Section 2.4: a single mask would leave all other rows of B as they are (here: its error "
        "is above that of drawn masks by two standard errors).",
        "one mask",
        _farther,
    ),
    _form(
        "adam-is-faster",
        "Section 2.4: Adam trains significantly faster than SGD (here: after as many passes, the "
        "error of the best of three rates of plain steps is above that of Adam by two standard "
        "errors).",
        "plain steps",
        _farther,
        reasons={
            False: "A plain step of the right length recovers better than Adam; longer ones fail, "
            "as the thesis says.",
        },
    ),
    Statement(
        "masking-better-from-random-atoms",
        "Not in the thesis: from random atoms masking recovers better, too (here: by two standard "
        "errors).",
        lambda record: _training(record, "random").eval("baseline - masking"),
        lambda gaps: beyond(gaps.mean(), 2 * gaps.sem()),
        lambda gaps: f"difference {gaps.mean():.4f} ± {gaps.sem():.4f}",
        lacking("needs the forms of training", lambda record: "training" in record.frames),
    ),
)
