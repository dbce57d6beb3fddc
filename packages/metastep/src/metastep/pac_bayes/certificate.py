"""A PAC-Bayes bound with all constants of its computation, which can be saved and checked."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from metastep.checks import require, require_count
from metastep.files import has_type, parse_json, read_bytes, write_atomically
from metastep.pac_bayes.bound import (
    PRIOR_CEILING,
    PRIOR_PRECISION,
    Bound,
    bound,
    kl_inverse_lower,
)
from metastep.pac_bayes.examples import digest, select
from metastep.pac_bayes.learned_prior import read_rows

SCHEMA = "metastep certificate 1"
CHANCE = 0.001  # of calling a true bound contradicted by its test error
# Relative: JSON keeps all digits, and another machine's logarithms differ in the last ones.
ROUNDING = 1e-9
LARGEST_FILE = 2**24  # bytes; four examples of `prior_rows` take one


class Verdict(NamedTuple):
    """The result of `Certificate.check`.

    Attributes:
        holds: whether the numbers are consistent and no test error contradicts them.
        reasons: why not, one sentence each; empty if it holds.
    """

    holds: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the error of a stochastic model, with everything needed to recompute it.

    Let each prediction use a model newly drawn from the posterior. With probability `confidence`
    over the training examples and the draws, the error rate on new examples is at most `bound`.
    This requires that the examples are independent draws from one distribution, and that the
    prior's mean was chosen without them. `check` cannot verify these two conditions, or that the
    moments of the posterior are those of the model in use.

    The bound is vacuous unless it is below `trivial_error`, the error of the classifier that always
    predicts the most frequent class of the training examples. For k classes of equal size this is
    1 - 1/k, the error of a random guess. `str` states the bound in a sentence, and what to do if it
    is vacuous.

    Attributes:
        bound: the upper limit.
        uncorrected: the limit for an exact training error, for comparison with the literature;
            not guaranteed.
        confidence: 1 - delta - draw_delta.
        delta: probability that the PAC-Bayes theorem fails.
        draw_delta: probability that the estimate of the training error is too far off.
        examples: examples n that the bound is from; those of a learned prior do not count.
        draws: independent pairs of weights and a training example.
        error_sum: sum of their errors.
        kl: KL(Q || P) in nats.
        parameters: number of weights P.
        distance_squared: |mean of Q - mean of P|^2.
        variance_sum: sum of the variances of Q.
        log_variance_sum: sum of the logarithms of the variances of Q.
        j: the prior's variance is c exp(-j / b).
        prior_ceiling: c.
        prior_precision: b.
        test_examples: held-out examples; 0 if none were given.
        test_draws: pairs of weights and a held-out example.
        test_error: mean of their errors; None where there are none.
        data_digest: SHA-256 of the examples that the bound is from.
        trivial_error: from this value on the bound says nothing; 1 where the targets are not the
            labels of classes, or where a certificate was saved without it.
        prior_examples: examples that trained the prior's mean; 0 for a prior without data.
        prior_rows: which of all `examples + prior_examples` these are: one bit each, first example
            first, in hexadecimal digits; empty for a prior without data.
        prior_repeats: examples of the bound that equal one that trained the prior.
    """

    bound: float
    uncorrected: float
    confidence: float
    delta: float
    draw_delta: float
    examples: int
    draws: int
    error_sum: float
    kl: float
    parameters: int
    distance_squared: float
    variance_sum: float
    log_variance_sum: float
    j: int
    prior_ceiling: float
    prior_precision: int
    test_examples: int
    test_draws: int
    test_error: float | None
    data_digest: str
    trivial_error: float = 1.0
    prior_examples: int = 0
    prior_rows: str = ""
    prior_repeats: int = 0

    def __str__(self) -> str:
        """Return the bound in a sentence, and what to do if it is vacuous."""
        text = (
            f"With probability {self.confidence:.4g}, models drawn from the posterior err on new "
            f"examples at a rate of at most {self.bound:.3f}."
        )
        if self.prior_examples:
            text += (
                f" The bound is from {self.examples} examples; {self.prior_examples} others "
                "trained its prior."
            )
        if self.test_error is not None:
            text += f" On {self.test_examples} held-out examples the rate is {self.test_error:.3f}."
        if not self.vacuous:
            return text
        return (
            f"{text} This bound is vacuous, because a trivial answer has the rate "
            f"{self.trivial_error:.3f}: optimize for more epochs, start the training from a prior "
            "that is nearer to the parameters (LearnedPrior), or use more examples."
        )

    @property
    def vacuous(self) -> bool:
        """Whether the bound is not below the error of a constant prediction."""
        # One that is below by rounding alone says no more than the trivial answer.
        return self.bound >= self.trivial_error - ROUNDING

    def check(self, data: PyTree | None = None) -> Verdict:
        """Compute the bound again from the constants, and hold it against the test error.

        Args:
            data: what `certify` was given as `data`, to find out whether the bound is from these,
                and from the ones alone that did not train its prior; None to leave that out.

        Returns:
            Whether the certificate holds, and if not, why.
        """
        try:
            again = self._again()
        # Such as no draws, or an index of the prior's variance with which it is zero.
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            return Verdict(False, (f"The constants are impossible: {error}",))
        found = {
            "kl": (self.kl, self._kl()),
            "bound": (self.bound, again.value),
            "uncorrected": (self.uncorrected, again.uncorrected),
            "confidence": (self.confidence, again.confidence),
        }
        reasons = [
            f"{name} is {stated:.9g}, and the constants give {value:.9g}."
            for name, (stated, value) in found.items()
            # JSON keeps every digit; what differs by more than rounding was changed.
            if not math.isclose(stated, value, rel_tol=ROUNDING, abs_tol=ROUNDING)
        ]
        if self.test_error is not None and self._lowest(self.test_error) > self.bound:
            reasons.append(
                f"The error on {self.test_examples} held-out examples is {self.test_error:.4g}, "
                f"which contradicts a bound of {self.bound:.4g}: the prior may have seen the "
                "training data, or the held-out examples come from another distribution."
            )
        if data is not None and not self._is_from(data):
            reasons.append(
                "The bound is from other data: data_digest is not that of the examples that did "
                "not train the prior."
            )
        return Verdict(not reasons, tuple(reasons))

    def _is_from(self, data: PyTree) -> bool:
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
        if lengths != {(self.examples + self.prior_examples,)}:
            return False
        rows = read_rows(self.prior_rows, self.prior_examples, self.examples)
        return digest(select(data, ~rows)) == self.data_digest

    def _lowest(self, test_error: float) -> float:
        # A test error may exceed the bound by chance: only its lower limit contradicts the bound.
        # Two limits share the chance: draws estimate the error on the held-out examples, and these
        # the error on new ones.
        chance = -math.log(CHANCE / 2)
        on_examples = kl_inverse_lower(test_error, chance / self.test_draws)
        return float(kl_inverse_lower(on_examples, chance / self.test_examples))

    def _kl(self) -> float:
        return gaussian_kl(
            self.distance_squared,
            self.variance_sum,
            self.log_variance_sum,
            self.parameters,
            prior_variance(self.j, self.prior_ceiling, self.prior_precision),
        )

    def _again(self) -> Bound:
        if self.test_error is None:
            possible = self.test_examples == self.test_draws == 0
        else:
            counts = min(self.test_examples, self.test_draws)
            possible = counts >= 1 and 0 <= self.test_error <= 1
        if not possible:
            raise ValueError(
                f"test_error is {self.test_error} on {self.test_examples} examples; allowed are "
                "numbers in [0, 1] on at least one, and None on none."
            )
        trivial = 0 <= self.trivial_error <= 1
        require(trivial, "trivial_error", self.trivial_error, "numbers in [0, 1]")
        require_count("prior_repeats", self.prior_repeats, least=0, most=self.examples)
        if self.prior_examples or self.prior_rows:
            read_rows(self.prior_rows, self.prior_examples, self.examples)
        return bound(
            self.error_sum / self.draws,
            self._kl(),
            self.examples,
            j=self.j,
            delta=self.delta,
            draws=self.draws,
            draw_delta=self.draw_delta,
        )

    def save(self, path: Path | str) -> None:
        """Write the certificate as JSON; the file is never half-written.

        Raises:
            OSError: if the file cannot be written.
        """
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2)
        write_atomically(Path(path), f"{content}\n".encode())

    @classmethod
    def load(cls, path: Path | str) -> "Certificate":
        """Read a file of `save`; `check` verifies the certificate.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a certificate of this version.
        """
        try:
            content = parse_json(read_bytes(Path(path), LARGEST_FILE))
        except ValueError as error:
            raise ValueError(f"{path} is no certificate: {error}") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path} has the schema {schema!r}; allowed is {SCHEMA!r}.")
        return cls(**{field.name: _read(path, content, field) for field in fields(cls)})


def _read(path: Path | str, content: dict[str, Any], field: Any) -> Any:
    # Fields that older versions did not write have defaults; all others must be there.
    value = content.get(field.name, field.default)
    if value is MISSING:
        raise ValueError(f"{path} has no {field.name}.")
    optional = field.type == float | None
    if optional and value is None:
        return None
    kind = float if optional else field.type
    if not has_type(value, kind):
        raise ValueError(
            f"{path}: {field.name} is {value!r}; allowed is a value of type {kind.__name__}."
        )
    # A float that JSON writes as 1 was read as an integer.
    return kind(value)


def prior_variance(
    j: int, ceiling: float = PRIOR_CEILING, precision: int = PRIOR_PRECISION
) -> float:
    """Return the j-th variance that the union bound allows, c exp(-j / b)."""
    return ceiling * math.exp(-j / precision)


def gaussian_kl(
    distance_squared: float,
    variance_sum: float,
    log_variance_sum: float,
    parameters: int,
    variance: float,
) -> float:
    """Return KL(Q || P) from the moments of Q and the prior's variance, as `kl_divergence` does."""
    trace = (variance_sum + distance_squared) / variance
    return (trace - parameters + parameters * math.log(variance) - log_variance_sum) / 2
