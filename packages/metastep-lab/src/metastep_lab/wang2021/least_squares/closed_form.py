"""The closed forms beside `least-squares`: population objectives."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metastep_lab.theory import least_squares as theory
from metastep_lab.wang2021.least_squares.claims import TRAIN, VALIDATION

OBJECTIVES: Mapping[str, Callable[..., np.ndarray]] = {
    TRAIN: theory.train_by_train,
    VALIDATION: theory.train_by_validation,
}


def examples(config: Any, samples: int, mode: str) -> tuple[int, int]:
    """Return training and held-out examples; train-by-train holds out one, which is not used."""
    return config.split(samples) if mode == VALIDATION else (samples, 1)


def setting_of(config: Any, noise: float, samples: int) -> dict[str, Any]:
    """Return the arguments of the closed form."""
    return {"ratio": config.dim / samples, "noise": noise, "horizon": config.horizon}


def best_step_size(config: Any, noise: float, samples: int, mode: str) -> float:
    """Return the best step size by the closed form."""
    setting = setting_of(config, noise, examples(config, samples, mode)[0])
    return theory.optimal_step_size(OBJECTIVES[mode], **setting)
