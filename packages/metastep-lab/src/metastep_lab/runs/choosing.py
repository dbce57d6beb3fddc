"""From the command line to an experiment, one of its presets, and changes to the preset."""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from metastep_lab.catalog import Listing
from metastep_lab.configuration import config_as_json, describe, nearest, parse_settings
from metastep_lab.errors import RefusedError
from metastep_lab.experiment import Experiment, load


def find(catalog: Sequence[Listing], name: str) -> Experiment:
    """Import the experiment of a name that a user typed, and no other.

    Raises:
        RefusedError: if there is none of that name.
    """
    for one in catalog:
        if one.name == name:
            return load(one)
    names = [one.name for one in catalog]
    there = ", ".join(names) or "none"
    raise RefusedError(f"unknown experiment {name!r}{nearest(name, names)}; there is: {there}")


def configure(experiment: Experiment, preset: str, settings: Sequence[str]) -> Any:
    """Return a preset with changes, texts `field=value`.

    Raises:
        RefusedError: for an unknown preset or field, a wrong type or an impossible value.
    """
    if preset not in experiment.presets:
        allowed = ", ".join(experiment.presets)
        raise RefusedError(f"--preset is {preset!r}; allowed for {experiment.name}: {allowed}")
    try:
        return parse_settings(experiment.presets[preset], settings)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    except OverflowError as error:
        changes = ", ".join(settings)
        raise RefusedError(f"{changes}: a number is too large to compute with") from error


def check_data(data: Path | None) -> None:
    """Refuse a data folder that does not exist; None is none.

    Raises:
        RefusedError: if it is not a folder.
    """
    # `Path.is_dir` raises for a name that is too long.
    if data is not None and not os.path.isdir(data):
        raise RefusedError(f"--data is {data}, which is no folder")


def described(listing: Listing) -> dict[str, Any]:
    """Return an experiment with its presets and fields, as `metastep list --json` shows it."""
    experiment = load(listing)
    kinds = get_type_hints(experiment.config)
    names = [field.name for field in fields(experiment.config)]
    return {
        "name": listing.name,
        "source": listing.source,
        "question": listing.question,
        "minutes": dict(listing.minutes),
        "presets": {name: config_as_json(one) for name, one in experiment.presets.items()},
        "fields": {name: describe(kinds[name]) for name in names},
    }
