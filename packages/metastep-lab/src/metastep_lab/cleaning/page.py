"""The page of `metastep clean`: the suspects, how far to trust the ranking, what to do next."""

from html import escape
from typing import NamedTuple

import numpy as np

from metastep_lab.cleaning.ranking import Ranking
from metastep_lab.cleaning.reading import LabelledFile
from metastep_lab.cleaning.reliability import Reliability
from metastep_lab.report.document import document
from metastep_lab.report.tables import format_number, pairs_table, scrolling

SHOWN = 60
CELLS = 8
LONGEST = 80  # letters of a cell


class Outcome(NamedTuple):
    """What came out.

    Attributes:
        classes: the labels there are.
        labels: the given one of every row, as a position in `classes`.
        ranking: the verdict on every row.
        reliability: what planted labels say, or None.
        notes: how the columns were used.
        model: what judged.
        validated: whether there was a validation file.
    """

    classes: np.ndarray
    labels: np.ndarray
    ranking: Ranking
    reliability: Reliability | None
    notes: list[str]
    model: str
    validated: bool

    def order(self) -> np.ndarray:
        """Return the suspects, the most suspicious first."""
        order = np.argsort(-self.ranking.scores, kind="stable")
        return order[self.ranking.suspect[order]]


def build_page(file: LabelledFile, outcome: Outcome, command: str) -> str:
    """Build the page.

    Args:
        file: what was cleaned.
        outcome: what came out.
        command: the command line that made it.

    Returns:
        HTML that fetches nothing.
    """
    order, rows = outcome.order(), len(file.labels)
    plural = "label is" if len(order) == 1 else "labels are"
    lead = f"{len(order):,} of {rows:,} {plural} suspect ({len(order) / rows:.1%})."
    title = f"metastep: the labels of {file.path.name}"
    body = "\n".join(
        (
            f'<p class="answer">{lead} {_estimate(outcome.reliability)}</p>',
            '<h2 id="suspects">The most suspicious</h2>',
            _pictures(file, outcome, order) if file.images else _rows(file, outcome, order),
            '<h2 id="confusions">Which classes are confused</h2>',
            _confusions(outcome, order),
            '<h2 id="trust">How far to trust this</h2>',
            _trust(outcome),
            '<h2 id="next">What to do next</h2>',
            _next(outcome),
            '<h2 id="how">How it was made</h2>',
            pairs_table("Columns and model", [("model", outcome.model), *_notes(outcome)]),
            f'<pre tabindex="0"><code>{escape(command)}</code></pre>',
        )
    )
    introduction = (
        f"The column {escape(file.column)!s} of {escape(str(file.path))} was compared with what "
        "models say that were trained on the other rows. A score near 1 means that another class "
        "fits the row much better than the given one."
    )
    return document(title, f"<p>{introduction}</p>", body)


def _estimate(found: Reliability | None) -> str:
    if found is None:
        return "There are too few rows to estimate how many of them are wrong."
    return (
        f"An estimated {found.share[0]:.1%} of all labels are wrong (95 % interval "
        f"{found.share[1]:.1%} to {found.share[2]:.1%}), and {found.precision[0]:.0%} of the "
        f"suspects ({found.precision[1]:.0%} to {found.precision[2]:.0%})."
    )


def _pictures(file: LabelledFile, outcome: Outcome, order: np.ndarray) -> str:
    """Show suspects as pictures with both labels."""
    if not len(order) or file.images is None:
        return "<p>None.</p>"
    items = []
    for row in order[:SHOWN]:
        given, suggested = _names(outcome, row)
        items.append(
            f'<li><img src="{file.images.as_data(int(row))}" alt="row {row + 1}">'
            f"<br>{given} &rarr; <strong>{suggested}</strong>"
            f"<br><small>row {row + 1}, {outcome.ranking.scores[row]:.3f}</small></li>"
        )
    return (
        f"<p>Given label &rarr; suggested label, the {len(items)} most suspicious of "
        f'{len(order):,}; all are in <code>suspects.csv</code>.</p><ul class="suspects">'
        f"{''.join(items)}</ul>"
    )


