"""The claims of `step-size-quadratic` on tables made by hand."""

import numpy as np

from metastep_lab.tables import Record, columns
from metastep_lab.theory import quadratic_step_size as theory
from metastep_lab.wang2021.step_size_quadratic import reference
from metastep_lab.wang2021.step_size_quadratic.experiment import EXPERIMENT, Config
from metastep_lab.wang2021.step_size_quadratic.methods import METHODS
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

HESSIAN, START = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, -0.5])


def held():
    """Return a run of which every claim holds: t = 40, two starts, F' of the closed form."""
    starts = 0.01, 0.1
    config = Config(horizons=(40,), start_step_sizes=starts)
    convergence, trajectory = [], []
    for name in METHODS:
        for start in starts:
            limit_cycle = name.split("-rmsprop")[0] in ("reverse", "stop-gradient") and start == 0.1
            moves = "constant" in name or ("rmsprop" in name and limit_cycle)
            status, error = ("oscillating", 0.2) if moves else ("converged", 1e-8)
            convergence.append((name, 40, start, start, start, error, error, error, status))
            objective, slope = (
                function(start, HESSIAN, START, 40)
                for function in (theory.meta_objective, theory.meta_gradient)
            )
            trajectory += [(name, 40, start, k, start, slope, objective) for k in (299, 300)]
    accuracy = [(name, 40, 0.1, 0.1, 1e-12) for name in reference.COMPARED]
    errors = "relative_error_300 relative_error_1000 relative_error_last"
    tables = {
        "convergence": columns(
            f"method horizon start final_step_size optimal_step_size {errors} status", convergence
        ),
        "trajectory": columns(
            "method horizon start step step_size meta_gradient meta_objective", trajectory
        ),
        "optimum": columns("horizon predicted_steps", [(40, 100)]),
        "limit": columns("horizon optimal_step_size limit", [(10, 0.8, 1.0), (5000, 0.99, 1.0)]),
        "overflow": columns("horizon start log10_bound log10_loss", [(40, 0.1, 1.0, 1.0)]),
        "accuracy": columns("method horizon step_size meta_gradient relative_error", accuracy),
        "stop_gradient": columns("horizon step_size true stop_gradient", [(40, 0.1, 1.0, 1.0)]),
    }
    return Record(config, tables, {}, {"hessian": HESSIAN, "start": START})


EXACT = "method == 'log-domain'"
SPOILED = (
    # Near eta* after 300 updates by chance, and away from it later.
    ("figure-1-within-300-steps", "trajectory", f"{EXACT} and step == 300", {"step_size": 0.12}),
    ("figure-1-within-300-steps", "convergence", EXACT, {"final_step_size": 0.2}),
    ("exact-meta-gradient-converges", "convergence", EXACT, {"status": "oscillating"}),
    ("settles-where-predicted", "convergence", EXACT, {"relative_error_last": 1e-6}),
    ("log-domain-is-exact", "accuracy", EXACT, {"relative_error": 1e-9}),
    ("log-domain-is-exact", "accuracy", "method.str.endswith('32')", {"relative_error": np.inf}),
    *(
        ("float32-stuck-by-overflow", table, "method == 'reverse-float32'", values)
        for table, values in (
            ("trajectory", {"meta_gradient": 0.0}),
            ("trajectory", {"meta_objective": np.nan}),
            ("convergence", {"status": "stuck"}),
        )
    ),
    ("float64-agrees", "trajectory", "method == 'reverse-float64'", {"meta_gradient": np.nan}),
    (
        "float64-agrees",
        "trajectory",
        "method == 'reverse-float64'",
        {"meta_gradient": lambda rows: rows["meta_gradient"] * (1 + 1e-5)},
    ),
    *(
        (
            f"tables-1-2-{name}",
            "convergence",
            f"method == '{kind}-{method}' and start == {start}",
            {"status": status},
        )
        for name, method in (("gd", "constant"), ("rmsprop", "rmsprop"))
        for kind in ("reverse", "stop-gradient")
        for start, status in ((0.1, "converged"), (0.01, "stuck"))
        if status == "converged" or name == "rmsprop"
    ),
    *(
        (
            "gd-fails-with-the-exact-gradient",
            "convergence",
            "method == 'log-domain-constant' and start == 0.1",
            {"status": status},
        )
        for status in ("converged", "stuck")
    ),
    *(
        ("rmsprop-with-the-exact-gradient", "convergence", "method == 'log-domain-rmsprop'", values)
        for values in ({"status": "stuck"}, {"relative_error_last": 0.1})
    ),
    ("second-derivatives-off-is-the-same-setting", "stop_gradient", "", {"true": 1.02}),
    ("meta-gradient-bounded", "trajectory", EXACT, {"meta_gradient": 1e9}),
    ("meta-gradient-bounded", "accuracy", EXACT, {"meta_gradient": -1e9}),
    ("optimum-tends-to-its-limit", "limit", "horizon == 5000", {"optimal_step_size": 0.94}),
    ("optimum-tends-to-its-limit", "limit", "horizon == 10", {"optimal_step_size": 1.001}),
)


def test_a_quick_run_has_a_part_of_the_cells():
    quick, whole = EXPERIMENT.presets["quick"], Config()
    for name in ("horizons", "start_step_sizes"):
        assert {*getattr(quick, name)} < {*getattr(whole, name)}


def test_figure_1_looks_at_no_update_before_the_300th():
    early = changed(held(), "trajectory", f"{EXACT} and step == 299", step_size=9.0)
    assert verdicts(EXPERIMENT, early, "figure-1-within-300-steps").popitem()[1] is True


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())
