"""Trained optimizers as files: `.npz` archives of arrays with a description, without pickles."""

import json
import warnings
from dataclasses import fields
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from metastep.checks import integer, require, require_count
from metastep.files import has_type, parse_arrays, parse_json, read_bytes, write_atomically
from metastep.learned.hyperparameters import LearnedAdam, LearnedSchedule, LearnedSGD
from metastep.learned.learned import AbstractLearnedOptimizer
from metastep.learned.lstm import CoordinatewiseLSTM
from metastep.learned.mlp_optimizer import MLPOptimizer

SCHEMA = "metastep learned optimizer 1"
HEADER = "header"
LARGEST_FILE = 2**28  # bytes, compressed and uncompressed
LARGEST_HORIZON = 2**31 - 1
FLOATS = (np.float16, np.float32, np.float64)
FAMILIES = {
    family.__name__: family
    for family in (MLPOptimizer, CoordinatewiseLSTM, LearnedSGD, LearnedAdam, LearnedSchedule)
}


class OptimizerFileError(ValueError):
    """A file without a usable optimizer: damaged, of another schema, or of other shapes."""


class HorizonWarning(UserWarning):
    """A learned optimizer took more steps than any trajectory of its meta-training."""


class TrainedOptimizer(eqx.Module):
    """A learned optimizer with its weights and the range of its meta-training.

    Attributes:
        optimizer: the family.
        weights: its weights.
        horizon: the steps of the longest trajectory of meta-training. Beyond it a learned
            optimizer may increase the loss again.
        description: a description of the meta-training.
    """

    optimizer: AbstractLearnedOptimizer
    weights: PyTree
    horizon: int = eqx.field(static=True, converter=integer)
    description: str = eqx.field(static=True, default="")

    def __check_init__(self):
        require_count("horizon", self.horizon)

    def transformation(self, steps: int | None = None) -> optax.GradientTransformation:
        """Return the optax transformation.

        Args:
            steps: the number of steps you will take, if known. Steps are then not counted.

        Returns:
            The transformation. If `steps` is None, a `HorizonWarning` is issued at the first step
            beyond the horizon, also from compiled code. Under `vmap` this calls Python at every
            step, which is slow, so give `steps` there.

        Raises:
            ValueError: if `steps` is not from 1 to the horizon.
        """
        inner = self.optimizer(self.weights)
        if steps is None:
            return _watched(inner, self.horizon)
        allowed = f"1 to {self.horizon}, the longest trajectory of this optimizer's meta-training"
        require(1 <= steps <= self.horizon, "steps", steps, allowed)
        return inner


def _watched(inner: optax.GradientTransformation, horizon: int) -> optax.GradientTransformation:
    """Count steps, and warn at the first one beyond the horizon."""

    def warn(count: Int[Array, ""]) -> None:
        # The number is checked again, since under `vmap` both sides of the `cond` are computed at
        # every step.
        if int(count) == horizon:
            warnings.warn(
                f"this learned optimizer was meta-trained on at most {horizon} steps and is now "
                "taking more; what it does there is untested and often destructive.",
                HorizonWarning,
                stacklevel=2,
            )

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        count, before = state
        # The steps before this one are counted, since `horizon` + 1 may exceed the integers of 32
        # bits.
        beyond = lambda: jax.debug.callback(warn, count)
        jax.lax.cond(count == horizon, beyond, lambda: None)
        updates, after = inner.update(updates, before, params)
        return updates, (optax.safe_increment(count), after)

    init = lambda params: (jnp.zeros((), jnp.int32), inner.init(params))
    return optax.GradientTransformation(init, update)


