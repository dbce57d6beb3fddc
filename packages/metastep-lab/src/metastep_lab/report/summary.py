"""A run on the report page, and the verdicts on its claims in signs and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERDICTS = {True: ("✔", "holds"), False: ("✘", "does not hold"), None: ("?", "undecided")}
MEANINGS = {
    True: "the numbers of this run agree with the statement.",
    False: "the numbers of this run contradict the statement.",
    None: "this run cannot tell, and says why; most often it is too small.",
}
STATUSES = {"complete": "✔", "interrupted": "…", "failed": "✘"}


@dataclass(frozen=True)
class Run:
    """A run directory and its place on the page.

    Attributes:
        directory: where the run is.
        number: its place, from 1.
        result: the content of `result.json`.
    """

    directory: Path
    number: int
    result: dict[str, Any]

    @property
    def anchor(self) -> str:
        """The identifier of its section."""
        return f"run-{self.number}"

    @property
    def title(self) -> str:
        """The experiment."""
        return self.result["experiment"]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The claims with their verdicts."""
        return self.result["claims"]

    @property
    def variant(self) -> str:
        """The preset, seed and settings that distinguish the run."""
        preset, seed = self.result.get("preset"), self.result["seed"]
        return f"{preset}, seed {seed}" if preset else f"seed {seed}"


def counts(claims: Sequence[dict[str, Any]]) -> str:
    """Return such as `12 hold, 1 does not, 2 undecided`, without counts of 0."""
    number = {holds: sum(claim["holds"] is holds for claim in claims) for holds in VERDICTS}
    words = {
        True: "holds" if number[True] == 1 else "hold",
        False: "does not" if number[False] == 1 else "do not",
        None: "undecided",
    }
    parts = [f"{number[holds]} {words[holds]}" for holds in VERDICTS if number[holds]]
    return ", ".join(parts) or "no claims"


def plural(number: int, word: str) -> str:
    """Return such as `1,234 rows` or `1 row`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
