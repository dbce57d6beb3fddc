"""One method in one repetition of `one-shot`: tuning, and measurements during tuning."""

from math import gcd
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import metastep as ms
from metastep import saving as checkpoint
from metastep_lab.experiment import Context
from metastep_lab.shaban2019.one_shot.characters import (
    Characters,
    Hyperparameters,
    initial_hyperparameters,
)
from metastep_lab.shaban2019.one_shot.measures import judge, truncations
from metastep_lab.shaban2019.one_shot.problem import Tasks
from metastep_lab.shaban2019.one_shot.setup import Config, Method, Split, compared_windows

MOST_BETWEEN_REPORTS = 50  # outer steps between updates of the progress bar


class Measured(NamedTuple):
    """Measurements during one run and at its end; zeros if a method has no windows.

    Attributes:
        curve: accuracy, its standard error and loss, shape (points, validation and test, 3).
        gradients: relative error and cosine by window, shape (2, points, windows).
        accuracy: of the test tasks, shape (tasks,).
        loss: likewise.
    """

    curve: np.ndarray
    gradients: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray


class Part(NamedTuple):
    """One method in one repetition."""

    config: Config
    method: Method
    characters: Split
    repetition: int
    context: Context

    @property
    def steps(self) -> list[int]:
        """The outer steps after which it is measured."""
        return [*range(0, self.method.steps, self.config.measure_every), self.method.steps]

    def path(self, what: str) -> Path:
        """Return the path of a part of the state."""
        name = self.method.name.replace(",", "").replace(" ", "-")
        return self.context.checkpoint(f"{name}-{self.repetition}-{what}")

    def key(self) -> Array:
        """Return the key that all methods share."""
        return jax.random.fold_in(jax.random.key(self.context.seed), self.repetition)

    def start(self) -> Hyperparameters:
        """Return the hyperparameters to start from, the same for all methods."""
        return initial_hyperparameters(
            jax.random.fold_in(self.key(), 1),
            channels=self.config.channels,
            ways=self.config.ways,
            rate=self.config.rate,
            regularization=self.config.regularization,
        )

    def tune(self) -> ms.Run:
        """Tune, and save the hyperparameters for the measurements."""
        result = self._minimize()
        if not all(self.path(f"step-{step}").exists() for step in self.steps[1:]):
            # Interrupted after a step and before its hyperparameters were saved: save them again.
            self.path("state").unlink()
            result = self._minimize()
        return result

    def _minimize(self) -> ms.Run:
        def keep(report: ms.Report) -> None:
            if report.step in self.steps:
                checkpoint.save(self.path(f"step-{report.step}"), report.outer, {})

        every = self.config.measure_every
        return ms.minimize(
            self.method.tasks(self.config, self.characters.training),
            self.start(),
            self.method.estimator(),
            optimizer=self.method.optimizer(self.config),
            steps=self.method.steps,
            key=self.key(),
            meta_batch=self.config.meta_batch,
            tasks_at_once=self.config.meta_batch,
            callback=keep,
            # `keep` is only called at the reports: every measured step has to be one.
            every=gcd(every, MOST_BETWEEN_REPORTS),
            checkpoint=ms.Checkpoint(self.path("state"), every, self.context.resume),
        )

    def measure(self, result: ms.Run) -> Measured:
        """Measure at all points; earlier measurements of an interrupted run are read again."""
        config, points, path = self.config, len(self.steps), self.path("measured")
        like = Measured(
            np.zeros((points, 2, 3), np.float32),
            np.zeros((2, points, len(compared_windows(config))), np.float32),
            np.zeros(config.test_tasks, np.float32),
            np.zeros(config.test_tasks, np.float32),
        )
        if self.context.resume and path.exists():
            found, _ = checkpoint.load(path, jax.tree.map(jnp.asarray, like))
            return jax.tree.map(np.asarray, found)
        for point, step in enumerate(self.steps):
            outer = self.start()
            if step:
                outer, _ = checkpoint.load(self.path(f"step-{step}"), outer)
            for place, held_out in enumerate((self.characters.validation, self.characters.test)):
                correct, loss = self._judge(held_out, outer, config.measured_tasks)
                error = correct.std(ddof=1) / np.sqrt(correct.size) if correct.size > 1 else np.nan
                like.curve[point, place] = correct.mean(), error, loss.mean()
            if self.has_windows():
                like.gradients[:, point] = self.gradients(outer)[:2]
        like.accuracy[:], like.loss[:] = self._judge(
            self.characters.test, result.outer, config.test_tasks
        )
        checkpoint.save(path, jax.tree.map(jnp.asarray, like), {})
        return like

    def has_windows(self) -> bool:
        """Whether gradients are compared: not for the short horizon and the variants."""
        name, window, horizon, steps, *_ = self.method
        # The variants differ in a default field, and the short horizon has another T: the exact
        # gradient of the plain problem is not theirs.
        plain = self.method == Method(name, window, horizon, steps)
        return plain and horizon == self.config.horizon

    def gradients(self, outer: Hyperparameters) -> tuple[np.ndarray, ...]:
        """Compare windows with the exact gradient on training tasks."""
        tasks = Method("", None, self.config.horizon, 0).tasks(
            self.config, self.characters.training
        )
        keys = jax.random.split(jax.random.fold_in(self.key(), 2), self.config.gradient_tasks)
        return truncations(tasks, keys, outer, compared_windows(self.config))

    def _judge(
        self, characters: Characters, outer: Hyperparameters, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        normalized = self.method.normalized
        tasks = Tasks(
            characters, config.ways, config.test_queries, config.horizon, True, normalized
        )
        # The same tasks for every method and point: differences are paired.
        keys = jax.random.split(jax.random.fold_in(self.key(), 3), count)
        # In groups of a size, that of the curves: the final test runs the same compiled program.
        return judge(tasks, keys, outer, config.measured_tasks)
