"""Measurement of every assumption of Theorem 3.5.7 for a teacher and its student.

The theorem bounds how often a head disagrees between the two models. Its assumptions can be
measured for given models, and usually some fail: `measure_transfer` names them, with the numbers.
The bound itself is `metastep_lab.theory.transfer.transfer_bound`.
"""

from dataclasses import dataclass

import numpy as np

from metastep.anchors.bulk import log_bulk
from metastep.anchors.downstream import DownstreamHead
from metastep.anchors.log_linear import LogLinearModel, blocks, check_same_inputs, divergences

# The theorem is for Gamma up to 6; it may be used with a smaller margin than the true one.
LARGEST_MARGIN = 6.0


@dataclass(frozen=True)
class Population:
    """The distributions of pre-training and of the downstream task over one list of states.

    Attributes:
        pretraining: probability of each state in pre-training, shape (states,).
        downstream: probability of each state in the downstream task, shape (states,).
        labels: the class of each state, 1 or -1; ignored where `downstream` is 0.
    """

    pretraining: np.ndarray
    downstream: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        for name in ("pretraining", "downstream"):
            values = getattr(self, name)
            if not (values.min() >= 0 and abs(values.sum() - 1) < 1e-9):
                raise ValueError(
                    f"{name} has minimum {values.min():g} and sum {values.sum():g}; allowed are "
                    "probabilities, numbers from 0 whose sum is 1"
                )
        if not len(self.pretraining) == len(self.downstream) == len(self.labels):
            raise ValueError(
                f"labels has {len(self.labels)} entries; allowed are as many as pretraining "
                f"({len(self.pretraining)}) and downstream ({len(self.downstream)}) have"
            )
        if not np.isin(self.labels[self.task], (-1, 1)).all():
            raise ValueError("labels holds other classes; allowed are 1 and -1 in the task")

    @property
    def task(self) -> np.ndarray:
        """The mask of the states with positive probability in the downstream task."""
        return self.downstream > 0

    @property
    def overlap(self) -> float:
        """Mu, the largest number with pretraining >= mu downstream everywhere."""
        return float(np.min(self.pretraining[self.task] / self.downstream[self.task]))


@dataclass(frozen=True)
class Assumption:
    """One assumption of the theorem, checked for two models.

    Attributes:
        name: short and stable.
        holds: whether it holds.
        value: the measured value.
        limit: the value it is compared with.
        sentence: the meaning of the result, with the numbers.
    """

    name: str
    holds: bool
    value: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class TransferReport:
    """The measured quantities of Theorem 3.5.7.

    Attributes:
        divergence: epsilon_KL, the mean KL(teacher || student) in pre-training, in nats.
        error: epsilon_CLS, the share of the downstream task in which the signs of the student's and
            the teacher's scores differ. A score of exactly 0 counts as wrong, as the proof allows.
        overlap: mu.
        bulk_probability: p_b, the teacher's least bulk probability in the downstream task.
        margin: gamma, the teacher's least score times the class.
        normalized_margin: Gamma.
        anchor_error: eps_b, the largest error of both anchors in the downstream task, in nats.
        least_threshold: min b, in nats.
        words: k.
        assumptions: every condition of the theorem.
    """

    divergence: float
    error: float
    overlap: float
    bulk_probability: float
    margin: float
    normalized_margin: float
    anchor_error: float
    least_threshold: float
    words: int
    assumptions: tuple[Assumption, ...]

    @property
    def failing(self) -> tuple[Assumption, ...]:
        """The assumptions that do not hold; empty if the theorem applies."""
        return tuple(assumption for assumption in self.assumptions if not assumption.holds)


