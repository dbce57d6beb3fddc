"""The heads of a teacher on a text, and their errors for its students."""

from collections.abc import Iterator

import numpy as np

from metastep.anchors.bulk import log_bulk, minimax_anchor
from metastep.anchors.downstream import DownstreamHead, downstream_head
from metastep.anchors.log_linear import LogLinearModel, divergences
from metastep.anchors.synthetic import confident_population
from metastep.anchors.transfer import Population, measure_transfer
from metastep_lab.parts import Rows
from metastep_lab.wu2022.downstream_transfer.rows import (
    failing_names,
    report_numbers,
    shifting_row,
    silencing_rows,
)
from metastep_lab.wu2022.downstream_transfer.text import Places, Student

EVALUATED = ("teacher", "less trained", "perturbed")  # families whose assumptions are measured
POOLED = 512  # examples for fitting that minimax anchors see beside the held-out ones


class TextStudy:
    """A teacher's heads on raw and on anchored logits, fitted on one text and tested on another.

    Attributes:
        teacher: evaluated at the places of both texts.
        words: the words of interest.
        places: for fitting, and held-out ones.
        top: most probable words that are not in the bulk.
        sure: the fraction of the held-out examples that the task `sure` leaves out.
    """

    def __init__(
        self,
        teacher: Student,
        words: np.ndarray,
        places: tuple[Places, Places],
        top: int,
        sure: float,
    ):
        self.teacher, self.words, self.top, self.sure = teacher, words, top, sure
        self.fitting, self.held_out = places
        self._anchor = teacher.anchor(teacher.fitted, words, top)
        self._raw = self._head(teacher, None)
        self._anchored = self._head(teacher, self._anchor)
        self._minimax = {top: self._minimax_anchor(teacher, top) for top in sorted({0, top})}
        self._minimax_heads = {
            top: self._head(teacher, anchor) for top, anchor in self._minimax.items()
        }

    def counterexamples(self, shifts: tuple[float, ...]) -> Iterator[tuple]:
        """Yield rows of both counter-examples on the held-out examples."""
        model = self.teacher.judged.at(self.held_out.labels != 0)
        for row in silencing_rows(model, self._anchored, self._anchor, shifts):
            yield ("3.3.1", "text", *row)
        yield ("3.3.2", "text", *shifting_row(model, self._raw, self._anchored, self._anchor))

    def add(self, student: Student, rows: Rows) -> None:
        """Add the accuracy of the heads for a student, and for some students the assumptions."""
        anchor = student.anchor(self.teacher.fitted, self.words, self.top)
        examples = self.held_out.labels != 0
        labels = self.held_out.labels[examples]
        truth, model = self.teacher.judged.at(examples), student.judged.at(examples)
        apart = divergences(self.teacher.judged, student.judged)
        divergence = float(self.held_out.weights @ apart)
        for logits, head, own, other in (
            ("raw", self._raw, None, None),
            ("anchored", self._anchored, self._anchor, anchor),
        ):
            expected = np.sign(head.scores(truth, own))
            for fitted_on, used in (("teacher", head), ("student", self._head(student, other))):
                found = np.sign(used.scores(model, other))
                right, same = np.mean(found == labels), np.mean(found == expected)
                where = student.family, student.strength, divergence, logits, fitted_on
                rows["accuracy"].append((*where, right, same))
        if student.family in EVALUATED:
            self._measure(student, anchor, divergence, rows)

    def _head(self, student: Student, anchor: np.ndarray | None) -> DownstreamHead:
        examples = self.fitting.labels != 0
        model = student.fitted.at(examples)
        return downstream_head(model, self.fitting.labels[examples], self.words, anchor)

    def _pooled(self, student: Student) -> LogLinearModel:
        """Return a student at the held-out examples and at some of those for fitting."""
        some = np.flatnonzero(self.fitting.labels)[:POOLED]
        # The theorem's eps_b is a largest error, over all inputs of the task, which are the
        # held-out ones.
        states = student.fitted.states[some], student.judged.states[self.held_out.labels != 0]
        return LogLinearModel(np.concatenate(states), student.judged.unembedding)

    def _minimax_anchor(self, student: Student, top: int) -> np.ndarray:
        """Fit the anchor with the smallest largest error, as the theorem requires."""
        model = self._pooled(student)
        return minimax_anchor(model, log_bulk(self._pooled(self.teacher), model, self.words, top))

    def _measure(self, student: Student, anchor: np.ndarray, divergence: float, rows: Rows) -> None:
        """Measure the assumptions with the user's anchors, and with the most favorable ones."""
        models = self.teacher.judged, student.judged
        examples, weights = self.held_out.labels != 0, self.held_out.weights
        given = Population(weights, examples / examples.sum(), self.held_out.labels)
        reports = {
            ("labels", "least squares", self.top): measure_transfer(
                *models, self._anchored, given, (self._anchor, anchor), self.top, divergence
            )
        }
        for top, own in self._minimax.items():
            head = self._minimax_heads[top]
            scores = np.where(examples, head.scores(models[0], own), np.nan)
            sure = confident_population(scores, weights, self.sure)
            anchors = own, self._minimax_anchor(student, top)
            reports["sure", "minimax", top] = measure_transfer(
                *models, head, sure, anchors, top, divergence
            )
        for case, report in reports.items():
            where = *case, student.family, student.strength
            rows["text_bound"].append((*where, *report_numbers(report), failing_names(report)))
            rows["assumptions"] += [
                (*where, one.name, int(one.holds), one.value, one.limit, one.sentence)
                for one in report.assumptions
            ]
