"""The figures of `downstream-transfer`."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record
from metastep_lab.theory.transfer import PRINTED_CONSTANT, PROVEN_CONSTANT
from metastep_lab.wu2022.downstream_transfer.claims import ORDINARY, heads

FAMILIES = {
    "less trained": "part of the training left out",
    "perturbed": "noise / size of the entries",
    "shifted": "shift of all logits, nats",
    "silenced": "words of class 1 lowered by, nats",
}
NOISY = {"interest": "noise on words of interest", "all words": "on all words"}


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw heads against distance, the bound, its constant, and the assumption that fails."""
    return {
        "heads": _heads_figure(record),
        "bound": _bound_figure(record),
        "constant": _constant_figure(record),
        "assumption": _assumption_figure(record),
    }


def _heads_figure(record: Record) -> tuple[Figure, str]:
    panels = []
    for family, label in FAMILIES.items():
        transferred, refitted = (
            {
                f"{logits} logits": (rows["strength"], rows["accuracy"])
                for logits in ("raw", "anchored")
                for rows in [heads(record, family, logits, fitted_on)]
            }
            for fitted_on in ("teacher", "student")
        )
        panels.append(
            Lines(
                transferred,
                label,
                "accuracy on held-out lines",
                title=family,
                x_log=family in ("perturbed", "shifted"),
                dashed=refitted,
                dashed_label="head fitted again",
            )
        )
    text = (
        "Accuracy of a classifier (head) fitted to the scores of words (logits) of one language "
        "model, the teacher, when it is given those of another, the student; dashed if it is "
        "fitted again. Students are trained less, have noise in their word vectors, shift all "
        "logits together or lower those of one class. Anchored logits are relative to an anchor."
    )
    return line_figure(*panels, shared_legend=True), text


def _bound_figure(record: Record) -> tuple[Figure, str]:
    panels, shown = [], ["divergence", "error", "proven", "printed"]
    means = record.frames["bound"].groupby(["noisy", "strength"])[shown].mean()
    for noisy, title in NOISY.items():
        rows = means.loc[noisy]
        names = {
            f"bound, constant {PROVEN_CONSTANT:g}": "proven",
            f"bound, constant {PRINTED_CONSTANT:g}": "printed",
            "measured error": "error",
        }
        panels.append(
            Lines(
                {label: (rows["divergence"], rows[name]) for label, name in names.items()},
                "divergence, nats",
                "share of wrong decisions",
                title=title,
                x_log=True,
                y_log=True,
            )
        )
    text = (
        "Measured error and bound of synthetic students, means over models, against their "
        "divergence from the teacher, with the constant as proven and as printed; also where the "
        "assumptions of the bound fail. A bound above 1 says nothing; an error of 0 is not drawn."
    )
    return line_figure(*panels, shared_legend=True), text


def _constant_figure(record: Record) -> tuple[Figure, str]:
    rows = record.frames["constant"]
    by_error = rows.pivot(index="normalized_margin", columns="error_ratio")
    margins, worst = by_error.index, rows["error_ratio"].max()
    flat = lambda value: (margins, 0 * margins + value)
    curve = lambda name, ratio: (margins, by_error[name, ratio])
    panel = Lines(
        {
            "proven, 1152": flat(PROVEN_CONSTANT),
            "printed, 288": flat(PRINTED_CONSTANT),
            "lemma minimized exactly": curve("exact", worst),
            "needed, anchors wrong by Γ / 8": curve("needed", worst),
            "needed, exact anchors": curve("needed", 0.0),
        },
        "normalized margin Γ, nats",
        "constant of the bound",
        x_log=True,
        y_log=True,
    )
    text = (
        "The constant of Theorem 3.5.7 against the margin Γ by which the teacher's head decides: "
        "what the proof and the print have, what the lemma gives without splitting cases, and what "
        f"the worst student known needs, {rows['needed'].max():.1f} at most."
    )
    return line_figure(panel), text


def _assumption_figure(record: Record) -> tuple[Figure, str]:
    keys = ["task", "top", "family", "strength"]
    rows = record.frames["assumptions"].query("assumption == 'linear-approximation'")
    rows = rows.merge(record.frames["text_bound"][[*keys, "divergence"]], on=keys)
    rows = rows.query("task == 'sure'").sort_values("divergence")
    panels = []
    for top, part in rows.groupby("top"):
        by_family = dict(list(part.groupby("family")))
        curves = lambda name, by_family=by_family: {
            family: (by_family[family]["divergence"], by_family[family][name])
            for family in ORDINARY
        }
        panels.append(
            Lines(
                curves("value"),
                "divergence of the student, nats",
                "error of the anchors, nats",
                title=f"bulk without the top {top:g} words" if top else "bulk of all other words",
                x_log=True,
                y_log=True,
                dashed=curves("limit"),
                dashed_label="allowed, Γ / 8",
            )
        )
    text = (
        "Largest error of the best anchors on the text against the divergence of the student from "
        "the teacher, with what Theorem 3.5.7 allows dashed: an eighth of the margin Γ by which "
        "the teacher's head decides. Above it the assumption fails."
    )
    return line_figure(*panels, shared_legend=True), text
