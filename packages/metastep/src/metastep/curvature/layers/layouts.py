"""How one matrix product or convolution uses a weight: inputs as rows, and the matrix."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Layout(NamedTuple):
    """A product of a weight with inputs as rows.

    Attributes:
        rows: the inputs, `[positions, groups * in]`.
        matrix: the place of each entry of the matrix in the parameter, `[out, in]`.
        axes: the axes of the output, those of the positions first and then those of the channels.
        groups: the number of groups of outputs, each of which has inputs of its own.
    """

    rows: Any
    matrix: np.ndarray
    axes: tuple[int, ...]
    groups: int


def read_layout(equation: Any, operands: list[Any], side: int, entries: np.ndarray) -> Layout | str:
    """Return how a matrix product or a convolution uses the weight on one side, or an obstacle."""
    name = equation.primitive.name
    found = (_read_product if name == "dot_general" else _read_convolution)(
        equation, operands, side, entries
    )
    # A weight that is used twice in one product has no gradient of its own for each entry.
    if isinstance(found, Layout) and len(np.unique(found.matrix)) != found.matrix.size:
        return "its entries are repeated before they are used"
    return found


def _read_product(
    equation: Any, operands: list[Any], side: int, entries: np.ndarray
) -> Layout | str:
    """Read a matrix product; each element of its batch is a group."""
    contracted, batch = equation.params["dimension_numbers"]
    other = 1 - side
    free = [
        [axis for axis in range(np.ndim(operand)) if axis not in (*contracted[i], *batch[i])]
        for i, operand in enumerate(operands)
    ]
    size = lambda axes: int(np.prod([entries.shape[axis] for axis in axes]))
    inputs, groups = size(contracted[side]), size(batch[side])
    matrix = entries.transpose(*batch[side], *free[side], *contracted[side]).reshape(-1, inputs)
    rows = operands[other].transpose(*free[other], *batch[other], *contracted[other])
    # The output has the batch first, then the free axes of the left side, then of the right one.
    shared = len(batch[0])
    first = range(shared, shared + len(free[0]))
    places = first, range(first.stop, first.stop + len(free[1]))
    axes = (*places[other], *range(shared), *places[side])
    return Layout(rows.reshape(-1, groups * inputs), matrix, axes, groups)


def _read_convolution(
    equation: Any, operands: list[Any], side: int, entries: np.ndarray
) -> Layout | str:
    params = equation.params
    if side == 0:
        return "it is the input of a convolution, not its kernel"
    if params["batch_group_count"] != 1:
        return "it is used by a convolution whose batch is in groups"
    numbers = params["dimension_numbers"]
    # `rhs_spec` lists the axes of outputs, inputs of a group, and space, in this order.
    kernel = entries.transpose(numbers.rhs_spec)
    patches = jax.lax.conv_general_dilated_patches(
        operands[0],
        filter_shape=kernel.shape[2:],
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        # Patches are computed as a convolution with ones and zeros, which must not round them.
        precision=jax.lax.Precision.HIGHEST,
    )
    batch, feature, *space = numbers.out_spec
    axes = (batch, *space, feature)
    matrix, groups = kernel.reshape(kernel.shape[0], -1), params["feature_group_count"]
    # The channels of a patch come first, and those of a group are beside each other.
    rows = patches.transpose(axes).reshape(-1, groups * matrix.shape[1])
    return Layout(rows, matrix, axes, groups)


def bias_entries(channels: np.ndarray, entries: np.ndarray) -> np.ndarray | None:
    """Return the entry of the bias for each channel, if there is exactly one."""
    if np.broadcast_shapes(channels.shape, entries.shape) != channels.shape:
        return None
    entries = np.broadcast_to(entries, channels.shape)
    _, first = np.unique(channels, return_index=True)
    # Channels are 0, 1, ..., and `unique` sorts, so that this is the entry for each in turn.
    order = entries.reshape(-1)[first]
    fits = np.array_equal(order[channels], entries) and len(np.unique(order)) == len(order)
    return order if fits else None
