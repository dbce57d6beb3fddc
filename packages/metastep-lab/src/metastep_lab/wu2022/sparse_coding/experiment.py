"""Does masking help to recover the dictionary that generated noisy sparse signals?

Signals are sparse combinations of true atoms plus noise. A dictionary with more atoms than the
truth is learned with and without masking, from held-out signals (`sample`), from the truth filled
up with such signals (`local`) or from normal numbers (`random`), and compared with the truth. Three
things vary:

- `realization` (Figure 2.1): the number of learned atoms;
- `scale` (Figure 2.2): the dimension, the numbers of atoms and the sparsity in proportion, with
  twice as many learned atoms as true ones;
- `noise` (Figure 2.3): the standard deviation of the noise, at the largest number of learned atoms.

Forms of training are compared with twice as many learned atoms as true ones: masks in turn or a
single one in place of drawn ones, plain steps in place of Adam, and random starts (section 2.4).

Both algorithms and both starts see the same data.

Tables:

- `recovery`: vary, value (learned atoms | dimension | standard deviation), initialization,
  algorithm (baseline | masking), seed, error_initial, error (average over the true atoms of
  1 - |cosine| with the most similar learned one, before and after learning).
- `training`: the same columns; algorithm is a name of `VARIANTS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import MinLen, Predicate
from joblib import Parallel, delayed

from metastep import saving as checkpoint
from metastep.sparse_coding import (
    cosine_recovery_error,
    draw_signals,
    learn_dictionary,
    local_start,
    random_dictionary,
    sample_start,
)
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Positive, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.wu2022.sparse_coding.claims import CLAIMS, answer
from metastep_lab.wu2022.sparse_coding.figures import figures
from metastep_lab.wu2022.sparse_coding.published import printed

ALGORITHMS = ("baseline", "masking")
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "masking": {},
    "baseline": {"algorithm": "baseline"},
    "masks in turn": {"masks": "in turn"},
    "one mask": {"masks": "one"},
    **{f"plain steps of {rate:g}": {"adam": False, "learning_rate": rate} for rate in (1, 10, 100)},
}
"""What `training` changes in a cell."""

SEVERAL = (MinLen(1), Predicate(different), "different values, at least one")


@configuration
class Config:
    """The configuration; the thesis's values where it gives them.

    Attributes:
        vary: the varied quantities, one figure for each.
        initialization: where learning starts.
        seeds: data sets for every setting.
        samples: signals n to learn from.
        dim: d, except where it is varied.
        atoms: true atoms p at dimension d.
        n_nonzero: atoms k in each signal at dimension d.
        realizations: numbers of learned atoms p'.
        dims: dimensions for `scale`.
        noises: standard deviations for `noise`; the other figures have 1 / sqrt(dim).
        mask_fraction: the part of the coordinates that masking hides.
        epochs: passes over the signals.
        batch_size: signals in each step.
        learning_rate: of Adam, or of plain steps.
        masks: `drawn` anew for each batch; `in turn`, through masks that share no coordinate, so
            that every batch meets every mask; or `one` for all batches.
        adam: False descends by plain steps, with the same learning rate.
        training: also compare the `VARIANTS` of training.
        processes: cells computed at the same time; the results do not depend on it.
    """

    vary: Annotated[tuple[Literal["realization", "scale", "noise"], ...], *SEVERAL] = (
        "realization",
        "scale",
        "noise",
    )
    initialization: Annotated[tuple[Literal["sample", "local", "random"], ...], *SEVERAL] = (
        "sample",
        "local",
    )
    seeds: Count = 5
    samples: Count = 1000
    dim: Count = 100
    atoms: Count = 200
    n_nonzero: Count = 5
    realizations: Annotated[tuple[int, ...], *SEVERAL] = (200, 400, 600, 800, 1000)
    dims: Annotated[tuple[int, ...], *SEVERAL] = (100, 150, 200, 250)
    noises: Annotated[tuple[float, ...], *SEVERAL] = (0.01, 0.0325, 0.055, 0.0775, 0.1)
    mask_fraction: float = 0.1
    epochs: Count = 500
    batch_size: Count = 200
    learning_rate: Positive = 1e-3
    masks: Literal["drawn", "in turn", "one"] = "drawn"
    adam: bool = True
    training: bool = True
    processes: Count = 2

    def __post_init__(self):
        """Check the conditions on several sizes."""
        if min(self.noises) < 0:
            raise ValueError(f"noises is {self.noises}; allowed are numbers from 0")
        if min(self.realizations) < self.atoms:
            raise ValueError(
                f"realizations is {self.realizations}; allowed are integers from atoms, "
                f"{self.atoms}"
            )
        if not 0 < self.mask_fraction < 1 or not 1 <= self.hidden(self.dim):
            raise ValueError(
                f"mask_fraction is {self.mask_fraction}; allowed are numbers between 0 and 1 that "
                "hide a coordinate"
            )
        if self.n_nonzero > min(self.atoms, self.dim - self.hidden(self.dim)):
            raise ValueError(
                f"n_nonzero is {self.n_nonzero}; allowed are at most as many as true atoms and "
                "visible coordinates"
            )
        if min(self.dims) * self.n_nonzero < self.dim or self.hidden(min(self.dims)) < 1:
            raise ValueError(
                f"dims is {self.dims}; allowed are dimensions that leave an atom in each signal "
                "and a coordinate to hide"
            )

    def hidden(self, dim: int) -> int:
        """Return the number of hidden coordinates, rounded down."""
        # 0.29 * 100 is 28.999999999999996.
        return int(self.mask_fraction * dim + 1e-9)


@dataclass(frozen=True)
class Cell:
    """One dictionary to learn: the problem, the start, the algorithm and the seed."""

    dim: int
    atoms: int
    n_nonzero: int
    learned: int
    noise: float
    initialization: str
    algorithm: str
    seed: int
    masks: str
    adam: bool
    learning_rate: float

    def name(self) -> str:
        """Return a name that no other cell of a run has."""
        return " ".join(map(str, vars(self).values()))


def cells(config: Config) -> dict[tuple[str, float, str, str, int], Cell]:
    """Return the cell for every row of the table; figures share equal cells."""
    problems: list[tuple[str, float, tuple[int, int, int, int, float]]] = []
    base, noise = (config.dim, config.atoms, config.n_nonzero), config.dim**-0.5
    if "realization" in config.vary:
        problems += [("realization", p, (*base, p, noise)) for p in config.realizations]
    if "scale" in config.vary:
        for dim in config.dims:
            atoms, k = (x * dim // config.dim for x in (config.atoms, config.n_nonzero))
            problems.append(("scale", dim, (dim, atoms, k, 2 * atoms, dim**-0.5)))
    if "noise" in config.vary:
        most = max(config.realizations)
        problems += [("noise", sd, (*base, most, sd)) for sd in config.noises]
    how = config.masks, config.adam, config.learning_rate
    found = {
        (vary, value, start, algorithm, seed): Cell(*problem, start, algorithm, seed, *how)
        for vary, value, problem in problems
        for start, algorithm, seed in product(
            config.initialization, ALGORITHMS, range(config.seeds)
        )
    }
    if config.training:
        twice = 2 * config.atoms
        for seed, (name, changes) in product(range(config.seeds), VARIANTS.items()):
            for start in ("sample", "random") if name in ALGORITHMS else ("sample",):
                cell = Cell(*base, twice, noise, start, "masking", seed, *how)
                found["training", twice, start, name, seed] = replace(cell, **changes)
    return found


def measure(cell: Cell, config: Config, seed: int) -> tuple[float, float]:
    """Draw the data of a cell, learn a dictionary in float32, and return both errors."""
    # Neither of the algorithm, the start nor p': all see one truth and one training set, which are
    # drawn before the held-out signals, whose number varies.
    rng = np.random.default_rng([seed, cell.seed, cell.dim])
    truth = random_dictionary(rng, cell.dim, cell.atoms)
    train, held_out = (
        draw_signals(rng, truth, n, cell.n_nonzero, cell.noise).signals.astype(np.float32)
        for n in (config.samples, cell.learned)
    )
    start = sample_start(held_out)
    if cell.initialization == "local":
        start = local_start(truth, held_out[: cell.learned - cell.atoms])
    elif cell.initialization == "random":
        start = random_dictionary(rng, cell.dim, cell.learned)
    hidden: int | np.ndarray = config.hidden(cell.dim) if cell.algorithm == "masking" else 0
    if hidden and cell.masks != "drawn":
        # The coordinates that are left over, too few for a mask, are never hidden.
        masks = rng.permutation(cell.dim)[: cell.dim // hidden * hidden].reshape(-1, hidden)
        batches = -(-config.samples // config.batch_size)
        # Shifted by one in each pass: otherwise a mask would meet the same batches again and again.
        order = np.add.outer(np.arange(len(masks)), np.arange(batches)).ravel() % len(masks)
        hidden = masks[order] if cell.masks == "in turn" else masks[:1]
    learned = learn_dictionary(
        train,
        start,
        cell.n_nonzero,
        hidden=hidden,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=cell.learning_rate,
        adam=cell.adam,
        # Not `rng`, whose state depends on p' and the start: an algorithm meets the same batches
        # and masks at all of them.
        rng=np.random.default_rng([seed, cell.seed, cell.dim, 1]),
    )
    return cosine_recovery_error(truth, start), cosine_recovery_error(truth, learned.dictionary)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Learn every dictionary once and write the tables."""
    rows = cells(config)
    errors = _measured(list(dict.fromkeys(rows.values())), config, context)
    names = "vary value initialization algorithm seed error_initial error"
    found = [(*row, *errors[cell.name()]) for row, cell in rows.items()]
    for table, ours in (("recovery", False), ("training", True)):
        chosen = [row for row in found if (row[0] == "training") == ours]
        if chosen:
            context.table(table, columns(names, chosen))
    return {"dictionaries": len(errors)}


