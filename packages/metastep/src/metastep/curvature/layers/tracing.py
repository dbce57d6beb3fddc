"""Find where a model uses its weight matrices, without changing the model.

The model is traced to a jaxpr and evaluated equation by equation. Every array that is only a
rearrangement of a parameter also carries an array of the same shape with the origin of each entry
in the parameter. A matrix product or a convolution with one such operand is a layer. If a
rearranged parameter is added to its output, it is the bias. An output that `tap` marks is a layer,
too. A scan over a stack of weights is evaluated step by step, and each step has layers of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from metastep.curvature.layers.findings import Findings, Key, Taps, Use
from metastep.curvature.layers.layouts import bias_entries, read_layout
from metastep.curvature.layers.taps import read_mark

# Every entry of the result is one entry of the operand, so that origins follow the operation.
REARRANGE = ("broadcast_in_dim", "reshape", "rev", "squeeze", "transpose")
SAME_PLACE = ("convert_element_type", "copy", "name", "reduce_precision", "sharding_constraint")
# Calls that are evaluated as a part of the model, with the parameter that holds their program.
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr"}
LOOPS = ("scan", "while")
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
PARTS = ("slice", "split")


@dataclass(frozen=True)
class Origin:
    """The entry of parameter `leaf` at each place of an array; or its channel in a layer's output.

    Attributes:
        leaf: the index of the parameter.
        entries: entries of the parameter, or channels.
        layer: the layer whose output this is; None for a parameter.
    """

    leaf: int
    entries: np.ndarray
    layer: Key | None = None

    @property
    def is_output(self) -> bool:
        """Whether this is not a parameter."""
        return self.layer is not None


def evaluate(
    model: Callable[..., PyTree], leaves: Sequence[Array], example: PyTree, taps: Taps
) -> tuple[PyTree, Findings]:
    """Evaluate `model(leaves, example)` for one input; return its output and its layers.

    `taps` has, by matrix, the value to add to the output of its layer, `[positions, out]`. The
    recorded inputs of a layer are rows `[positions, groups * in]`.
    """
    closed, shape = jax.make_jaxpr(model, return_shape=True)(list(leaves), example)
    origins = [Origin(i, np.arange(leaf.size).reshape(leaf.shape)) for i, leaf in enumerate(leaves)]
    arguments = [*leaves, *jax.tree.leaves(example)]
    walk = _Walk(taps, len(leaves), Findings())
    padding: list[Origin | None] = [None] * (len(arguments) - len(origins))
    outputs, ends = walk.run(closed, arguments, [*origins, *padding])
    walk.consume(ends)
    # The loss then depends on it in a second way, not through a layer's output alone.
    walk.forget(ends, "it is returned by the model")
    return jax.tree.unflatten(jax.tree.structure(shape), outputs), walk.findings


@dataclass
class _Walk:
    taps: Taps
    leaves: int
    findings: Findings

    def consume(self, origins: Sequence[Origin | None]) -> None:
        for origin in origins:
            if origin is not None and origin.layer is not None:
                _increment(self.findings.output_uses, origin.layer)

    def forget(self, origins: Sequence[Origin | None], why: str) -> None:
        for origin in origins:
            if origin is not None and not origin.is_output:
                self.findings.obstacles.setdefault(origin.leaf, why)

    def run(
        self, closed: Any, arguments: Sequence[Any], origins: Sequence[Origin | None]
    ) -> tuple[list[Any], list[Origin | None]]:
        """Evaluate a closed jaxpr on values and their origins."""
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))
        known = dict(zip(jaxpr.invars, origins, strict=True))
        is_literal = lambda atom: isinstance(atom, jex.core.Literal)
        read = lambda atom: atom.val if is_literal(atom) else values[atom]
        origin_of = lambda atom: None if is_literal(atom) else known.get(atom)
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results, found = self._apply(equation, operands, list(map(origin_of, equation.invars)))
            values.update(zip(equation.outvars, results, strict=True))
            known.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars], list(map(origin_of, jaxpr.outvars))

    def _apply(
        self, equation: Any, operands: list[Any], origins: list[Origin | None]
    ) -> tuple[list[Any], list[Origin | None]]:
        name = equation.primitive.name
        parameters = [origin for origin in origins if origin is not None and not origin.is_output]
        hidden = _marks(equation)
        # Calls that no parameter reaches stay whole: fewer equations, and one compiled program.
        if name in INLINED and (hidden or any(origin is not None for origin in origins)):
            inner = equation.params[INLINED[name]]
            # That of `jax.checkpoint` is open: its constants are arguments.
            closed = inner if hasattr(inner, "consts") else jex.core.ClosedJaxpr(inner, ())
            return self.run(closed, operands, origins)
        if name == "scan" and _stacks(equation, origins):
            return self._unrolled(equation, operands, origins)
        for tap in hidden:
            self.findings.obstacles.setdefault(self._tap_index(tap), _obstacle(name))
        results = _bind(equation, operands)
        if (mark := _mark(equation)) is not None:
            return self._tap(*mark, results[0])
        nothing: list[Origin | None] = [None] * len(results)
        if name in SAME_PLACE:
            return results, [origins[0]]
        first = origins[0] if origins else None
        # Parts of a parameter, and the slice with which `tap` extracts its outputs.
        is_part = first is not None and (not first.is_output or first.leaf >= self.leaves)
        if first is not None and (name in REARRANGE or (name in PARTS and is_part)):
            return results, _rearranged(equation, first)
        # From here on an output leaves its layer: a second use, after a bias, is counted.
        self.consume(origins)
        # A product of two parameters is not a layer: neither of them is its input.
        if name in ("dot_general", "conv_general_dilated") and len(parameters) == 1:
            return self._layer(equation, operands, origins, results[0])
        if name == "add" and any(origin is not None for origin in origins):
            return results, [self._bias(origins)]
        self.forget(parameters, _obstacle(name))
        return results, nothing

    def _layer(
        self, equation: Any, operands: list[Any], origins: list[Origin | None], output: Any
    ) -> tuple[list[Any], list[Origin | None]]:
        side = next(i for i, o in enumerate(origins) if o is not None and not o.is_output)
        origin = origins[side]
        assert origin is not None
        layout = read_layout(equation, operands, side, origin.entries)
        if isinstance(layout, str):
            self.forget([origin], layout)
            return [output], [None]
        rows, entries, axes, groups = layout
        key, shape = (origin.leaf, int(entries.min())), tuple(output.shape[axis] for axis in axes)
        # The positions of a permutation in order are its inverse.
        back = lambda matrix: matrix.reshape(shape).transpose(np.argsort(axes))
        convolution = equation.primitive.name == "conv_general_dilated"
        self._record(key, Use(entries.shape, len(rows), convolution, entries, groups), rows)
        channel = np.broadcast_to(np.arange(len(entries)), (len(rows), len(entries)))
        if key in self.taps:
            # In a mixed-precision model the sum must not raise the precision of what follows.
            output = output + back(self.taps[key]).astype(output.dtype)
        return [output], [Origin(origin.leaf, back(channel), key)]

    def _unrolled(
        self, equation: Any, operands: list[Any], origins: list[Origin | None]
    ) -> tuple[list[Any], list[Origin | None]]:
        """Evaluate a scan over a stack of weights one step after the other."""
        params = equation.params
        fixed, carried = scan_places(equation)
        stacks = origins[carried:]
        self.consume(stacks)
        parameter = [one if one is not None and not one.is_output else None for one in stacks]
        self.findings.scanned.update(one.leaf for one in parameter if one is not None)
        # Carried origins go along, so that a bias that a later step adds still finds its layer.
        state, known = operands[fixed:carried], origins[fixed:carried]
        steps, gathered = range(params["length"]), {}
        for t in reversed(steps) if params["reverse"] else steps:
            slices = [jax.lax.index_in_dim(x, t, keepdims=False) for x in operands[carried:]]
            parts = [one and Origin(one.leaf, one.entries[t]) for one in parameter]
            results, ends = self.run(
                params["jaxpr"],
                [*operands[:fixed], *state, *slices],
                [*origins[:fixed], *known, *parts],
            )
            count = carried - fixed
            state, known, gathered[t] = results[:count], ends[:count], results[count:]
            self.consume(ends[count:])
            self.forget(ends[count:], "a scan stacks it")
        outputs = [jnp.stack(each) for each in zip(*(gathered[t] for t in steps), strict=True)]
        return [*state, *outputs], [*known, *([None] * len(outputs))]

    def _tap(self, name: str, outputs: int, joined: Any) -> tuple[list[Any], list[Origin | None]]:
        """Record a tap; `joined` holds its outputs, followed by its inputs."""
        index = self._tap_index(name)
        rows = joined.reshape(-1, joined.shape[-1])[:, outputs:]
        key = index, 0
        self._record(key, Use((outputs, rows.shape[1]), len(rows)), rows)
        if key in self.taps:
            # The inputs beside the outputs are only carried along for this reading.
            change = jnp.pad(self.taps[key], ((0, 0), (0, rows.shape[1])))
            joined = joined + change.reshape(joined.shape).astype(joined.dtype)
        channel = np.broadcast_to(np.arange(joined.shape[-1]), joined.shape)
        return [joined], [Origin(index, channel, key)]

    def _tap_index(self, name: str) -> int:
        return self.findings.tapped.setdefault(name, self.leaves + len(self.findings.tapped))

    def _record(self, key: Key, use: Use, rows: Array) -> None:
        self.findings.uses.setdefault(key, []).append(use)
        self.findings.inputs[key] = rows

    def _bias(self, origins: list[Origin | None]) -> Origin | None:
        """Record `layer + bias`; the sum is no longer the layer's output."""
        parameters = [origin for origin in origins if origin is not None and not origin.is_output]
        outputs = [origin for origin in origins if origin is not None and origin.is_output]
        if len(parameters) == 1 and len(outputs) == 1:
            (bias,), (output,) = parameters, outputs
            order = bias_entries(output.entries, bias.entries)
            if order is not None and output.layer is not None:
                key = bias.leaf, int(order.min())
                self.findings.biases.setdefault(output.layer, []).append((key, order))
                _increment(self.findings.bias_uses, key)
                return None
        self.forget(parameters, _obstacle("add"))
        return None


