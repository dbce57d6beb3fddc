"""Algorithms 2 and 3 against a slow loop of other libraries' parts, and what they are for."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep.sparse_coding import (
    cosine_recovery_error,
    draw_signals,
    learn_dictionary,
    local_start,
    masked_loss,
    orthogonal_matching_pursuit,
    random_dictionary,
    sample_start,
)

DIM, ATOMS, SPARSITY = 20, 40, 2


def problem(samples=90, learned=50, noise=0.2):
    rng = np.random.default_rng(7)
    truth = random_dictionary(rng, DIM, ATOMS)
    train = draw_signals(rng, truth, samples, SPARSITY, noise).signals
    held_out = draw_signals(rng, truth, learned, SPARSITY, noise).signals
    return truth, train, held_out


def slowly(signals, start, hidden, epochs, batch_size, learning_rate, rng):
    """Do what the authors' code does, with scikit-learn's pursuit and optax's Adam."""
    optimizer = optax.adam(learning_rate)
    dictionary, losses = jnp.asarray(start), []
    state = optimizer.init(dictionary)
    for _ in range(epochs):
        for first in range(0, len(signals), batch_size):
            batch, judged = signals[first : first + batch_size], np.ones(DIM, bool)
            shown = judged
            if hidden:
                judged = np.zeros(DIM, bool)
                judged[rng.permutation(DIM)[:hidden]] = True
                shown = ~judged
            current = np.asarray(dictionary)
            codes = np.stack([_one(current[shown], y) for y in batch[:, shown]])
            error = np.where(judged, codes @ current.T - batch, 0)
            losses.append(np.sum(error**2) / (len(batch) * judged.sum()))
            updates, state = optimizer.update(2 / len(batch) * error.T @ codes, state)
            dictionary = optax.apply_updates(dictionary, updates)
            dictionary = dictionary / jnp.linalg.norm(dictionary, axis=0)
    return np.asarray(dictionary), np.array(losses)


def _one(visible, signal):
    """Pursue with atoms that are not normalized, which scikit-learn's pursuit would not do."""
    codes, chosen, residual = np.zeros(visible.shape[1]), [], signal
    for _ in range(SPARSITY):
        chosen.append(int(np.argmax(np.abs(residual @ visible))))
        weights = np.linalg.lstsq(visible[:, chosen], signal, rcond=None)[0]
        residual = signal - visible[:, chosen] @ weights
    codes[chosen] = weights
    return codes


@pytest.mark.parametrize("hidden", [0, 2])
def test_agrees_with_the_slow_loop(hidden, x64):
    _, train, held_out = problem()
    start = sample_start(held_out)
    setting = {"hidden": hidden, "epochs": 4, "batch_size": 40, "learning_rate": 0.01}
    learned = learn_dictionary(train, start, SPARSITY, **setting, rng=np.random.default_rng(2))
    dictionary, losses = slowly(train, start, **setting, rng=np.random.default_rng(2))
    # Rounding, times the few conditions of the least squares problems, over 12 steps.
    np.testing.assert_allclose(learned.dictionary, dictionary, atol=1e-11)
    np.testing.assert_allclose(learned.losses.ravel(), losses, rtol=1e-10)
    assert learned.losses.shape == (4, 3)


def test_masking_keeps_the_truth_where_the_baseline_learns_the_noise():
    truth, train, held_out = problem(samples=400, learned=160)
    start = local_start(truth, held_out[: 160 - ATOMS]).astype(np.float32)
    errors = []
    for hidden in (0, 2):
        learned = learn_dictionary(
            train.astype(np.float32),
            start,
            SPARSITY,
            hidden=hidden,
            epochs=100,
            learning_rate=5e-3,
            rng=np.random.default_rng(0),
        )
        assert learned.dictionary.dtype == np.float32
        # Unit columns up to a rounding of the norm.
        np.testing.assert_allclose(np.linalg.norm(learned.dictionary, axis=0), 1, rtol=1e-6)
        errors.append(cosine_recovery_error(truth, learned.dictionary))
    assert errors[1] < 0.8 * errors[0]


def test_shuffled_batches_are_others_with_the_same_seed_the_same():
    _, train, held_out = problem()
    start = sample_start(held_out)
    learn = lambda seed, shuffle: (
        learn_dictionary(
            train,
            start,
            SPARSITY,
            epochs=2,
            batch_size=40,
            shuffle=shuffle,
            rng=np.random.default_rng(seed),
        ).dictionary
    )
    assert np.array_equal(learn(0, True), learn(0, True))
    assert not np.array_equal(learn(0, True), learn(1, True))
    assert np.array_equal(learn(0, False), learn(1, False))


def test_the_masked_loss_is_the_error_against_clean_signals_plus_the_variance():
    rng, noise, samples = np.random.default_rng(0), 0.3, 200
    truth = random_dictionary(rng, DIM, ATOMS)
    drawn = draw_signals(rng, truth, samples, SPARSITY, noise)
    predicted, order = np.zeros((samples, DIM)), np.random.default_rng(1).permutation(DIM)
    for judged in np.array_split(order, 10):
        shown = np.setdiff1d(order, judged)
        codes = np.stack([_one(truth[shown], y) for y in drawn.signals[:, shown]])
        predicted[:, judged] = codes @ truth[judged].T
    loss = masked_loss(drawn.signals, truth, SPARSITY, rng=np.random.default_rng(1))
    assert loss == pytest.approx(np.mean((drawn.signals - predicted) ** 2), rel=1e-10)
    error = np.mean((drawn.codes @ truth.T - predicted) ** 2)
    # Four standard errors of the mean of noise^2, and of 2 noise (clean - predicted).
    deviation = noise**2 * np.sqrt(2 / predicted.size) + 2 * noise * np.sqrt(error / predicted.size)
    assert loss == pytest.approx(error + noise**2, abs=4 * deviation)


