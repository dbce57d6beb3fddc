"""The reference tables, Lemma 1 by enumeration of Wick pairings, and limits."""

import math

import numpy as np
import pytest

from metastep_lab.theory import maml

OVER = dict(dim=60, train_samples=30, validation_samples=2, target_samples=20, tasks=3)
UNDER = dict(dim=30, train_samples=5, validation_samples=25, target_samples=10, tasks=40)
FIGURE_2 = OVER | dict(noise=1.0, variability=0.5)
FIGURE_3 = UNDER | dict(noise=0.2, variability=0.2)
FIGURE_6 = dict(
    dim=50,
    train_samples=40,
    target_samples=40,
    noise=0.5,
    variability=0.5,
    init_distance=0.1 * 50**0.5,
)
# The reference tables print six digits after the point.
PRINTED = 5.1e-7

TABLES = {
    "figure 2b": (
        FIGURE_2,
        0.3 * np.arange(-7, 8),
        0.2,
        """0.684915 0.684527 0.684133 0.683805 0.683763 0.684681 0.688778 0.702875 0.731577 0.738241
        0.725018 0.714582 0.708205 0.704203 0.701538""",
    ),
    "figure 2a": (
        FIGURE_2,
        0.2,
        0.1 * np.arange(-2, 6),
        "0.891708 0.778434 0.712361 0.693490 0.721819 0.797350 0.920082 1.090016",
    ),
    "figure 3b": (
        FIGURE_3,
        0.1 * np.arange(-7, 8),
        0.2,
        """0.042464 0.042040 0.041528 0.040920 0.040237 0.039564 0.039087 0.038994 0.039144 0.039289
        0.039809 0.040878 0.042086 0.043111 0.043879""",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_losses_of_the_reference_tables(name):
    sizes, train_rate, test_rate, printed = TABLES[name]
    found = maml.expected_test_loss(train_rate, test_rate, **sizes)
    np.testing.assert_allclose(found, np.array(printed.split(), float), atol=PRINTED)


VARIANCES = {  # p, n_t: V at train rates -1, 0, 0.5, with N = 6
    (30, 15): (0.148901, 0.250000, 0.441304),
    (60, 30): (0.074724, 0.125000, 0.222802),
    (120, 60): (0.037431, 0.062500, 0.111948),
    (240, 120): (0.018733, 0.031250, 0.056111),
}
FEW_TASKS = {  # m: V at train rates -0.3, 0, 0.2
    10: (0.0267765, 0.0137600, 0.0168435),
    40: (0.0066941, 0.0034400, 0.0042109),
    160: (0.0016735, 0.0008600, 0.0010527),
}


def test_variances_of_the_reference_tables():
    common = dict(validation_samples=2, tasks=3, noise=1.0, variability=0.5)
    for (dim, samples), printed in VARIANCES.items():
        found = maml.meta_parameter_variance(
            [-1.0, 0.0, 0.5], dim=dim, train_samples=samples, **common
        )
        np.testing.assert_allclose(found, printed, atol=PRINTED)
    for tasks, printed in FEW_TASKS.items():
        setting = dict(dim=30, train_samples=5, validation_samples=25, noise=0.2, variability=0.2)
        found = maml.meta_parameter_variance([-0.3, 0.0, 0.2], tasks=tasks, **setting)
        np.testing.assert_allclose(found, printed, atol=PRINTED / 10)


@pytest.mark.parametrize(
    ("setting", "leading", "exact"),
    [
        (FIGURE_2, 0.076200, 0.086264),
        (FIGURE_3, 0.000917, 0.000946),
        (FIGURE_6 | dict(validation_samples=2, tasks=1), 0.006910, 0.007351),
        (FIGURE_6 | dict(validation_samples=5, tasks=5), 0.086375, 0.179948),
        (FIGURE_6 | dict(validation_samples=10, tasks=10), 0.086375, 0.176276),
        (FIGURE_6 | dict(validation_samples=40, tasks=10), 0.021594, 0.024749),
    ],
)
def test_slopes_of_the_reference_tables(setting, leading, exact):
    kept = ("dim", "validation_samples", "target_samples", "tasks", "noise")
    slope = maml.slope_at_zero(0.2, **{name: setting[name] for name in kept})
    np.testing.assert_allclose(slope, exact, atol=PRINTED)
    width = 1e-5
    low, high = maml.expected_test_loss([-width, width], 0.2, **setting)
    np.testing.assert_allclose((high - low) / (2 * width), leading, atol=PRINTED)


def test_optimal_rates_of_the_reference_tables():
    best, worst = maml.optimal_train_rates(60, 30)
    np.testing.assert_allclose([best, worst], [-1.0111521104046224, 0.4944854437379556], rtol=1e-14)
    best, worst = maml.optimal_train_rates(50, 40)
    np.testing.assert_allclose([best, worst], [-1.3939207285142436, 0.5739207285142438], rtol=1e-14)
    for setting, printed in ((FIGURE_2, 0.089981), (FIGURE_3, 0.146751)):
        kept = {name: setting[name] for name in ("dim", "target_samples", "noise", "variability")}
        rest = {name: setting[name] for name in setting if name != "target_samples"}
        rate = maml.optimal_test_rate(maml.meta_parameter_variance(0.2, **rest), **kept)
        np.testing.assert_allclose(rate, printed, atol=PRINTED)
        around = maml.expected_test_loss(0.2, rate + np.array([-1e-3, 0.0, 1e-3]), **setting)
        assert np.argmin(around) == 1


def test_eq_8_is_where_theorem_1_has_its_extrema():
    extrema = np.array(maml.optimal_train_rates(60, 30))
    loss = lambda rate: maml.expected_test_loss(rate, 0.2, **FIGURE_2, init_distance=0.7)
    width = 1e-4
    slopes = (loss(extrema + width) - loss(extrema - width)) / (2 * width)
    # The difference has an error of about width^2.
    np.testing.assert_allclose(slopes, 0, atol=1e-8)
    everywhere = loss(np.linspace(-50, 50, 10_001))
    assert loss(extrema[0]) <= everywhere.min() and loss(extrema[1]) >= everywhere.max()


def test_large_sizes_reach_the_exact_values_at_zero():
    for setting in (FIGURE_2, FIGURE_3):
        scale = 400
        large = setting | dict(
            dim=scale * setting["dim"],
            train_samples=scale * setting["train_samples"],
            target_samples=scale * setting["target_samples"],
        )
        if setting is FIGURE_3:
            large["validation_samples"] = scale * setting["validation_samples"]
        theory = maml.expected_test_loss(0.0, 0.2, **large, init_distance=0.3)
        del large["train_samples"]
        # Relative corrections of the leading order are of the order of 1 / scale or of 1 / tasks^2.
        exact = maml.loss_at_zero(0.2, **large, init_distance=0.3)
        np.testing.assert_allclose(theory, exact, rtol=2e-3)


def general(train_rate, test_rate, covariance, task_covariance, **changed):
    sizes = {name: value for name, value in OVER.items() if name != "dim"} | changed
    return maml.expected_test_loss_general(
        train_rate,
        test_rate,
        covariance=covariance,
        task_covariance=task_covariance,
        **({"noise": 1.0} | sizes),
    )


def test_theorem_3_reduces_to_theorem_1():
    eye = np.eye(60)
    train, test = np.linspace(-2, 2, 41)[:, None], np.linspace(-0.5, 0.5, 11)
    found = general(train, test, eye, 0.25 / 60 * eye)
    expected = maml.expected_test_loss(train, test, **FIGURE_2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    given = general(train, test, eye, 0.25 / 60 * eye, fourth_moment=62 * eye)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-12)


def test_theorem_3_on_the_draw_of_the_reference():
    generator = np.random.default_rng(0)
    inputs, tasks = (m @ m.T / 60 for m in generator.standard_normal((2, 60, 60)))
    rates = np.linspace(-1, -0.8, 20_001)
    best = rates[np.argmin(general(rates, 0.2, inputs, 0.25 / 60 * tasks))]
    # Four printed digits; the grid has five.
    np.testing.assert_allclose(best, -0.8946, atol=6e-5)
    # A change of basis changes nothing.
    basis = np.linalg.qr(generator.standard_normal((60, 60)))[0]
    turned = (basis @ m @ basis.T for m in (inputs, 0.25 / 60 * tasks))
    expected = general(-0.9, 0.2, inputs, 0.25 / 60 * tasks)
    np.testing.assert_allclose(general(-0.9, 0.2, *map(symmetric, turned)), expected, rtol=1e-12)


def symmetric(matrix):
    return (matrix + matrix.T) / 2


def pairings(items):
    """Yield every way to split items into pairs."""
    if not items:
        yield []
        return
    first, *rest = items
    for i, partner in enumerate(rest):
        for others in pairings(rest[:i] + rest[i + 1 :]):
            yield [(first, partner), *others]


def components(count, links):
    label = list(range(count))
    for a, b in links:
        old, new = label[a], label[b]
        label = [new if x == old else x for x in label]
    return len(set(label))


def wick(powers):
    """Return the terms (power of n, power of p) of E Tr(G^k1) Tr(G^k2) ... for G = X^T X.

    Factor i is sum over rows r of x[r, a] x[r, b]: entries 2 i and 2 i + 1. Each pairing of entries
    identifies rows and columns, and what is left free is summed over.
    """
    chain, start = [], 0
    for power in powers:
        factors = range(start, start + power)
        chain += [(2 * i + 1, 2 * (start + (i + 1 - start) % power)) for i in factors]
        start += power
    terms = []
    for pairs in pairings(list(range(2 * start))):
        rows = components(start, [(a // 2, b // 2) for a, b in pairs])
        terms.append((rows, components(2 * start, pairs + chain)))
    return terms


@pytest.mark.parametrize(
    ("name", "powers"),
    [
        ("m1", [1]),
        ("m2", [2]),
        ("m3", [3]),
        ("m4", [4]),
        ("m11", [1, 1]),
        ("m21", [2, 1]),
        ("m22", [2, 2]),
    ],
)
def test_lemma_1_is_the_sum_over_wick_pairings(name, powers):
    terms = wick(powers)
    order, traces = sum(powers), len(powers) - 1
    for n in range(1, 8):
        for p in range(1, 8):
            exact = sum(n**rows * p**columns for rows, columns in terms) // p
            moments, scaled = maml.gram_moments(n, p), maml.scaled_moments(n, p)
            assert getattr(moments, name) == exact
            expected = exact / (n**order * p**traces)
            assert getattr(scaled, name) == pytest.approx(expected, rel=1e-14)


def test_sandwiches_by_quadrature():
    """Three Gauss-Hermite nodes integrate polynomials of degree 4 in six entries exactly."""
    nodes, weights = np.array([-(3**0.5), 0, 3**0.5]), np.array([1, 4, 1]) / 6
    x = np.stack(np.meshgrid(*[nodes] * 6), axis=-1).reshape(-1, 2, 3)
    weight = np.prod(np.stack(np.meshgrid(*[weights] * 6), axis=-1).reshape(-1, 6), axis=1)
    middle = np.array([[2.0, 1.0, 0.5], [1.0, 0.0, -1.0], [0.5, -1.0, 3.0]])
    gram = x.transpose(0, 2, 1) @ x
    exact = np.einsum("k,kij->ij", weight, gram @ middle @ gram)
    np.testing.assert_allclose(maml.sandwiched_gram(2, middle), exact, atol=1e-12)
    rows = middle[:2, :2]
    exact = np.einsum("k,kij->ij", weight, x.transpose(0, 2, 1) @ rows @ x)
    np.testing.assert_allclose(maml.weighted_gram(rows) * np.eye(3), exact, atol=1e-12)
    factor = np.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.7]])
    covariance, draws = factor @ factor.T, x[:, 0] @ factor.T
    lengths = np.einsum("ki,ij,kj->k", draws, covariance, draws)
    exact = np.einsum("k,ki,kj->ij", weight * lengths, draws, draws)
    np.testing.assert_allclose(maml.fourth_moments(covariance), exact, rtol=1e-12)


def of_theorem_1(**changed):
    return maml.expected_test_loss(0.2, 0.2, **FIGURE_2 | changed)


EYE = np.eye(60)
ZERO = {name: FIGURE_2[name] for name in FIGURE_2 if name != "train_samples"}
NEAR = ZERO | dict(dim=7, validation_samples=2, tasks=3)
SLOPE = {name: NEAR[name] for name in NEAR if name != "variability"}
BAD = [
    (lambda: maml.expected_test_loss(math.nan, 0.2, **FIGURE_2), "train_rate is nan"),
    (lambda: maml.expected_test_loss(0.2, [0.1, math.inf], **FIGURE_2), "test_rate is"),
    (lambda: of_theorem_1(dim=6), "dim is 6, as many as"),
    (lambda: of_theorem_1(dim=0), "dim is 0"),
    (lambda: of_theorem_1(tasks=0), "tasks is 0"),
    (lambda: of_theorem_1(train_samples=-1), "train_samples is -1"),
    (lambda: of_theorem_1(validation_samples=0), "validation_samples is 0"),
    (lambda: of_theorem_1(target_samples=0), "target_samples is 0"),
    (lambda: of_theorem_1(noise=-1.0), "noise is -1"),
    (lambda: of_theorem_1(variability=math.nan), "variability is nan"),
    (lambda: of_theorem_1(init_distance=-1.0), "init_distance is"),
    (lambda: maml.optimal_train_rates(0, 30), "dim is 0"),
    (lambda: maml.loss_at_zero(0.2, **NEAR), "at least 2 apart"),
    (lambda: maml.slope_at_zero(0.2, **SLOPE), "at least 2 apart"),
    (lambda: maml.gram_moments(0, 3), "rows is 0"),
    (lambda: general(0.1, 0.2, -EYE, EYE), "covariance has the eigenvalue -1"),
    (lambda: general(0.1, 0.2, EYE, np.triu(np.ones((60, 60)))), "task_covariance is not symm"),
    (lambda: general(0.1, 0.2, EYE, np.eye(59)), "task_covariance has shape"),
    (lambda: general(0.1, 0.2, np.ones(60), EYE), "covariance has shape"),
    (lambda: general(0.1, 0.2, EYE * math.nan, EYE), "covariance has entries"),
    (lambda: general(0.1, 0.2, EYE, EYE, tasks=40), "validation_samples \\* tasks is 80"),
    (lambda: general(0.1, 0.2, EYE, EYE, tasks=30), "dim is 60, as many as"),
    (lambda: general(math.nan, 0.2, EYE, EYE), "train_rate is nan"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
