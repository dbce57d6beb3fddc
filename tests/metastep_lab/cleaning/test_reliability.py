"""How `metastep clean` plants mistakes."""

import numpy as np

from metastep_lab.cleaning.ranking import Ranking
from metastep_lab.cleaning.reliability import measure


def test_no_class_loses_all_its_labels():
    """One that is in a validation file was refused as unknown, after the labels were ranked."""
    # Twenty classes of two: by chance both labels of some of them are planted.
    labels = np.repeat(np.arange(20), 2)
    suspect = np.arange(40) % 4 == 3
    seen = []

    def rank_again(planted):
        seen.append(planted)
        return Ranking(*np.zeros((3, 40)), planted != labels)

    found = measure(labels, Ranking(*np.zeros((3, 40)), suspect), rank_again)
    rows = np.flatnonzero(seen[0] != labels)
    assert found.planted == len(rows) >= 5 and not np.any(suspect[rows])
    for label in range(20):
        assert np.any((labels == label) & (seen[0] == labels))
