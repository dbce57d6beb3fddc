"""One setting of `maml-linear`: the sizes of a figure or of one of its panels."""

from string import ascii_lowercase
from typing import Any, NamedTuple

import jax.numpy as jnp

from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression


class Setting(NamedTuple):
    """One setting of the paper; the fields are those of `Config`, one entry of each."""

    setting: str
    dim: int
    train_samples: int
    validation_samples: int
    tasks: int
    target_samples: int
    noise: float
    variability: float
    center: float
    train_rate: float
    test_rate: float
    train_rate_limit: float

    @property
    def equations(self) -> int:
        """N, the validation examples of all tasks."""
        return self.validation_samples * self.tasks

    @property
    def figure(self) -> int:
        """The paper's figure."""
        return int(self.setting.rstrip(ascii_lowercase))

    @property
    def panel(self) -> str:
        """The panel along the train rate."""
        return "b" if self.both_rates else self.setting[-1]

    @property
    def both_rates(self) -> bool:
        """Whether the figure has a panel (a) along the test rate, too."""
        return self.setting.isdigit()

    @property
    def design(self) -> Design:
        """Return the numbers of examples and tasks."""
        return Design(**self.fields(*Design._fields))

    @property
    def distribution(self) -> MixedRegression:
        """The distribution of the tasks, in JAX's current precision."""
        return MixedRegression(
            jnp.full(self.dim, self.center),
            noise=self.noise,
            # Eq. 4.
            task_covariance=self.variability**2 / self.dim,
        )

    @property
    def init_distance(self) -> float:
        """Return the distance of the start of the outer descent from the center."""
        return abs(self.center) * self.dim**0.5

    def fields(self, *names: str) -> dict[str, Any]:
        """Return some of the fields by name, as arguments of the theory."""
        return {name: getattr(self, name) for name in names}
