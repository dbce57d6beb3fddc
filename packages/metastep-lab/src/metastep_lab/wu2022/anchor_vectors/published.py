"""The tables of the thesis on anchor vectors, and which of its models a run has."""

from collections.abc import Callable
from typing import NamedTuple

from metastep_lab.printed import Printed, mean_of
from metastep_lab.tables import Frame, Record

SIZES = (0, 10, 100, 1000, 10000)
"""Numbers k of the columns of Table B.2."""


class Model(NamedTuple):
    """A row of Tables B.1 and B.2.

    Attributes:
        title: as the thesis calls it.
        millions: of parameters.
        hidden: dimension of the states.
        perplexity: on the first quarter of the corpus.
        errors: mean squared errors of log Z_bulk without the `SIZES` most probable words.
        selected: whether Table 3.1 has it, the models with the smallest errors.
    """

    title: str
    millions: float
    hidden: int
    perplexity: float
    errors: tuple[float, ...]
    selected: bool


MODELS = {
    "gpt2": Model("GPT-2", 124, 768, 25.92, (625.8, 651.4, 665.2, 685.5, 727.4), False),
    "gpt2-medium": Model(
        "GPT-2 Medium", 355, 1024, 19.19, (0.7647, 0.3444, 0.3005, 0.2683, 0.2396), False
    ),
    "gpt2-large": Model(
        "GPT-2 Large", 774, 1280, 17.13, (0.7296, 0.1288, 0.0740, 0.0317, 0.0022), True
    ),
    "gpt2-xl": Model("GPT-2 XL", 1500, 1600, 15.34, (0.7716, 0.1219, 0.0648, 0.0279, 0.0019), True),
    "opt-125m": Model("OPT-125M", 125, 768, 25.01, (0.6688, 0.1010, 0.0443, 0.0117, 0.0006), True),
    "opt-350m": Model(
        "OPT-350M", 350, 1024, 19.69, (2.2449, 0.9393, 0.7587, 0.6182, 0.4275), False
    ),
    "opt-1.3b": Model(
        "OPT-1.3B", 1300, 2048, 13.16, (0.5234, 0.0984, 0.0402, 0.0117, 0.0006), True
    ),
}
"""By the last part of a directory, which is the name of its model."""

TABLE_3_1 = {one.title: (one.errors[0], one.errors[2]) for one in MODELS.values() if one.selected}
"""Title to the errors of log Z and of log Z_bulk without the top 100 words."""


def without(leave_out: Callable[[Model], bool], rows: Frame) -> Frame:
    """Return the rows whose model, in the index, is not among some of the thesis's."""
    exempt = [name for name, model in MODELS.items() if leave_out(model)]
    return rows[~rows.index.isin(exempt)]


def printed(record: Record) -> list[Printed]:
    """Return the numbers of Tables B.1 and B.2 for the thesis's models in a run."""
    rows = []
    for name, model in MODELS.items():
        of_model = lambda column, scale=1.0, name=name: mean_of(
            "models", column, scale=scale, model=name
        )
        rows += [
            Printed(
                "Table B.1",
                f"{model.title}, million parameters",
                model.millions,
                of_model("parameters", 1e-6),
            ),
            Printed(
                "Table B.1", f"{model.title}, hidden dimension", model.hidden, of_model("hidden")
            ),
            Printed(
                "Table B.1", f"{model.title}, perplexity", model.perplexity, of_model("perplexity")
            ),
        ]
        for top, error in zip(SIZES, model.errors, strict=True):
            place = "Tables 3.1 and B.2" if model.selected and top in (0, 100) else "Table B.2"
            here = mean_of("every_position", "mse", model=name, top=top)
            rows.append(Printed(place, f"{model.title}, MSE at k = {top}", error, here))
    return rows