def save(path: Path, trained: TrainedOptimizer) -> None:
    """Write a trained optimizer to a file, usually ending in `.npz`, atomically.

    Raises:
        ValueError: if the family cannot be written, such as a `LearnedSchedule` with a direction,
            which is a function.
        OSError: if the file cannot be written. An older file at `path` then remains.
    """
    name = type(trained.optimizer).__name__
    # The class itself counts: another one of this name would be read back as ours.
    if FAMILIES.get(name) is not type(trained.optimizer):
        raise ValueError(f"optimizer is a {name}; allowed are {', '.join(FAMILIES)}.")
    settings = {one.name: getattr(trained.optimizer, one.name) for one in fields(trained.optimizer)}
    if settings.get("direction") is not None:
        raise ValueError("direction is a function, which no file can hold; allowed is None.")
    weights = _named(trained.weights)
    # NumPy's format does not support bfloat16; float32 holds all its numbers.
    narrow = [name for name, leaf in weights.items() if leaf.dtype == jnp.bfloat16]
    header = {
        "schema": SCHEMA,
        "optimizer": name,
        "settings": settings,
        "horizon": trained.horizon,
        "description": trained.description,
        **({"bfloat16": narrow} if narrow else {}),
    }
    wide = lambda name, leaf: leaf.astype(jnp.float32) if name in narrow else leaf
    arrays = {name: np.asarray(wide(name, leaf)) for name, leaf in weights.items()}
    content = BytesIO()
    # NumPy stores a text without a pickle.
    arrays[HEADER] = np.array(json.dumps(header))
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def read(path: Path) -> TrainedOptimizer:
    """Read a file of `save`; the weights keep their precision if JAX allows it.

    Raises:
        OptimizerFileError: if the file is truncated or damaged, of another schema, or its arrays
            have other names or shapes than the optimizer needs, or are not finite.
        FileNotFoundError: if there is no file.
    """
    try:
        arrays = parse_arrays(read_bytes(path, LARGEST_FILE), largest=LARGEST_FILE)
    except ValueError as error:
        raise OptimizerFileError(f"{path} is damaged, or is no .npz archive: {error}") from error
    header = _header(path, arrays.pop(HEADER, None))
    try:
        family = FAMILIES[header["optimizer"]]
        # This comes before the family is built, whose sizes decide how much is computed.
        _check_header(header, family, sum(array.size for array in arrays.values()))
        optimizer = family(**header["settings"])
        horizon, description = header["horizon"], header["description"]
        narrow = frozenset(header.get("bfloat16", ()))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise OptimizerFileError(
            f"{path} describes no optimizer of this version: {error}"
        ) from error
    template = jax.eval_shape(optimizer.initial_weights, jax.random.key(0))
    expected = {name: leaf.shape for name, leaf in _named(template).items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        raise OptimizerFileError(f"{path} holds arrays {found}; this optimizer needs {expected}.")
    for name, array in arrays.items():
        if array.dtype not in FLOATS or not np.all(np.isfinite(array)):
            raise OptimizerFileError(f"{path}: the array {name!r} is not of finite floats.")
    dtype = lambda name: jnp.bfloat16 if name in narrow else None
    with np.errstate(over="ignore"):  # an overflow is refused below
        # The order is that of the template, not of the file.
        leaves = [jnp.asarray(arrays[name], dtype(name)) for name in expected]
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves):
        raise OptimizerFileError(f"{path} holds weights beyond float32; allow JAX float64.")
    weights = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return TrainedOptimizer(optimizer, weights, horizon, description)


def load(path: Path, steps: int | None = None) -> optax.GradientTransformation:
    """Return the optax transformation in a file: `read(path).transformation(steps)`."""
    return read(path).transformation(steps)


def pretrained() -> TrainedOptimizer:
    """Return the learned optimizer that ships with this package.

    An `MLPOptimizer`; its `description` states its meta-training and the command for it.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from metastep.learned import pretrained
        >>> optimizer = pretrained().transformation(steps=100)
        >>> loss = lambda w: jnp.sum((w - 0.2) ** 2)
        >>> def step(carry, _):
        ...     w, state = carry
        ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        ...     return (optax.apply_updates(w, updates), state), None
        >>> w = jnp.zeros(3)
        >>> (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), length=100)
        >>> bool(loss(w) < 0.1 * loss(jnp.zeros(3)))
        True
    """
    return read(Path(str(files("metastep.learned") / "pretrained.npz")))


def _named(weights: PyTree) -> dict[str, Any]:
    """Return the leaves of nested dictionaries by names such as "hidden/bias"."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}


def _header(path: Path, array: np.ndarray | None) -> dict[str, Any]:
    foreign = OptimizerFileError(f"{path} is no learned optimizer of the schema {SCHEMA!r}.")
    if array is None or array.dtype.kind != "U" or array.shape != ():
        raise foreign
    try:
        header = parse_json(str(array))
    except ValueError as error:
        raise foreign from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise foreign
    return header


def _check_header(header: dict[str, Any], family: Any, entries: int) -> None:
    """Check types and bounds of a header before it is used."""
    horizon, description = header["horizon"], header["description"]
    if not has_type(horizon, int) or not 1 <= horizon <= LARGEST_HORIZON:
        raise ValueError(f"horizon is {horizon!r}; allowed are integers from 1")
    if not has_type(description, str) or not has_type(header["optimizer"], str):
        raise ValueError("description is no text")
    if not isinstance(header["settings"], dict):
        raise ValueError("settings is no object")
    # These are types, and no text, as long as the modules of the families do not postpone the
    # evaluation of annotations.
    kinds = {one.name: one.type for one in fields(family)}
    for name, value in header["settings"].items():
        if name not in kinds or not has_type(value, kinds[name]):
            raise ValueError(f"{name} is {value!r}, which is no setting of {family.__name__}")
        # Every unit and every layer has a weight, so sizes above `entries` are impossible.
        if has_type(value, int) and value > entries:
            raise ValueError(f"{name} is {value}; the file has {entries} weights")
