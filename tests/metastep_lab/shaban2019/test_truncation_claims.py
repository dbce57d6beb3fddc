"""The claims of `truncation-toy` and `estimator-costs` on tables made by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from metastep_lab.shaban2019.estimator_costs import experiment as costs
from metastep_lab.shaban2019.estimator_costs.estimators import ESTIMATORS
from metastep_lab.shaban2019.estimator_costs.operations import operations
from metastep_lab.shaban2019.truncation_toy import experiment as toy
from metastep_lab.shaban2019.truncation_toy.model import HESSIAN
from metastep_lab.tables import Record, columns
from metastep_lab.theory.truncation import descent_ratio_bounds
from tests.metastep_lab.doctored import check_every_claim

BIAS, LIMIT = "window error bound cosine ratio", "objective window distance gap gradient_norm"
AVERAGE = "window iterations average standard_error bias bound"


def truncated():
    """Return a run of `truncation-toy` of which every claim holds."""
    windows = (1, 10, 20, 100)
    bias = [(k, 10 * 0.95**k, 30 * 0.95**k, 0.9, 0.5) for k in windows[:-1]]
    ratios = [("f", k, 0, sum(descent_ratio_bounds(HESSIAN, 0.1, k, 100)) / 2) for k in windows]
    limit = [("f", k, 0.0, 0.0, 1e-6) for k in windows]
    limit += [("f-tilde", k, 0.5 / k - 0.005, 0.1, 1.0) for k in windows]
    stochastic = [
        (k, count, 10 / count**0.5, 0.001, 0.5, 100 / count**0.5)
        for k in (1, 100)
        for count in (100, 1000)
    ]
    conjugate = [(500, k, 0.9**k, 0.5**k, 25.0) for k in (1, 8)]
    conjugate += [(5, 1, 0.7, 0.5, 25.0), (5, 8, 0.0, 1.5, 25.0)]
    trajectory = [("f", k, 0, 1.0) for k in windows]
    counter = [(0.1, 1, 0.5, 25.0, 3.0), (0.1, 5, 0.6, 25.0, 2.0)]
    tables = {
        "bias": columns(BIAS, bias),
        "ratio": columns("objective window step ratio", ratios),
        "limit": columns(LIMIT, limit),
        "trajectory": columns("objective window step gradient_norm", trajectory),
        "interference": columns("window limit closed_form truth", [(1, 0.9, 0.9, 0.5)]),
        "descent_counterexample": columns(
            "step_size window worst_cosine start_norm end_norm", counter
        ),
        "neumann": columns("window difference error bound exact_norm", [(1, 1e-12, 0.5, 1.0, 1.0)]),
        "stochastic": columns(AVERAGE, stochastic),
        "conjugate": columns("horizon steps truncated conjugate condition", conjugate),
    }
    return Record(toy.Config(windows=windows), tables, {}, {})


def test_every_claim_of_truncation_toy_can_fail():
    spoiled = (
        ("bias-below-bound", "bias", "window == 1", {"error": 29.0}),
        ("bias-decays", "bias", "window == 20", {"error": 5.0}),
        ("descent-on-f", "ratio", "window == 10", {"ratio": 0.1}),
        ("exact-limit-of-f", "limit", "objective == 'f' and window == 1", {"gradient_norm": 0.002}),
        *(
            ("biased-limit-of-f-tilde", "limit", f"objective == 'f-tilde' and {row}", values)
            for row, values in (
                ("window == 10", {"distance": 0.001}),
                ("window == 1", {"distance": 0.09}),
            )
        ),
        ("interference", "interference", "", {"limit": 0.91}),
        ("interference", "interference", "", {"limit": 0.5, "closed_form": 0.5}),
        ("descent-lemma-as-stated", "descent_counterexample", "window == 5", {"end_norm": 26.0}),
        ("neumann-series", "neumann", "", {"difference": 1e-8}),
        ("neumann-series", "neumann", "", {"error": 1.1}),
        ("theorem-3.3", "stochastic", "window == 1 and iterations == 1000", {"average": 4.0}),
        ("theorem-3.3-rate", "stochastic", "window == 100 and iterations == 100", {"average": 0.7}),
        *(
            ("conjugate-gradients-at-the-minimum", "conjugate", f"horizon == 500 and {row}", values)
            for row, values in (
                ("steps == 1", {"conjugate": 0.95}),
                ("steps == 8", {"conjugate": 0.2}),
                ("steps == 8", {"truncated": 0.8}),
            )
        ),
        *(
            ("conjugate-gradients-before-it", "conjugate", "horizon == 5 and steps == 8", values)
            for values in ({"conjugate": 0.4}, {"truncated": 1e-6})
        ),
    )
    check_every_claim(toy.EXPERIMENT, spoiled, truncated())


def measured():
    """Return a run of `estimator-costs` of which every claim holds."""
    exponents = [
        (name, varied, quantity, stated + 0.05, stated, one.source)
        for name, one in ESTIMATORS.items()
        for quantity in ("memory", "time")
        for varied, stated in getattr(one, quantity).items()
    ]
    rows = [
        (name, "T", value, 2.0**20, 1.5 if name == "checkpointing" else 1.0, 0.1)
        for name in ESTIMATORS
        for value in (512, 2048)
    ]
    tables = {
        "exponents": columns("estimator varied quantity measured stated source", exponents),
        "costs": columns("estimator varied value memory operations seconds", rows),
    }
    return Record(costs.Config(), tables, {}, {})


def test_every_claim_of_estimator_costs_can_fail():
    at = "source == '{}' and quantity == '{}' and varied == 'T'"
    spoiled = (
        *(
            (f"table-1-{quantity}", "exponents", at.format("table", quantity), {"measured": value})
            for quantity in ("memory", "time")
            for value in (-0.3, 1.3)
        ),
        ("checkpointing-doubles-the-time", "costs", "estimator == 'RMD'", {"operations": 0.7}),
        *(
            (
                f"other-estimators-{quantity}",
                "exponents",
                at.format("ours", quantity),
                {"measured": 1.3},
            )
            for quantity in ("memory", "time")
        ),
    )
    check_every_claim(costs.EXPERIMENT, spoiled, measured())


def test_operations_are_counted_through_every_kind_of_loop():
    def program(x, count):
        x = jax.lax.scan(lambda x, _: (2 * x, x), x, length=5)[0]  # 5 products of 3 numbers
        x = jax.lax.fori_loop(0, count, lambda _, x: x + 1, x)  # 4 sums of 3, 4 of the counter
        x = jax.lax.cond(count > 3, jnp.sin, lambda x: x, x)  # 1 comparison, 3 sines
        return jax.checkpoint(jnp.sum)(x)  # 3 numbers

    assert operations(program, jnp.ones(3), jnp.asarray(4)) == 5 * 3 + 4 * (3 + 1) + 1 + 3 + 3


def test_sizes_and_exponents_of_estimator_costs():
    config = costs.Config(hyperparameters=(1, 2, 4, 8))
    assert {one["N"] for varied in "TK" for one in config.sizes(varied)} == {4}
    assert [one["N"] for one in config.sizes("N")] == [1, 2, 4, 8]
    assert np.isclose(costs._exponent((2.0, 3.0), (8.0, 48.0)), 2.0)
