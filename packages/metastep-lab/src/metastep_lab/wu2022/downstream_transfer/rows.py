"""The measurements of `downstream-transfer` on a teacher and a student, as rows of tables."""

from collections.abc import Iterator

import numpy as np

from metastep.anchors.bulk import log_bulk, minimax_anchor
from metastep.anchors.counterexamples import shift_logits, silence_words, useless_shift
from metastep.anchors.downstream import DownstreamHead, word_logits
from metastep.anchors.log_linear import LogLinearModel, divergences
from metastep.anchors.transfer import Population, TransferReport, measure_transfer
from metastep_lab.theory import transfer as theory

NUMBERS = (
    "divergence",
    "error",
    "overlap",
    "bulk_probability",
    "normalized_margin",
    "anchor_error",
)


def report_numbers(report: TransferReport) -> tuple[float, ...]:
    """Return the fields `NUMBERS` of a report, and the bounds; infinite without a margin."""
    constants = theory.PROVEN_CONSTANT, theory.PRINTED_CONSTANT
    bounds = [
        theory.transfer_bound(
            report.divergence,
            overlap=report.overlap,
            bulk_probability=report.bulk_probability,
            normalized_margin=max(report.normalized_margin, 0.0),
            constant=constant,
        )
        for constant in constants
    ]
    return (*(getattr(report, name) for name in NUMBERS), *map(float, bounds))


def failing_names(report: TransferReport) -> str:
    """Return the names of the assumptions that fail, with + between them, or `none`."""
    return "+".join(assumption.name for assumption in report.failing) or "none"


def minimax_report(
    teacher: LogLinearModel,
    student: LogLinearModel,
    head: DownstreamHead,
    population: Population,
) -> TransferReport:
    """Measure the assumptions with the anchors of the smallest largest error on the task.

    No other anchors have a smaller eps_b.
    """
    inputs = population.task
    truth, learned = teacher.at(inputs), student.at(inputs)
    teachers, students = (
        minimax_anchor(model, log_bulk(truth, model, head.words)) for model in (truth, learned)
    )
    return measure_transfer(teacher, student, head, population, (teachers, students))


def silencing_rows(
    model: LogLinearModel, head: DownstreamHead, anchor: np.ndarray, shifts: tuple[float, ...]
) -> Iterator[tuple]:
    """Check Theorem 3.3.1 on a model, for the first word with a positive coefficient.

    Yields:
        For each shift s: states, s, largest divergence, its largest difference from the closed
        form, largest ratio to 2 s p, largest difference of the linear head from f* - s c,
        largest change of the anchored head where the word was below its threshold, share of
        flipped signs.
    """
    # argmax gives the first True.
    place = int(np.argmax(head.coefficients > 0))
    word, coefficient = int(head.words[place]), head.coefficients[place]
    probability = np.exp(model.log_probabilities()[:, word])
    score = word_logits(model, head.words) @ head.coefficients
    before = head.scores(model, anchor)
    active = word_logits(model, head.words, anchor)[:, place] > head.thresholds[place]
    for shift in shifts:
        student = silence_words(model, [word], shift)
        divergence = divergences(model, student)
        closed = theory.silencing_divergence(probability, shift)
        after = word_logits(student, head.words) @ head.coefficients
        # The student has one more coordinate, (h, 1) and (v_t, -s): the anchor has none along it.
        change = np.abs(head.scores(student, np.append(anchor, 0.0)) - before)[~active]
        yield (
            len(score),
            shift,
            divergence.max(),
            np.max(np.abs(divergence - closed)),
            # By the closed form: with s p below 1e-16 the divergence itself is rounding.
            np.max(closed / (2 * shift * probability)),
            np.max(np.abs(after - (score - shift * coefficient))),
            change.max() if change.size else np.nan,
            np.mean(after * score < 0),
        )


def shifting_row(
    model: LogLinearModel, raw: DownstreamHead, head: DownstreamHead, anchor: np.ndarray
) -> tuple:
    """Check Theorem 3.3.2 on a model and its heads on raw and on anchored logits.

    The columns are those of `silencing_rows`: the closed forms of the divergence and of the raw
    head are 0, and there is no ratio. A score that becomes 0 counts as flipped.
    """
    shift = useless_shift(model, raw.thresholds)
    student = shift_logits(model, shift)
    divergence = divergences(model, student).max()
    before, after = raw.scores(model), raw.scores(student)
    # States (h, tau) and words (v_j, 1): log Z_bulk moves by tau, and so does the anchor (v_0, 1).
    anchored = head.scores(student, np.append(anchor, 1.0)) - head.scores(model, anchor)
    return (
        len(before),
        shift,
        divergence,
        divergence,
        np.nan,
        np.max(np.abs(after)),
        np.max(np.abs(anchored)),
        np.mean((before != 0) & (np.sign(after) != np.sign(before))),
    )
