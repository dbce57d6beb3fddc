"""The configuration of `one-shot`, its methods, and the characters of a repetition."""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms
from metastep_lab.configuration import Ascending, Count, Positive, Several, configuration
from metastep_lab.shaban2019.one_shot.characters import Characters, shrink
from metastep_lab.shaban2019.one_shot.problem import Once, Tasks


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`, for 242 characters.

    What it reduces: channels (64 in the paper), queries (15), outer steps (5,000) and characters
    (1,200 to train on, 100 for validation, 323 for testing). Unlike the paper it adds rotated
    training characters, because there are few.

    Attributes:
        channels: of every convolution.
        ways: characters of a task.
        queries: drawings of each for the outer loss.
        test_queries: the same for validation and test tasks.
        horizon: inner gradient steps T.
        rate: inner step size to start from.
        regularization: rho to start from.
        windows: the numbers K of inner steps that are differentiated, ascending.
        full: whether exact reverse mode is run.
        short_horizon: whether exact reverse mode through one step is run.
        study: whether the variants of full reverse mode are run, for `study_steps`.
        outer_steps: of each method.
        study_steps: of each variant in the study.
        outer_step_size: of Adam.
        clip: largest gradient norm of the clipped variant.
        meta_batch: tasks of an outer step.
        repetitions: independent splits, initializations and tasks.
        validation_characters: held out for the curves.
        test_characters: held out for testing; the rest trains.
        rotations: whether training characters turned by 90, 180, 270 degrees are characters, too;
            the paper augments nothing.
        measure_every: outer steps between two points of the curves.
        measured_tasks: tasks at each point of the curves.
        gradient_tasks: tasks over which gradients are compared.
        test_tasks: tasks of the final test.
    """

    channels: Count = 16
    ways: Several = 5
    queries: Count = 5
    test_queries: Count = 15
    horizon: Count = 50
    rate: Positive = 0.05
    regularization: Positive = 0.05
    windows: Ascending = (1, 10, 25)
    full: bool = True
    short_horizon: bool = True
    study: bool = True
    outer_steps: Count = 1500
    study_steps: Count = 250
    outer_step_size: Positive = 0.003
    clip: Positive = 1.0
    meta_batch: Count = 4
    repetitions: Count = 3
    validation_characters: int = 22
    test_characters: int = 50
    rotations: bool = True
    measure_every: Count = 250
    measured_tasks: Count = 40
    gradient_tasks: Count = 8
    test_tasks: Several = 120

    def __post_init__(self):
        """Check the values of the fields."""
        for name in ("validation_characters", "test_characters"):
            if getattr(self, name) < self.ways:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; allowed are integers from {self.ways}")
        # `causes` compares the curves of all methods at study_steps: each has to be measured
        # there.
        if self.study and (
            self.study_steps % self.measure_every or self.outer_steps < self.study_steps
        ):
            raise ValueError(
                f"study_steps is {self.study_steps}; allowed are multiples of measure_every, "
                f"{self.measure_every}, up to outer_steps, {self.outer_steps}"
            )
        if self.windows[-1] > self.horizon:
            raise ValueError(
                f"windows is {self.windows}; allowed are integers up to the horizon, {self.horizon}"
            )

    @property
    def middle(self) -> int:
        """The window that represents truncation: 10 of 1, 10, 25."""
        return self.windows[len(self.windows) // 2]


class Method(NamedTuple):
    """A tuning method, and its changes to the problem."""

    name: str
    window: int | None
    horizon: int
    steps: int
    tuned_start: bool = True
    normalized: bool = True
    clip: float | None = None

    def tasks(self, config: Config, characters: Characters) -> Tasks:
        """Return the training tasks."""
        return Tasks(
            characters,
            config.ways,
            config.queries,
            self.horizon,
            self.tuned_start,
            self.normalized,
        )

    def estimator(self) -> Once:
        """Return the estimator."""
        inner = ms.Reverse() if self.window is None else ms.TruncatedReverse(self.window)
        return Once(inner)

    def optimizer(self, config: Config) -> optax.GradientTransformation:
        """Return Adam, behind clipping where the method clips; the same object for all runs."""
        return _adam(config.outer_step_size, self.clip)


@cache  # a new optimizer would be compiled again
def _adam(step_size: float, clip: float | None) -> optax.GradientTransformation:
    adam = optax.adam(step_size)
    return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)


def methods(config: Config) -> list[Method]:
    """Return the methods of a configuration."""
    horizon, steps, few = config.horizon, config.outer_steps, config.study_steps
    found = [Method(f"{window}-RMD", window, horizon, steps) for window in config.windows]
    if config.full:
        found.append(Method("full", None, horizon, steps))
    if config.short_horizon:
        found.append(Method("short horizon", None, 1, steps))
    if config.study:
        middle = config.middle
        found += [
            Method("full, start detached", None, horizon, few, tuned_start=False),
            Method("full, clipped", None, horizon, few, clip=config.clip),
            Method("full, plain head", None, horizon, few, normalized=False),
            Method(f"{middle}-RMD, plain head", middle, horizon, few, normalized=False),
        ]
    return found


class Split(NamedTuple):
    """The characters of one repetition."""

    training: Characters
    validation: Characters
    test: Characters


def split(config: Config, images: np.ndarray, rng: np.random.Generator) -> Split:
    """Draw which characters train and which are held out.

    Raises:
        ValueError: if too few are left for training.
    """
    order = rng.permutation(len(images))
    sizes = config.test_characters, config.validation_characters
    test, validation, training = np.split(order, np.cumsum(sizes))
    if training.size < config.ways:
        raise ValueError(
            f"test_characters and validation_characters are {sizes[0]} and {sizes[1]}; allowed is "
            f"what leaves at least {config.ways} of the {len(images)} characters for training"
        )
    small = lambda part, turned=False: Characters(
        jnp.asarray(shrink(images[part], rotations=turned))
    )
    return Split(small(training, config.rotations), small(validation), small(test))


def compared_windows(config: Config) -> tuple[int, ...]:
    """Return the windows whose gradients are compared with the exact one."""
    grid = np.linspace(0, config.horizon, 11).round().astype(int)
    return tuple(int(k) for k in np.unique([1, *config.windows, *grid]) if k >= 1)
