"""How `metastep clean` plants mistakes."""

import numpy as np

from metastep_lab.cleaning.ranking import Ranking
from metastep_lab.cleaning.reliability import measure


def test_no_class_loses_all_its_labels():
    """One that is in a validation file was refused as unknown, after the labels were ranked."""
    # Of 140 classes of two about ten have both of their labels planted by chance.
    labels = np.repeat(np.arange(200), 2)
    suspect = labels >= 140
    seen = []

    def rank_again(planted):
        seen.append(planted)
        return Ranking(*np.zeros((3, 400)), planted != labels)

    found = measure(labels, Ranking(*np.zeros((3, 400)), suspect), rank_again)
    rows = np.flatnonzero(seen[0] != labels)
    assert found.planted == len(rows) >= 5 and not np.any(suspect[rows])
    assert len(np.unique(labels[seen[0] == labels])) == 200
