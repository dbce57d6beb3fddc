r"""Closed forms of performance transfer: the two counter-examples, the lemma and the bound.

A teacher p* and a student p are log-linear models of the next word. epsilon_KL is the mean of
KL(p* || p) over pre-training inputs, epsilon_CLS the share of downstream inputs on which a head of
k words decides differently for student and teacher. With anchors that are right up to
anchor_error eps_b and thresholds of at least eps_b - log(4 k), Theorem 3.5.7 says

    epsilon_CLS <= C epsilon_KL / (overlap p_b^2 Gamma^2)     if 8 eps_b < Gamma < 6,

where p_b bounds the teacher's bulk probability from below, p_pre >= overlap p_downstream, and Gamma
is the margin over k max |a_j|.

The thesis prints C = 288. Its proof bounds sum |p* - p|, but uses Pinsker's inequality
KL >= 2 TV^2 as if that sum were TV, which is half of it: as proven, C = 1152. Minimizing the lemma
exactly instead of splitting it into cases gives C = 512 (ours). The worst case known needs 14.2.
Everything is NumPy in float64 and broadcasts.

Reference:
    Chapter 3 and Appendix B of Wu's thesis; Wu, Lee and Ge (2023).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

PROVEN_CONSTANT = 1152.0
"""What the proof of Theorem 3.5.7 gives."""
PRINTED_CONSTANT = 288.0
"""What Eq. 3.10 prints; not proven, not violated by any model that we know."""
EXACT_CONSTANT = 512.0
"""What Lemma 3.5.9 gives when it is minimized exactly: its supremum is at Gamma -> 0."""


def _checked(name: str, values: ArrayLike, low: float, high: float, allowed: str) -> FloatArray:
    array = np.asarray(values, np.float64)
    if not np.all((array >= low) & (array <= high)):
        raise ValueError(f"{name} is {values!r}; allowed are {allowed}")
    return array


def silencing_divergence(probability: ArrayLike, shift: ArrayLike) -> FloatArray:
    """Return KL(p* || p) where p lowers the logit of one word: log(1 - p + p e^-s) + s p.

    Exact, in nats; the bound of Theorem 3.3.1 is 2 s p, and s p holds, too. (Eq. B.8 has the
    logarithm and s multiplied instead of added; the theorem stands.) The probability p of the word
    is that under p*.

    Example:
        >>> round(float(silencing_divergence(1e-3, 5.0)), 6)
        0.004006

    Raises:
        ValueError: for an argument outside its range.

    Reference:
        Theorem 3.3.1 and Appendix B.1.
    """
    p = _checked("probability", probability, 0, 1, "numbers from 0 to 1")
    s = _checked("shift", shift, 0, np.finfo(np.float64).max, "finite numbers from 0")
    # For p = 1 the argument of the logarithm would round to 0 from s = 37 on.
    return np.where(p == 1, 0.0, np.log1p(np.where(p == 1, 0.0, p) * np.expm1(-s)) + s * p)


def transfer_bound(
    divergence: ArrayLike,
    *,
    overlap: ArrayLike,
    bulk_probability: ArrayLike,
    normalized_margin: ArrayLike,
    constant: float = PROVEN_CONSTANT,
) -> FloatArray:
    """Return the bound of Theorem 3.5.7 on the error of the student's head; trivial from 1 on.

    Args:
        divergence: epsilon_KL, from 0, in nats.
        overlap: mu, in [0, 1]; the bound is infinite at 0.
        bulk_probability: p_b, in [0, 1].
        normalized_margin: Gamma, from 0. Values above 6 count as 6: a smaller margin is allowed.
        constant: `PROVEN_CONSTANT`, `PRINTED_CONSTANT` or `EXACT_CONSTANT`.

    Raises:
        ValueError: for an argument outside its range.

    Reference:
        Theorem 3.5.7, Eq. 3.10.
    """
    eps = _checked("divergence", divergence, 0, np.inf, "numbers from 0")
    mu = _checked("overlap", overlap, 0, 1, "numbers from 0 to 1")
    bulk = _checked("bulk_probability", bulk_probability, 0, 1, "numbers from 0 to 1")
    margin = _checked("normalized_margin", normalized_margin, 0, np.inf, "numbers from 0")
    scale = mu * bulk**2 * np.minimum(margin, 6.0) ** 2
    with np.errstate(divide="ignore"):
        return constant * np.divide(
            eps, scale, out=np.full_like(scale + eps, np.inf), where=scale > 0
        )


def flip_divergence(
    normalized_margin: ArrayLike, anchor_error: ArrayLike, *, least_threshold: float, words: int
) -> FloatArray:
    """Return a lower bound of KL(p* || p) / p_b^2 at an input that the student gets wrong.

    Half the square of the minimum over eps >= 0 of
    1 - e^-eps + k e^(b - eps_b - eps) (e^max(0, Gamma / 2 - 2 eps_b - eps) - 1), which bounds
    sum |p* - p| / p_b. The minimum is exact: the terms are a parabola in e^-eps. Unlike
    Theorem 3.5.7, it has no conditions on the threshold b and on Gamma.

    Args:
        normalized_margin: Gamma, from 0.
        anchor_error: eps_b, from 0, in nats.
        least_threshold: b, the smallest threshold of the head, in nats.
        words: k.

    Returns:
        The bound in nats; 0 where Gamma <= 4 eps_b.

    Raises:
        ValueError: for an argument outside its range.

    Reference:
        Lemma 3.5.9 and Eq. 3.15, with Pinsker's inequality for half the sum.
    """
    margin = _checked("normalized_margin", normalized_margin, 0, np.inf, "numbers from 0")
    error = _checked("anchor_error", anchor_error, 0, np.inf, "numbers from 0")
    if words < 1:
        raise ValueError(f"words is {words}; allowed are integers from 1")
    # From x = e^-slack on the second term is zero. Below e^-300 nothing changes in float64.
    slack = np.clip(margin / 2 - 2 * error, 0.0, 300.0)
    weight = words * np.exp(np.clip(least_threshold - error, -300.0, 300.0))
    best = np.clip((1 + weight) / (2 * weight) * np.exp(-slack), np.exp(-slack), 1.0)
    # 1 - x + w x (e^slack x - 1), without the cancellation at small slack.
    least = (1 - best) + weight * best * np.expm1(slack + np.log(best))
    return least**2 / 2


def boundary_ratio(normalized_margin: ArrayLike, anchor_error: ArrayLike = 0.0) -> FloatArray:
    """Return p_b^2 Gamma^2 / KL for a student whose head just loses every active word.

    The words of interest have together e^Gamma / 4 of the teacher's bulk probability and e^(2
    eps_b) / 4 of the student's, and nothing else differs: thresholds are the least allowed, and
    both anchors are wrong by eps_b, at most Gamma / 8, in the worse direction. The teacher's score
    is the margin, the student's is 0, for every k. A constant below this ratio would be refuted: 8
    for eps_b = 0 and 14.2 for eps_b = Gamma / 8, as Gamma goes to 0.

    Example:
        >>> round(float(boundary_ratio(1e-3)), 3)
        7.994

    Raises:
        ValueError: for an argument outside its range.
    """
    margin = _checked("normalized_margin", normalized_margin, 1e-6, np.inf, "numbers from 1e-6")
    error = _checked("anchor_error", anchor_error, 0, np.inf, "numbers from 0")
    if np.any(error > margin / 8):
        raise ValueError(f"anchor_error is {anchor_error!r}; allowed are numbers up to Gamma / 8")
    # At a gap d of logits and a share q of the words: KL = log(1 - q + q e^-d) + q d.
    gap = margin - 2 * error
    odds = np.exp(margin) / 4
    return margin**2 / (1 + odds) ** 2 / silencing_divergence(odds / (1 + odds), gap)
