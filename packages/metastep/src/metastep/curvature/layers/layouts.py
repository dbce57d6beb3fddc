"""A product or a convolution as a layer z[p, i] = sum_j W[i, j] X[p, j], read off its equation."""

from typing import Any

import jax
import numpy as np

Layout = tuple[Any, np.ndarray, tuple[int, ...]]
"""Input rows, weight entries `[out, in]`, and the output's axes as (positions, out)."""


def read_product(
    equation: Any, operands: list[Any], side: int, entries: np.ndarray
) -> Layout | str:
    """Return the layout of a matrix product, or why it is not a layer."""
    contracted, batch = equation.params["dimension_numbers"]
    if batch[0]:
        return "it is used by a batched matrix product, one matrix for each element of a batch"
    other = 1 - side
    free = [
        [axis for axis in range(np.ndim(operand)) if axis not in contracted[i]]
        for i, operand in enumerate(operands)
    ]
    inputs = int(np.prod([entries.shape[axis] for axis in contracted[side]]))
    matrix = entries.transpose(*free[side], *contracted[side]).reshape(-1, inputs)
    rows = operands[other].transpose(*free[other], *contracted[other]).reshape(-1, inputs)
    # A product has the free axes of its first operand first, whichever of them is the weight.
    positions = [*range(len(free[0]))], [*range(len(free[0]), len(free[0]) + len(free[1]))]
    return _checked(rows, matrix, (*positions[other], *positions[side]))


def read_convolution(
    equation: Any, operands: list[Any], side: int, entries: np.ndarray
) -> Layout | str:
    """Return the layout of a convolution, whose rows are the patches of its input."""
    params = equation.params
    if side == 0:
        return "it is the input of a convolution, not its kernel"
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return "it is used by a grouped convolution, which has no single Kronecker factor"
    numbers = params["dimension_numbers"]
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
    matrix = kernel.reshape(kernel.shape[0], -1)
    rows = patches.transpose(axes).reshape(-1, matrix.shape[1])
    return _checked(rows, matrix, axes)


def bias_entries(channels: np.ndarray, entries: np.ndarray) -> np.ndarray | None:
    """Return the entry of the bias for each channel, if there is exactly one."""
    if np.broadcast_shapes(channels.shape, entries.shape) != channels.shape:
        return None
    entries = np.broadcast_to(entries, channels.shape)
    _, first = np.unique(channels, return_index=True)
    order = entries.reshape(-1)[first]
    fits = np.array_equal(order[channels], entries) and len(np.unique(order)) == len(order)
    return order if fits else None


def _checked(rows: Any, matrix: np.ndarray, axes: tuple[int, ...]) -> Layout | str:
    # A weight that is used twice in one product has no gradient of its own for each entry.
    if len(np.unique(matrix)) != matrix.size:
        return "its entries are repeated before they are used"
    return rows, matrix, axes
