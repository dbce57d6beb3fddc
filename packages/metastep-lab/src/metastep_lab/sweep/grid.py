"""From `--grid`, `--set` and `--seeds` to a list of runs, every one checked before any starts."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from metastep_lab.catalog import LARGEST_SEED
from metastep_lab.configuration import config_as_json
from metastep_lab.errors import RefusedError
from metastep_lab.experiment import Experiment
from metastep_lab.runs.choosing import configure

LARGEST_SWEEP = 100_000
LONGEST_NAME = 100


@dataclass(frozen=True)
class Entry:
    """One run of a sweep as its list and its table name it.

    Attributes:
        key: the name of its run directory: the fields that vary and a hash of everything.
        values: the fields that vary, by name, as `config_as_json` gives them.
        seed: its random seed.
    """

    key: str
    values: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Cell:
    """One run of a sweep with its configuration.

    Attributes:
        entry: its name, the fields that vary and its seed.
        settings: what makes its configuration from the preset, as texts `field=value`.
        config: its configuration.
    """

    entry: Entry
    settings: tuple[str, ...]
    config: Any


def cells(
    experiment: Experiment,
    preset: str,
    settings: Sequence[str],
    grid: Sequence[str],
    seeds: str | None,
) -> tuple[Cell, ...]:
    """Return the runs of a sweep: every combination of values and seeds, the seeds fastest.

    `grid` has texts `field=value,value`; the values of a field that is itself a list are separated
    by semicolons, `windows=1,2;1,2,3`. All runs start from `preset` with `settings`, texts
    `field=value`. `seeds` is for `read_seeds`, or None for seed 0.

    Raises:
        RefusedError: if the sweep is empty or too large, names a field that does not exist, or any
            run of it is impossible or there twice.
    """
    if not grid and seeds is None:
        raise RefusedError("the sweep is empty: give --grid field=value,value or --seeds first:end")
    configure(experiment, preset, settings)
    axes = sorted((_axis(text) for text in grid), key=lambda axis: _place(experiment, axis[0]))
    chosen = read_seeds(seeds) if seeds is not None else range(1)
    count = math.prod(len(values) for _, values in axes) * len(chosen)
    if count > LARGEST_SWEEP:
        raise RefusedError(f"the sweep has {count:,} runs; allowed: up to {LARGEST_SWEEP:,}")
    found: dict[str, Cell] = {}
    for combination in product(*(values for _, values in axes)):
        changes = [f"{name}={text}" for (name, _), text in zip(axes, combination, strict=True)]
        shared = (*settings, *changes)
        config = configure(experiment, preset, shared)
        values = {name: config_as_json(config)[name] for name, _ in axes}
        for seed in chosen:
            key = _key(experiment, config, values, seed)
            if key in found:
                raise RefusedError(f"the grid holds {_name(values, seed)} twice; allowed: once")
            found[key] = Cell(Entry(key, values, seed), shared, config)
    return tuple(found.values())


def read_seeds(text: str) -> Sequence[int]:
    """Read `--seeds`: `first:end` without the end, or integers separated by commas.

    Raises:
        RefusedError: for anything else, none at all, or a seed beyond 2**32 - 1.
    """
    refused = RefusedError(
        f"--seeds is {text!r}; allowed: first:end with first < end, or integers separated by "
        f"commas, each up to {LARGEST_SEED}"
    )
    if not re.fullmatch(r"\d{1,10}(:\d{1,10}|(,\d{1,10})*)", text, re.ASCII):
        raise refused
    first, colon, end = text.partition(":")
    seeds = range(int(first), int(end)) if colon else [int(part) for part in text.split(",")]
    # The maximum of a range of 2**32 would take minutes; it ascends.
    if not seeds or (seeds[-1] if colon else max(seeds)) > LARGEST_SEED:
        raise refused
    return seeds


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise RefusedError(f"--grid is {text!r}; allowed: field=value,value")
    return name, [part.strip() for part in values.split(";" if ";" in values else ",")]


def _place(experiment: Experiment, name: str) -> int:
    """Return the field's position in the configuration: the order of `--grid`s changes no name."""
    names = [field.name for field in fields(experiment.config)]
    return names.index(name) if name in names else len(names)


def _key(experiment: Experiment, config: Any, values: dict[str, Any], seed: int) -> str:
    whole = {"experiment": experiment.name, "config": config_as_json(config), "seed": seed}
    # The hash tells runs apart whose names were cut, or which differ in a field that is not in the
    # grid: a sweep with another `--set` into the same folder must not take them for its own.
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9_.=,+-]", "_", _name(values, seed))
    # File systems refuse names of more than 255 bytes.
    return f"{plain[:LONGEST_NAME]}-{digest}"


def _name(values: dict[str, Any], seed: int) -> str:
    return ",".join(f"{name}={as_text(value)}" for name, value in {**values, "seed": seed}.items())


def as_text(value: Any) -> str:
    """Return a value of a configuration as a part of a name; `+` joins the entries of a list."""
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