def _rows(file: LabelledFile, outcome: Outcome, order: np.ndarray) -> str:
    """Show suspects as rows of a table."""
    if not len(order):
        return "<p>None.</p>"
    names = [str(name) for name in file.inputs.columns[:CELLS]]
    more = file.inputs.shape[1] - len(names)
    head = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in ("row", "given", "suggested", "score", *names, *(["..."] if more else []))
    )
    lines = []
    for row in order[:SHOWN]:
        given, suggested = _names(outcome, row)
        cells = file.inputs.iloc[int(row), : len(names)]
        texts = "".join(f"<td>{escape(_short(cell))}</td>" for cell in cells)
        lines.append(
            f'<tr><td class="number">{row + 1:,}</td><td>{given}</td>'
            f"<td><strong>{suggested}</strong></td>"
            f'<td class="number">{outcome.ranking.scores[row]:.3f}</td>{texts}'
            f"{f'<td>{more} more</td>' if more else ''}</tr>"
        )
    caption = (
        f"The {len(lines)} most suspicious of {len(order):,} rows; all are in suspects.csv. "
        "Rows are counted from 1, below the header."
    )
    return scrolling(
        "suspects",
        f'<table class="data"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>",
        tall=True,
    )


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _names(outcome: Outcome, row: int) -> tuple[str, str]:
    classes, ranking = outcome.classes, outcome.ranking
    pair = classes[outcome.labels[row]], classes[ranking.suggested[row]]
    return escape(_short(pair[0])), escape(_short(pair[1]))


def _confusions(outcome: Outcome, order: np.ndarray) -> str:
    """Count suspects by given and suggested label."""
    pairs = np.stack([outcome.labels[order], outcome.ranking.suggested[order]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    ranking = np.argsort(-counts, kind="stable")[:10]
    if not len(ranking):
        return "<p>None.</p>"
    texts = [
        (
            f"{_short(outcome.classes[found[one][0]])} \N{RIGHTWARDS ARROW} "
            f"{_short(outcome.classes[found[one][1]])}",
            format_number(int(counts[one])),
        )
        for one in ranking
    ]
    return pairs_table("Given label, suggested label, suspects", texts)


def _trust(outcome: Outcome) -> str:
    found = outcome.reliability
    if found is None:
        return "<p>There are too few rows to say; look at every suspect.</p>"
    warning = ""
    if found.recall[0] < 0.5:
        warning = (
            '<p class="warning">Most planted mistakes were missed: the columns say little about '
            "the labels. Try another <code>--model</code>, or add columns.</p>"
        )
    low, high = found.recall[1:]
    return (
        f"{warning}<p>{found.planted:,} labels that were not suspect were made wrong at random, "
        f"and everything was ranked once more: {found.recall[0]:.0%} of them became suspect (95 % "
        f"interval {low:.0%} to {high:.0%}). The estimates above follow from this share and from "
        "the share of other rows that became suspect.</p>"
        "<p>They hold as far as real mistakes are as easy to find as random ones, which mistakes "
        "between similar classes are not, and as far as the model suits the data. <strong>A row "
        "that no model of this kind gets right counts as a wrong label here</strong>, so that a "
        "model that is too simple finds too many. Compare with another <code>--model</code>: the "
        "smaller estimate is the more likely one. Rows that are rare but correct look like "
        "mistakes, too.</p>"
    )


def _next(outcome: Outcome) -> str:
    check = (
        "<li>With labels that you have checked in a file of the same columns, "
        "<code>--validation</code> lets them decide.</li>"
    )
    return (
        "<ol><li>Look at <code>suspects.csv</code> from the top, and correct the labels in your "
        "own file; stop where most of them turn out to be right.</li>"
        "<li>Run the command again on the corrected file: it finds more with fewer mistakes "
        "around.</li><li>If you cannot look, train on <code>clean.csv</code>, which leaves the "
        "suspects out, or on all rows with the weights of <code>weights.csv</code>. Do not replace "
        "labels by suggestions unseen: test sets would then agree with the model by "
        f"construction.</li>{'' if outcome.validated else check}</ol>"
    )


def _notes(outcome: Outcome) -> list[tuple[str, str]]:
    checked = [("validation", "a file of checked labels")] if outcome.validated else []
    return [*checked, *(("columns", note) for note in outcome.notes)]
