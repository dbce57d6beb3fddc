"""The pages of the documentation: their code blocks, and the gallery that a function writes.

`python -m tests.docs.pages` writes `docs/experiments.md` from the experiments.
"""

import re
from pathlib import Path
from typing import NamedTuple

from metastep_lab.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
}
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", flags=re.MULTILINE)

GALLERY = DOCS / "experiments.md"
GALLERY_HEAD = """# Experiments

Each experiment reproduces one figure or table of a paper and holds the paper's claims against the
run. [Run experiments](guides/run-experiments.md) says what a run leaves behind. Minutes are those
on two cores. `paper` has the sizes of the paper, and may need whole data sets that only you have;
`reduced`, where there is one, says in its configuration what it reduces; `quick` is smaller still.
"""


class Block(NamedTuple):
    """A fenced block: the word after the fence, the text, and the line on which the text begins."""

    kind: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def gallery() -> str:
    """Return the page that lists all experiments."""
    entries = []
    for one in CATALOG:
        times = ", ".join(f"`{name}` {minutes:g} min" for name, minutes in one.minutes.items())
        entries.append(
            f"## {one.name}\n\n{one.question}\n\n"
            f"- Source: {one.source}\n- Time: {times}\n\n"
            f"```sh\nmetastep run {one.name}\n```\n"
        )
    return "\n".join([GALLERY_HEAD, *entries])


if __name__ == "__main__":
    GALLERY.write_text(gallery())
