"""The bilevel problem of one task, and an estimator that computes its representation once."""

import abc
from typing import Any

import equinox as eqx
import jax

from metastep.estimators.base import AbstractEstimator, Estimate, common_stats, outcome
from metastep.problems import AbstractProblem
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex
from metastep_lab.shaban2019.one_shot.characters import (
    Characters,
    Encoded,
    Episode,
    Head,
    Hyperparameters,
    encode,
    inner_loss,
    query_loss,
)


class HeadProblem(AbstractProblem):
    """Fit a head to a given representation by gradient descent; its outer variable is `Encoded`.

    Attributes:
        episode: the task.
        horizon: steps T of the descent.
        tuned_start: whether the gradient includes the dependence of the start on the centers (the
            term B_0). The trajectory is the same in both cases.
        normalized: whether the head normalizes its batch.
    """

    episode: Episode
    horizon: int = eqx.field(static=True)
    tuned_start: bool = eqx.field(static=True, default=True)
    normalized: bool = eqx.field(static=True, default=True)

    def init(self, outer: Encoded, key: RandomKey) -> Head:
        """Return the centers."""
        del key
        return outer.centers if self.tuned_start else jax.lax.stop_gradient(outer.centers)

    def step(self, inner: Head, outer: Encoded, t: StepIndex, key: RandomKey) -> Head:
        """Take one step of gradient descent on the support images."""
        del t, key
        slope = jax.grad(inner_loss)(inner, outer, self.normalized)
        return jax.tree.map(lambda w, g: w - outer.rate * g, inner, slope)

    def objective(self, inner: Head, outer: Encoded, key: RandomKey) -> Scalar:
        """Return the mean cross-entropy of the queries."""
        del key
        return query_loss(inner, outer, self.episode.labels, self.normalized)[0]


class AbstractEncodedProblem(AbstractProblem):
    """A problem that depends on its hyperparameters only through a function of them.

    An estimator computes that function at every inner step; `Once` computes it once.

    Attributes:
        head: the problem whose outer variable is what `encode` returns.
        horizon: that of `head`.
    """

    head: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def encode(self, outer: Outer) -> Outer:
        """Return the code of the hyperparameters for `head`."""

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Start `head`."""
        return self.head.init(self.encode(outer), key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of `head`."""
        return self.head.step(inner, self.encode(outer), t, key)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the objective of `head`."""
        return self.head.objective(inner, self.encode(outer), key)


class OneShotProblem(AbstractEncodedProblem):
    """One task: `HeadProblem` behind the learned representation of the task's images.

    Attributes:
        head: the problem given the representation.
        horizon: that of `head`.
    """

    head: HeadProblem
    horizon: int = eqx.field(static=True)

    def __init__(self, head: HeadProblem):
        self.head = head
        self.horizon = head.horizon

    def encode(self, outer: Hyperparameters) -> Encoded:
        """Return the representation of the images and the other hyperparameters."""
        return encode(outer, self.head.episode)


class Once(AbstractEstimator):
    """Any estimator on an encoded problem, with the code computed once and the chain rule.

    Differentiating by the code first and pulling that back once is the same gradient as
    differentiating every step by the hyperparameters, truncated or not, and saves one pass through
    `encode` per step, forth and back.

    Exactness: that of `estimator`. `stats` are those of `estimator`, except `gradient_norm`.

    Attributes:
        estimator: of the gradient by what `encode` returns.

    Raises:
        ValueError: when used, for a problem that has no `encode`.
    """

    estimator: AbstractEstimator

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> Any:
        """Return the state of the wrapped estimator."""
        problem = _encoded(problem)
        return self.estimator.init(problem.head, problem.encode(outer), key)

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Estimate the gradient by the code and pull it back."""
        problem = _encoded(problem)
        encoded, pull_back = jax.vjp(problem.encode, outer)
        found, state = self.estimator.estimate(problem.head, encoded, state, key)
        (grad,) = pull_back(found.grad)
        first_nonfinite = found.stats["first_nonfinite_step"]
        result = outcome(found.value, grad, first_nonfinite, found.result)
        stats = dict(found.stats) | common_stats(grad, first_nonfinite)
        return Estimate(found.value, grad, result, stats), state


def _encoded(problem: AbstractProblem) -> AbstractEncodedProblem:
    if not isinstance(problem, AbstractEncodedProblem):
        raise ValueError(
            f"problem is a {type(problem).__name__}; Once needs an AbstractEncodedProblem, which "
            "says what is to be computed once."
        )
    return problem


class Tasks(eqx.Module):
    """A distribution of tasks for `minimize`: a function from a key to a problem.

    Attributes:
        characters: to draw from.
        ways: characters of a task.
        queries: drawings of each for the outer loss.
        horizon: inner steps.
        tuned_start: see `HeadProblem`.
        normalized: likewise.
    """

    characters: Characters
    ways: int = eqx.field(static=True)
    queries: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    tuned_start: bool = eqx.field(static=True, default=True)
    normalized: bool = eqx.field(static=True, default=True)

    def __call__(self, key: RandomKey) -> OneShotProblem:
        """Draw a task."""
        episode = self.characters.episode(key, ways=self.ways, queries=self.queries)
        head = HeadProblem(
            episode=episode,
            horizon=self.horizon,
            tuned_start=self.tuned_start,
            normalized=self.normalized,
        )
        return OneShotProblem(head)
