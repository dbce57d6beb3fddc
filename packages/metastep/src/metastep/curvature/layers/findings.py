"""The matrices that a model uses, and what stands in the way of the others."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array

ADVICE = "use Hessian or GaussNewton with `where`, which need no capture"

Key = tuple[int, int]
"""A matrix: the index of its parameter, and the place of the first of its entries there."""


@dataclass(frozen=True)
class Use:
    """One use z[p, i] = sum_j W[i, j] X[p, j] of a weight matrix.

    `entries[i, j]` is the place of W[i, j] in the parameter; the W of a tap is not a parameter.
    With several groups, the outputs of each have inputs of their own, beside each other in X.
    """

    shape: tuple[int, int]
    positions: int
    is_convolution: bool = False
    entries: np.ndarray | None = None
    groups: int = 1


@dataclass
class Findings:
    """The findings of one evaluation of the model, by matrix; obstacles by parameter.

    The indices of taps follow those of the parameters; `tapped` has their names. `scanned` are the
    parameters whose first axis a scan goes along. `biases` and `bias_uses` name a bias by parameter
    and first entry, too.
    """

    uses: dict[Key, list[Use]] = field(default_factory=dict)
    obstacles: dict[int, str] = field(default_factory=dict)
    biases: dict[Key, list[tuple[Key, np.ndarray]]] = field(default_factory=dict)
    bias_uses: dict[Key, int] = field(default_factory=dict)
    output_uses: dict[Key, int] = field(default_factory=dict)
    inputs: dict[Key, Array] = field(default_factory=dict)
    tapped: dict[str, int] = field(default_factory=dict)
    scanned: set[int] = field(default_factory=set)


Taps = dict[Key, Array]


def parts_of(leaf: int, path: str, findings: Findings) -> dict[str, Key]:
    """Return the matrices that a parameter holds: its path alone, or with their numbers."""
    keys = sorted(key for key in findings.uses if key[0] == leaf)
    if len(keys) < 2:
        return {path: keys[0] if keys else (leaf, 0)}
    # An entry in two matrices is shared by two layers, and the curvature of it does not factor.
    matrices = [findings.uses[key][0].entries for key in keys]
    entries = np.concatenate([one.reshape(-1) for one in matrices if one is not None])
    if len(np.unique(entries)) < len(entries):
        findings.obstacles.setdefault(leaf, "parts of it that are used as matrices overlap")
    return {f"{path}[{i}]": key for i, key in enumerate(keys)}


def require_capture(name: str, key: Key, findings: Findings) -> None:
    """Raise a `ValueError` with the reason why a layer cannot be captured, and the remedy."""
    why = findings.obstacles.get(key[0])
    uses = len(findings.uses.get(key, []))
    if name in findings.tapped:
        advice = ""
        if why is None and uses != 1:
            why = f"{uses} taps have this name; give each its own"
        elif why is None and not findings.output_uses.get(key):
            why = "the model does not use what tap returns; go on with it in place of the outputs"
    else:
        advice = "mark its output with `tap`, "
        if why is None and uses != 1:
            why = f"it is used {uses} times, and the curvature of shared weights does not factor"
    if why is not None:
        raise ValueError(
            f"layers has {name}, which cannot be captured: {why}. Name the layers that are wanted "
            f"without it, {advice}or {ADVICE}."
        )
