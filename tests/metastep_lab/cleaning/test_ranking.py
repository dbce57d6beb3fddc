"""How `metastep clean` ranks labels."""

import numpy as np
from threadpoolctl import threadpool_limits

from metastep_lab.cleaning import ranking


def test_trees_are_the_same_again():
    # With more than 10,000 examples they stop early, by a random part of them.
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((10_100, 1)), np.arange(10_100) % 2
    found = []
    for seed in range(2):
        np.random.seed(seed)
        with threadpool_limits(1):
            trees = ranking._boosted(inputs, labels, np.ones(len(labels)))
        found.append(trees.predict_proba(inputs[:100]))
    np.testing.assert_array_equal(*found)
