"""Configurations refuse impossible values with one line, whoever makes them."""

import pickle
from dataclasses import FrozenInstanceError
from typing import Annotated, Literal

import pytest
from annotated_types import MinLen, Predicate

from metastep_lab.configuration import (
    Ascending,
    Count,
    Fraction,
    NotNegative,
    Positive,
    configuration,
    different,
    parse_settings,
)


@configuration
class Config:
    """A field of every kind of bound."""

    steps: Count = 5
    rate: Positive = 0.1
    penalty: NotNegative = 0.0
    share: Fraction = 0.5
    windows: Ascending = (1, 5)
    kinds: Annotated[
        tuple[Literal["a", "b"], ...], MinLen(1), Predicate(different), "different kinds"
    ] = ("a",)
    limit: Annotated[Count | None, "none and integers from 1"] = None
    name: str = "x"

    def __post_init__(self):
        """Refuse what depends on two fields."""
        if self.steps > 9 and self.limit is None:
            raise ValueError(f"limit is {self.limit}; allowed are integers above 9 steps")


REFUSED = {
    "steps=0": ({"steps": 0}, "steps is 0; allowed are integers from 1"),
    "rate=0": ({"rate": 0.0}, "rate is 0.0; allowed are positive numbers"),
    "penalty=-1": ({"penalty": -1.0}, "penalty is -1.0; allowed are numbers from 0"),
    "share=2": ({"share": 2.0}, "share is 2.0; allowed are numbers from 0 to 1"),
    "windows=": ({"windows": ()}, "windows is (); allowed are ascending integers from 1"),
    "windows=5,1": ({"windows": (5, 1)}, "windows is (5, 1); allowed are ascending integers"),
    "windows=0,1": ({"windows": (0, 1)}, "windows is (0, 1); allowed are ascending integers"),
    "kinds=a,a": ({"kinds": ("a", "a")}, "kinds is ('a', 'a'); allowed are different kinds"),
    "limit=0": ({"limit": 0}, "limit is 0; allowed are none and integers from 1"),
    "steps=10": ({"steps": 10}, "limit is None; allowed are integers above 9 steps"),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_refusal_reads_the_same_from_python_and_from_the_command_line(setting):
    values, message = REFUSED[setting]
    for make in (lambda: Config(**values), lambda: parse_settings(Config(), [setting])):
        with pytest.raises(ValueError) as caught:
            make()
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, "name is 3; allowed: text"),
        ({"steps": "many"}, "steps is 'many'; allowed are integers from 1"),
        ({"nowhere": 3}, "unknown field 'nowhere'; allowed: steps, rate"),
    ],
)
def test_values_of_another_type(values, message):
    with pytest.raises(ValueError) as caught:
        Config(**values)
    assert str(caught.value).startswith(message)


def test_a_configuration_is_a_value():
    config = Config(steps=7)
    assert config == pickle.loads(pickle.dumps(config)) and len({config, Config(steps=7)}) == 1
    with pytest.raises(FrozenInstanceError):
        config.steps = 8