def _increment(counts: dict[Key, int], key: Key) -> None:
    counts[key] = counts.get(key, 0) + 1


def _stacks(equation: Any, origins: Sequence[Origin | None]) -> bool:
    """Whether a scan goes along a parameter."""
    along = origins[scan_places(equation)[1] :]
    return any(one is not None and not one.is_output for one in along)


def scan_places(equation: Any) -> tuple[int, int]:
    """Return the places among the operands of a scan where the state and the stacks begin."""
    # By the axes, since the names of these counts differ between versions of JAX: a stack has one
    # axis more than what a step sees of it.
    step = equation.params["jaxpr"]
    axes = lambda variables, seen: [
        x.aval.ndim - y.ndim for x, y in zip(variables, seen, strict=True)
    ]
    stacks = len(equation.invars) - sum(axes(equation.invars, step.in_avals))
    state = axes(equation.outvars, step.out_avals).count(0)
    return stacks - state, stacks


def _bind(equation: Any, operands: list[Any]) -> list[Any]:
    # Custom derivatives are bound to functions, and their equations hold programs.
    parameters = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*operands, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]


def _rearranged(equation: Any, origin: Origin) -> list[Origin | None]:
    # Origins are known while the model is traced: the same operation moves them, at once.
    with jax.ensure_compile_time_eval():
        found = _bind(equation, [jnp.asarray(origin.entries)])
    return [Origin(origin.leaf, np.asarray(entries), origin.layer) for entries in found]


def _mark(equation: Any) -> tuple[str, int] | None:
    """Return name and number of outputs if the equation is a tap."""
    return read_mark(equation.params["name"]) if equation.primitive.name == "name" else None


def _marks(equation: Any) -> list[str]:
    """Return the names of the taps inside the programs that an equation calls."""
    found = []
    for jaxpr in jex.core.jaxprs_in_params(equation.params):
        for inner in jaxpr.eqns:
            mark = _mark(inner)
            found += _marks(inner) if mark is None else [mark[0]]
    return found


def _obstacle(name: str) -> str:
    if name in LOOPS:
        return (
            f"it is used inside a {name}, in every step; scan over a stack of weights, one for "
            "each layer, or write the loop over layers in Python"
        )
    if name == "cond":
        return "it is used inside a cond; choose the branch in Python, or compute both and select"
    if name in CUSTOM:
        return f"it is used inside a {name}, which brings its own derivative"
    return f"it is used by the operation {name}, which is no plain matrix product or convolution"
