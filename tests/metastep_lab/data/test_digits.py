"""The digits are those of scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from metastep_lab.data import digits


def test_digits_are_those_of_scikit_learn(place):
    reference = load_digits()
    dataset = digits(place / "not even there")
    assert dataset.arrays["images"].dtype == dataset.arrays["labels"].dtype == np.uint8
    np.testing.assert_array_equal(dataset.arrays["images"], reference.images)
    np.testing.assert_array_equal(dataset.arrays["labels"], reference.target)
    assert dataset.checksum == digits().checksum
    assert dataset.license and dataset.source and dataset.path.is_dir()