def test_the_masked_loss_prefers_the_truth_and_its_sparsity():
    rng = np.random.default_rng(0)
    truth, other = random_dictionary(rng, DIM, ATOMS), random_dictionary(rng, DIM, ATOMS)
    signals = draw_signals(rng, truth, 2000, SPARSITY, 0.05).signals
    loss = lambda dictionary, k: masked_loss(signals, dictionary, k, rng=np.random.default_rng(1))
    assert loss(truth, SPARSITY) < min(loss(truth, 1), loss(truth, 4), loss(other, SPARSITY))


def test_one_coordinate_is_predicted_as_zero():
    signals = np.array([[1.0], [3.0]])
    assert masked_loss(signals, np.ones((1, 2)), 1, rng=np.random.default_rng(0)) == 5.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"signals": np.ones((5, 3))}, r"\(5, 3\) and \(4, 6\)"),
        ({"signals": np.ones((5, 4), int)}, "dtype int64"),
        ({"signals": np.ones((0, 4))}, "0 rows"),
        ({"hidden": 4}, "hidden is 4"),
        ({"hidden": -1}, "hidden is -1"),
        ({"hidden": 1.5}, "hidden is 1.5"),
        ({"n_nonzero": 0}, "n_nonzero is 0"),
        ({"n_nonzero": 4, "hidden": 1}, "n_nonzero is 4"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_bad_input(changed, message):
    setting = {"signals": np.ones((5, 4)), "start": np.ones((4, 6)), "n_nonzero": 1}
    with pytest.raises(ValueError, match=message):
        learn_dictionary(**{**setting, **changed}, rng=np.random.default_rng(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_refused(value):
    fine, wrong = np.eye(4), np.where(np.arange(4) + 4 * np.arange(4)[:, None] >= 9, value, 0.0)
    message = f"has the entry {value} in row 2, column 1 "
    rng = np.random.default_rng(0)
    for call, second in ((learn_dictionary, "start"), (masked_loss, "dictionary")):
        with pytest.raises(ValueError, match=f"signals {message}"):
            call(wrong, fine, 1, rng=rng)
        with pytest.raises(ValueError, match=f"{second} {message}"):
            call(fine, wrong, 1, rng=rng)


@pytest.mark.parametrize(
    ("dictionary", "n_nonzero", "parts", "message"),
    [
        (np.eye(2), 1, 0, "parts is 0"),
        (np.eye(2), 0, 2, "n_nonzero is 0"),
        (np.eye(2), 3, 2, "n_nonzero is 3"),
        (np.ones((3, 2)), 1, 2, r"\(2, 2\) and \(3, 2\)"),
    ],
)
def test_a_masked_loss_that_cannot_be(dictionary, n_nonzero, parts, message):
    with pytest.raises(ValueError, match=message):
        rng = np.random.default_rng(0)
        masked_loss(np.ones((2, 2)), dictionary, n_nonzero, parts=parts, rng=rng)


def test_given_masks_move_their_coordinates_alone():
    """The visible part of an atom changes by its normalization only."""
    rng = np.random.default_rng(3)
    truth = random_dictionary(rng, 10, 12)
    signals = draw_signals(rng, truth, 40, 2, 0.1).signals
    learn = lambda hidden, **options: (
        learn_dictionary(
            signals,
            truth,
            2,
            hidden=hidden,
            epochs=3,
            batch_size=10,
            rng=np.random.default_rng(0),
            **options,
        ).dictionary
    )
    for adam, masks in product((True, False), ([[7, 2]], [[0, 1], [1, 2], [5, 0]])):
        learned = learn(np.array(masks), adam=adam, learning_rate=0.01)
        ratio = learned / truth
        spread = np.abs(ratio - np.median(ratio, axis=0)).max(axis=1)
        assert set(np.flatnonzero(spread > 1e-9)) == set(np.ravel(masks))
    assert np.sum(np.abs(learn(2, learning_rate=0.01) / truth - 1).max(axis=1) > 1e-9) == 10


def test_one_batch_takes_the_first_mask():
    rng = np.random.default_rng(5)
    start = random_dictionary(rng, 10, 12)
    signals = draw_signals(rng, start, 20, 2, 0.1).signals
    learn = lambda masks: (
        learn_dictionary(signals, start, 2, hidden=masks, epochs=1, rng=rng).dictionary
    )
    first, both, last = map(learn, map(np.array, ([[3, 4]], [[3, 4], [8, 9]], [[8, 9]])))
    assert np.array_equal(first, both) and not np.array_equal(first, last)


@pytest.mark.parametrize("masks", [[0, 1], [[]], [[0.0]], [[0, 10]], [[-1, 0]], [[1, 1]]])
def test_masks_that_fit_no_signal_are_refused(masks):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="allowed are an integer, and an array"):
        learn_dictionary(np.ones((3, 10)), np.eye(10), 1, hidden=np.array(masks), rng=rng)


def test_plain_steps_are_those_of_the_gradient():
    """One step on one batch: atoms less the rate times the gradient, normalized."""
    rng = np.random.default_rng(4)
    start = random_dictionary(rng, 8, 8)
    signals = draw_signals(rng, start, 5, 2, 0.2).signals
    learned = learn_dictionary(
        signals, start, 2, epochs=1, batch_size=5, learning_rate=0.1, adam=False, rng=rng
    ).dictionary
    codes = orthogonal_matching_pursuit(signals, start, 2)
    moved = start - 0.1 * 2 / 5 * (codes @ start.T - signals).T @ codes
    np.testing.assert_allclose(learned, moved / np.linalg.norm(moved, axis=0), rtol=1e-10)
