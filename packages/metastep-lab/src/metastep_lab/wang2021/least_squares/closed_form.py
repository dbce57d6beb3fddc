"""The closed forms beside `least-squares`: population objectives, and Theorems 5 and 6."""

from collections.abc import Callable, Mapping
from itertools import product
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


def setting_of(config: Any, noise: float, samples: int, horizon: int = 0) -> dict[str, Any]:
    """Return the arguments of the closed form; horizon 0 is the configured one."""
    horizon = horizon or config.horizon
    return {"ratio": config.dim / samples, "noise": noise, "horizon": horizon}


def best_step_size(
    config: Any, noise: float, samples: int, mode: str, horizon: int = 0
) -> tuple[float, dict[str, Any]]:
    """Return the best step size by the closed form, and its setting."""
    setting = setting_of(config, noise, examples(config, samples, mode)[0], horizon)
    return theory.optimal_step_size(OBJECTIVES[mode], **setting), setting


THEOREM_5_HORIZONS = tuple(10 * 2**k for k in range(8))
THEOREM_6_RATIOS = (2, 5, 10, 20, 50, 100, 1000)


def theorem_5(config: Any) -> list[tuple]:
    """Return the rows of `theorem_5`: the best step sizes over a range of horizons."""
    rows = []
    for noise, mode, horizon in product(config.noise, OBJECTIVES, THEOREM_5_HORIZONS):
        best, setting = best_step_size(config, noise, config.samples[0], mode, horizon)
        scaled = best * horizon if mode == VALIDATION else best
        error = float(theory.mean_squared_error(best, **setting))
        rows.append((noise, horizon, mode, best, scaled, error))
    return rows


def theorem_6(config: Any) -> list[tuple]:
    """Return the rows of `theorem_6`: the error of train-by-train by the number of samples."""
    rows, noise = [], config.noise[0]
    for multiple in THEOREM_6_RATIOS:
        setting = {"ratio": 1 / multiple, "noise": noise, "horizon": config.horizon}
        best = theory.optimal_step_size(theory.train_by_train, **setting)
        error = float(theory.mean_squared_error(best, **setting)) * multiple / noise**2
        rows.append((multiple, best, error, multiple / (multiple - 1)))
    return rows
