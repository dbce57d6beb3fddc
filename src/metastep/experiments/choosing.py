"""What a user names on the command line: an experiment, a preset of it, changes to the preset."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from metastep.experiments.base import Experiment, nearest, parse_settings
from metastep.report.directories import RefusedError


def find(experiments: Sequence[Experiment], name: str) -> Experiment:
    """Return the experiment of a name.

    Args:
        experiments: those there are.
        name: what the user typed.

    Returns:
        The experiment.

    Raises:
        RefusedError: if there is none of that name.
    """
    for experiment in experiments:
        if experiment.name == name:
            return experiment
    names = [experiment.name for experiment in experiments]
    there = ", ".join(names) or "none"
    raise RefusedError(f"unknown experiment {name!r}{nearest(name, names)}; there is: {there}")


def configure(experiment: Experiment, preset: str, settings: Sequence[str]) -> Any:
    """Return a preset with changes.

    Args:
        experiment: the experiment.
        preset: the name of one of its presets.
        settings: texts `field=value`.

    Returns:
        The configuration.

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


def as_path(text: str) -> Path:
    """Read the name of a file or a folder.

    Args:
        text: what the user typed.

    Returns:
        The path.

    Raises:
        BadParameter: for an empty text, which would stand for the current folder.
    """
    if not text:
        raise typer.BadParameter("it is empty; allowed is the name of a file or a folder")
    return Path(text)


def check_data(data: Path | None) -> None:
    """Refuse a data folder that is not there.

    Args:
        data: the folder, or None.

    Raises:
        RefusedError: if it is no folder.
    """
    if data is not None and not os.path.isdir(data):
        raise RefusedError(f"--data is {data}, which is no folder")