def measure_transfer(
    teacher: LogLinearModel,
    student: LogLinearModel,
    head: DownstreamHead,
    population: Population,
    anchors: tuple[np.ndarray, np.ndarray],
    top: int = 0,
    divergence: float | None = None,
) -> TransferReport:
    """Measure every assumption of Theorem 3.5.7, and the quantities that it bounds.

    The head has the same coefficients and thresholds for both models, each with its own anchor, as
    in the proof. The bulk at a state is all words except the words of interest and the teacher's
    `top` most probable ones, so Assumption 3.5.3 holds by construction. The assumptions about
    single inputs are measured on the inputs of the task, where the proof uses them.

    Args:
        teacher: p*.
        student: p, on the same inputs and words.
        head: the classifier f*.
        population: the probabilities of the inputs in pre-training and in the task, and their
            classes.
        anchors: v0 of the teacher and of the student; `minimax_anchor` gives the least error.
        top: the number of the teacher's most probable words that the bulk excludes.
        divergence: epsilon_KL, if it is known already; most of the time is spent on it.

    Returns:
        The numbers, and a sentence for each assumption. Exact for the given inputs. As estimates
        for the distribution of the inputs, minima and maxima are too favorable.

    Raises:
        ValueError: for models of other inputs, a population of another size, or anchors, words or
            bulks that do not fit.

    Reference:
        Theorem 3.5.7 and Assumptions 3.2.2 and 3.5.1 to 3.5.5 of Wu's thesis.
    """
    check_same_inputs(teacher, student)
    if len(population.labels) != len(teacher.states):
        raise ValueError(
            f"population has {len(population.labels)} states; allowed are the "
            f"{len(teacher.states)} of the models"
        )
    task = population.task
    labels, weights = population.labels[task], population.downstream[task]
    truth, learned = teacher.at(task), student.at(task)
    scores = head.scores(truth, anchors[0])
    wrong = scores * head.scores(learned, anchors[1]) <= 0
    bulks = [log_bulk(truth, model, head.words, top) for model in (truth, learned)]
    errors = [
        np.abs(model.states @ anchor - bulk).max()
        for model, anchor, bulk in zip((truth, learned), anchors, bulks, strict=True)
    ]
    margin = float(np.min(labels * scores))
    numbers = {
        "overlap": population.overlap,
        # A part of the whole: above 1 by rounding alone.
        "bulk_probability": min(1.0, float(np.exp(np.min(bulks[0] - _log_partition(truth))))),
        "margin": margin,
        "normalized_margin": head.normalized_margin(margin),
        "anchor_error": float(max(errors)),
        "least_threshold": float(head.thresholds.min()),
        "words": head.words.size,
    }
    if divergence is None:
        divergence = float(population.pretraining @ divergences(teacher, student))
    return TransferReport(
        divergence=divergence,
        error=float(weights @ wrong),
        assumptions=_assumptions(**numbers),
        **numbers,
    )


def _log_partition(model: LogLinearModel) -> np.ndarray:
    parts = [np.logaddexp.reduce(model.logits(rows), axis=1) for rows in blocks(len(model.states))]
    return np.concatenate(parts)


def _assumptions(
    overlap: float,
    bulk_probability: float,
    margin: float,
    normalized_margin: float,
    anchor_error: float,
    least_threshold: float,
    words: int,
) -> tuple[Assumption, ...]:
    used = min(normalized_margin, LARGEST_MARGIN)
    threshold = anchor_error - np.log(4 * words)
    return (
        _assumption(
            "distribution-shift",
            overlap > 0,
            (overlap, 0.0),
            f"Every input of the task has at least {overlap:.3g} times its probability in "
            "pre-training (mu of Assumption 3.2.2, above 0).",
        ),
        _assumption(
            "margin",
            margin > 0,
            (margin, 0.0),
            f"The teacher's least score times the class is {margin:.3g} (gamma of Assumption "
            f"3.5.2, above 0); Gamma is {normalized_margin:.3g} nats.",
        ),
        _assumption(
            "bulk-probability",
            bulk_probability > 0,
            (bulk_probability, 0.0),
            f"The bulk has at least the probability {bulk_probability:.3g} (p_b of Assumption "
            "3.5.4, above 0).",
        ),
        _assumption(
            "linear-approximation",
            8 * anchor_error < used,
            (anchor_error, used / 8),
            f"The anchors miss log Z_bulk by at most {anchor_error:.3g} nats (eps_b of Assumption "
            f"3.5.5); the theorem needs less than Gamma / 8 = {used / 8:.3g}.",
        ),
        _assumption(
            "thresholds",
            least_threshold >= threshold,
            (least_threshold, threshold),
            f"The least threshold is {least_threshold:.3g} nats; the theorem needs at least "
            f"eps_b - log(4 k) = {threshold:.3g}.",
        ),
    )


def _assumption(name: str, holds: bool, numbers: tuple[float, float], text: str) -> Assumption:
    verdict = "" if holds else " It does not hold."
    return Assumption(name, bool(holds), float(numbers[0]), float(numbers[1]), text + verdict)
