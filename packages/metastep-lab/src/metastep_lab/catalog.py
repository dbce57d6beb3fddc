"""The catalogue of experiments, read from `catalog.toml`; it imports none of them.

`metastep list`, the shell completion and the documentation read it. `metastep run` and the other
commands import only the experiment that they need.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LARGEST_SEED = 2**32 - 1
"""The largest seed that every random generator in use accepts."""


@dataclass(frozen=True)
class Listing:
    """One experiment as the catalogue names it.

    Attributes:
        name: as on the command line.
        source: the paper and its figure or table.
        question: the question of the experiment, in one sentence that a newcomer understands.
        minutes: preset to its minutes on two cores.
        module: the module that has it as `EXPERIMENT`.
    """

    name: str
    source: str
    question: str
    minutes: Mapping[str, float]
    module: str


def listing(name: str, catalog: Sequence[Listing] | None = None) -> Listing:
    """Return the entry of a name; `catalog` is `CATALOG` for None.

    Raises:
        KeyError: if there is none of that name.
    """
    for one in CATALOG if catalog is None else catalog:
        if one.name == name:
            return one
    raise KeyError(name)


def _entries() -> Iterator[Listing]:
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    for entry in tomllib.loads(text)["experiment"]:
        yield Listing(**entry | {"module": f"metastep_lab.{entry['module']}.experiment"})


CATALOG = tuple(_entries())
