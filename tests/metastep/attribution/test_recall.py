"""Recall of planted examples against a loop over them."""

import numpy as np
import pytest

from metastep.attribution import recall_at


def test_recall_is_what_a_loop_counts():
    rng = np.random.default_rng(0)
    scores, planted = rng.standard_normal((3, 12)), rng.random((3, 12)) < 0.4
    counts = [1, 4, 12]
    found = recall_at(scores, planted, counts)
    for query in range(3):
        best = sorted(range(12), key=lambda one: -scores[query, one])
        for place, count in enumerate(counts):
            hits = sum(planted[query, one] for one in best[:count])
            assert found[query, place] == pytest.approx(hits / planted[query].sum())
    assert np.array_equal(recall_at(scores, planted[0], counts)[0], found[0])
    assert recall_at([1.0, 1.0], [True, False], [1]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, np.nan], [True, False], [1]), "NaN"),
        (([1.0, 2.0], [True], [1]), "planted is bool"),
        (([1.0, 2.0], [1, 0], [1]), "planted is int"),
        (([1.0, 2.0], [False, False], [1]), "planted marks no example"),
        (([1.0, 2.0], [True, False], [3]), "counts is"),
        (([1.0, 2.0], [True, False], [0]), "counts is"),
        (([1.0, 2.0], [True, False], [0.5]), "counts is"),
    ],
)
def test_wrong_use_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        recall_at(*arguments)
