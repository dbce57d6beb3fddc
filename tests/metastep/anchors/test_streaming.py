"""Even blocks and triangles of a stream."""

import numpy as np

from metastep.anchors.streaming import FEWEST_ROWS, Triangle, even_blocks


def test_blocks_are_even_and_in_order():
    rows = np.arange(46.0).reshape(23, 2)
    for cuts in ([], [0, 3, 3, 4, 20], list(range(23))):
        blocks = list(even_blocks(np.split(rows, cuts), 5))
        assert [len(block) for block in blocks] == [5, 5, 5, 5, 3]
        np.testing.assert_array_equal(np.concatenate(blocks), rows)
    assert list(even_blocks([], 5)) == []


def test_a_triangle_keeps_inner_products_and_its_bits_do_not_depend_on_the_cuts():
    rows = np.random.default_rng(11).normal(size=(2 * FEWEST_ROWS + 100, 4))
    factors = []
    for cuts in ([], [1, 10], list(range(0, len(rows), 1000))):
        triangle = Triangle(4)
        for part in np.split(rows, cuts):
            triangle.add(part)
        factors.append(triangle.factor())
        assert triangle.count == len(rows)
    np.testing.assert_array_equal(factors[0], np.triu(factors[0]))
    np.testing.assert_allclose(factors[0].T @ factors[0], rows.T @ rows, rtol=1e-12, atol=1e-9)
    for factor in factors[1:]:
        np.testing.assert_array_equal(factor, factors[0])


def test_fewer_rows_than_columns():
    triangle = Triangle(3)
    triangle.add(np.array([[3.0, 4.0, 0.0]]))
    factor = triangle.factor()
    np.testing.assert_allclose(factor.T @ factor, np.outer([3, 4, 0], [3, 4, 0]), atol=1e-14)
