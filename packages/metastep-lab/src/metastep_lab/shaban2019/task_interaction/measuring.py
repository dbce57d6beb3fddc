"""What `task-interaction` measures while it tunes, and where early stopping would stop."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import accuracy
from metastep.trees import cosine
from metastep_lab.shaban2019.task_interaction.examples import Examples
from metastep_lab.shaban2019.task_interaction.interaction import Guard, Interaction


class Measured(NamedTuple):
    """Measurements at some hyperparameters, scalars or each of shape (points,)."""

    validation_loss: Any
    gradient_norm: Any
    cosine: Any
    test_accuracy: Any
    largest_coupling: Any


class Recorder(eqx.Module):
    """Measurements inside the outer loop; a module, so that its data are arguments.

    Attributes:
        problem: of the trial.
        examples: of the trial.
        guard: of the trial.
        every: steps between two measurements.
        last: the last step, which is measured, too.
    """

    problem: ms.TrainingProblem
    examples: Examples
    guard: Guard
    every: int = eqx.field(static=True)
    last: int = eqx.field(static=True)

    @property
    def steps(self) -> np.ndarray:
        """The steps that are measured."""
        return np.unique([*range(0, self.last + 1, self.every), self.last])

    def __call__(
        self, step: Array, outer: Interaction, estimate: ms.Estimate
    ) -> tuple[Measured, Array]:
        """Return measurements, NaN at most steps, and the stability."""
        here = lambda: self.measure(outer, estimate.grad)
        nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(here))
        due = (step % self.every == 0) | (step == self.last)
        return jax.lax.cond(due, here, lambda: nothing), self.guard.stability(outer)

    def measure(self, outer: Interaction, grad: Interaction) -> Measured:
        """Measure at some hyperparameters, at which there was an estimate `grad`."""
        key = jax.random.key(0)
        exact, _ = ms.Reverse().estimate(self.problem, outer, None, key)
        params = ms.unroll(self.problem, outer, key).params
        examples = self.examples
        return Measured(
            validation_loss=exact.value,
            gradient_norm=exact.stats["gradient_norm"],
            cosine=cosine(grad, exact.grad),
            test_accuracy=accuracy(params, examples.test_features, examples.test_labels),
            largest_coupling=jnp.max(outer.strengths()[0]),
        )

    def path(self, result: ms.Run) -> tuple[Measured, np.ndarray]:
        """Return what was measured, and what is after the last step; the stability of all steps."""
        found, stability = result.history.recorded
        end, last = _measure(self, result.outer)
        append = lambda many, one: np.append(np.asarray(many)[self.steps], one)
        return jax.tree.map(append, found, end), np.append(stability, last)


@compiled
def _measure(recorder: Recorder, outer: Interaction) -> tuple[Measured, Array]:
    # There is no estimate after the last step: zeros, whose cosine is NaN.
    nothing = jax.tree.map(jnp.zeros_like, outer)
    return recorder.measure(outer, nothing), recorder.guard.stability(outer)


def early_stop(steps: np.ndarray, correct: np.ndarray, patience: int) -> tuple[float, float]:
    """Return where early stopping stops, and the best accuracy until then.

    It stops at the first measured step at which the best accuracy is `patience` steps old, NaN if
    there is none.
    """
    best = np.maximum.accumulate(correct)
    improved = np.append(True, correct[1:] > best[:-1])
    since = np.maximum.accumulate(np.where(improved, steps, 0))
    over = np.flatnonzero(steps - since >= patience)
    if over.size == 0:
        return float("nan"), float(best[-1])
    return float(steps[over[0]]), float(best[over[0]])