def _measured(wanted: list[Cell], config: Config, context: Context) -> dict[str, list[float]]:
    """Measure the cells that the checkpoint lacks, small ones first."""
    path, errors = context.checkpoint("cells"), {}
    if context.resume and path.exists():
        errors = checkpoint.load(path, ())[1]["errors"]
    missing = [cell for cell in wanted if cell.name() not in errors]
    missing.sort(key=lambda cell: cell.learned * cell.dim)
    context.progress(len(errors), len(wanted), "dictionaries")
    processes = max(1, min(config.processes, len(missing)))
    # A generator gives each cell when it is done, for the checkpoint, and not all at the end.
    found: Any = Parallel(processes, return_as="generator")(
        delayed(measure)(cell, config, context.seed) for cell in missing
    )
    for cell, pair in zip(missing, found, strict=True):
        errors[cell.name()] = list(pair)
        checkpoint.save(path, (), {"errors": errors})
        context.progress(len(errors), len(wanted), "dictionaries")
    return errors


QUICK = Config(
    vary=("realization", "noise"),
    seeds=2,
    samples=500,
    dim=50,
    atoms=100,
    n_nonzero=3,
    realizations=(100, 200, 500),
    noises=(0.02, 0.08, 50**-0.5),
    epochs=200,
    batch_size=100,
    learning_rate=2e-3,
)

EXPERIMENT = Experiment(
    listing("sparse-coding"),
    config=Config,
    presets={"quick": QUICK, "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "masking-better-over-realized",
            "masking-better-at-high-noise",
            "gap-grows-with-atoms",
            "masking-insensitive-to-atoms",
            "low-noise-tie",
        }
    ),
    answer=answer,
    printed=printed,
    finite=("recovery.error",),
)
