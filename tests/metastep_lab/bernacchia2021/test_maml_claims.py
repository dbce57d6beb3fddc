"""The claims of `maml-linear` and `maml-wishart` on tables made by hand."""

from metastep_lab.bernacchia2021.maml_linear import experiment as maml_linear
from metastep_lab.bernacchia2021.maml_wishart import experiment as maml_wishart
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

NUMBERS = "theory simulated standard_error"
TESTED = {"test_data": columns("difference standard_error", [(0.001, 0.01), (-0.03, 0.01)])}


def linear():
    """Return a run of `maml-linear` of which every claim holds: all settings of the paper."""
    optimum, loss = [], []
    for one in maml_linear.Config().settings():
        rows = [
            ("best_train_rate", -1.0, -1.0, 0.01),
            ("gain", -0.1, -0.1, 0.03),
            ("loss_at_zero", 1.0, 1.0, 0.01),
            ("slope_at_zero", 0.1, 0.1, 0.001),
            ("leading_slope", 0.1, 0.1, 0.001),
        ]
        rows += [("worst_train_rate", 1.0, 1.0, 0.01)] * (one.dim > one.equations)
        optimum += [(one.figure, one.panel, *row) for row in rows]
        optimum += [(one.figure, "a", "best_test_rate", 0.1, 0.1, 0.01)] * one.both_rates
        theory = 0.8 if one.setting in ("6b", "6c") else 0.99
        panels = "ab" if one.both_rates else one.panel
        loss += [(one.figure, panel, theory, 1.0, 0.001) for panel in panels]
    rising = {"noise": 1, "variability": 1, "target_samples": -1}
    falling = rising | {"validation_samples": -1, "tasks": -1}
    others = "test_rate", "validation_samples", "tasks", "start"
    sweep = [
        (figure, varied, value, 1 + 0.1 * sign * value, 0.001, -1.0, 0.01, 0.001, 1 / value)
        for figure, signs in ((2, rising | dict.fromkeys(others, 0)), (3, falling))
        for varied, sign in signs.items()
        for value in (1.0, 2.0, 4.0)
    ]
    header = "figure varied value loss standard_error best_train_rate shift shift_error spread"
    tables = {
        "optimum": columns(f"figure panel quantity {NUMBERS}", optimum),
        "loss": columns(f"figure panel {NUMBERS}", loss),
        "sweep": columns(header, sweep),
    }
    return Record(maml_linear.Config(), tables | TESTED, {}, {})


def test_every_claim_of_maml_linear_can_fail():
    spoiled = (
        *(
            (f"negative-train-rate-{regime}", "optimum", f"figure == {figure} and {row}", values)
            for regime, figure in (("overparameterized", 2), ("underparameterized", 3))
            for row, values in (
                ("quantity == 'best_train_rate'", {"simulated": 0.1}),
                ("quantity == 'gain'", {"simulated": 0.1}),
            )
        ),
        ("slope-positive", "optimum", "quantity == 'slope_at_zero'", {"simulated": -0.1}),
        ("eq-8", "optimum", "quantity == 'worst_train_rate'", {"simulated": 1.14}),
        ("eq-8", "optimum", "quantity == 'best_train_rate'", {"simulated": -0.86}),
        ("positive-test-rate", "optimum", "quantity == 'best_test_rate'", {"simulated": -0.1}),
        ("positive-test-rate", "optimum", "quantity == 'best_test_rate'", {"simulated": 0.3}),
        ("theory-accurate", "loss", "figure == 2 and panel == 'a'", {"theory": 0.979}),
        ("theory-underestimates", "loss", "figure == 2 and panel == 'b'", {"theory": 1.01}),
        ("accurate-where-strong", "loss", "figure == 6 and panel == 'a'", {"theory": 0.979}),
        ("accurate-where-strong", "loss", "figure == 6 and panel == 'b'", {"theory": 0.91}),
        ("exact-at-zero", "optimum", "quantity == 'loss_at_zero'", {"simulated": 1.05}),
        ("exact-at-zero", "optimum", "quantity == 'slope_at_zero'", {"simulated": 0.105}),
        ("analytic-test-loss", "test_data", "difference > 0", {"difference": 0.041}),
        *(
            (f"monotone-{regime}", "sweep", f"figure == {figure} and {row}", {"loss": loss})
            for regime, figure, row, loss in (
                ("overparameterized", 2, "varied == 'noise' and value == 2", 1.05),
                ("overparameterized", 2, "varied == 'target_samples' and value == 2", 0.95),
                ("underparameterized", 3, "varied == 'variability' and value == 4", 1.15),
                ("underparameterized", 3, "varied == 'tasks' and value == 2", 0.95),
            )
        ),
        (
            "best-rate-depends-on-p-and-n_t-alone",
            "sweep",
            "figure == 2 and varied == 'start' and value == 4",
            {"shift": 0.11},
        ),
        *(
            (
                "many-tasks-forget-the-train-rate",
                "sweep",
                "figure == 3 and varied == 'tasks' and value == 2",
                {"spread": spread},
            )
            for spread in (0.65, 0.35)
        ),
    )
    check_every_claim(maml_linear.EXPERIMENT, spoiled, linear())


def test_claims_of_maml_linear_that_two_regimes_leave_open():
    one = changed(linear(), "loss", "figure == 6 and panel == 'd'", theory=1.0)
    panel = maml_linear.Config(
        setting=("6d",),
        **{name: (getattr(one.config, name)[-1],) for name in maml_linear.Setting._fields[1:]},
    )
    tables = (
        dict(one.tables)
        | {
            name: {
                column: values[
                    (one.tables[name]["figure"] == 6) & (one.tables[name]["panel"] == "d")
                ]
                for column, values in one.tables[name].items()
            }
            for name in ("loss", "optimum")
        }
        | {"sweep": {column: values[:0] for column, values in one.tables["sweep"].items()}}
    )
    found = verdicts(maml_linear.EXPERIMENT, Record(panel, tables, {}, {}))
    undecided = "negative-train-rate-overparameterized eq-8 positive-test-rate theory-accurate "
    undecided += "theory-underestimates accurate-where-strong "
    undecided += "monotone-overparameterized monotone-underparameterized "
    undecided += "best-rate-depends-on-p-and-n_t-alone many-tasks-forget-the-train-rate"
    assert {name for name, holds in found.items() if holds is None} == set(undecided.split())


def test_sweeps_of_maml_linear_need_three_standard_errors_and_their_regime():
    row = "figure == 3 and varied == 'tasks' and value == 2"
    close = changed(linear(), "sweep", row, loss=0.903)
    assert verdicts(maml_linear.EXPERIMENT, close)["monotone-underparameterized"] is None
    sweep = linear().tables["sweep"]
    for figure, missing in ((2, "underparameterized"), (3, "overparameterized")):
        part = {name: values[sweep["figure"] == figure] for name, values in sweep.items()}
        one = Record(maml_linear.Config(), {**linear().tables, "sweep": part}, {}, {})
        found = verdicts(maml_linear.EXPERIMENT, one)
        kinds = {name.removeprefix("monotone-"): found[name] for name in found if "mono" in name}
        assert {name for name, holds in kinds.items() if holds is None} == {missing}


def test_a_claim_of_maml_linear_needs_all_that_it_names():
    for regime, figure in (("overparameterized", 2), ("underparameterized", 3)):
        sweep = linear().tables["sweep"]
        known = (sweep["varied"] != "target_samples") | (sweep["figure"] != figure)
        part = {name: values[known] for name, values in sweep.items()}
        one = Record(maml_linear.Config(), {**linear().tables, "sweep": part}, {}, {})
        assert verdicts(maml_linear.EXPERIMENT, one)[f"monotone-{regime}"] is None
    # What is swept in one figure says nothing of the other.
    known = (sweep["varied"] != "start") | (sweep["figure"] != 2)
    part = {name: values[known] for name, values in sweep.items()}
    one = Record(maml_linear.Config(), {**linear().tables, "sweep": part}, {}, {})
    name = "best-rate-depends-on-p-and-n_t-alone"
    assert verdicts(maml_linear.EXPERIMENT, one)[name] is None


def test_noise_confirms_nothing():
    wide = changed(linear(), "optimum", "quantity == 'worst_train_rate'", standard_error=0.5)
    assert verdicts(maml_linear.EXPERIMENT, wide)["eq-8"] is None
    wide = changed(wishart(), "moments", "kurtosis == 20", change_error=0.01)
    assert verdicts(maml_wishart.EXPERIMENT, wide)["fourth-moments-count"] is None


def wishart(draws=2):
    """Return a run of `maml-wishart` of which every claim holds."""
    optimum = [
        (draw, *row)
        for draw in range(draws)
        for row in (
            ("best_train_rate", -1.0, -1.0, 0.1),
            ("gain", -0.1, -0.1, 0.01),
            ("best_test_rate", 0.1, 0.1, 0.01),
            ("loss", 1.0, 1.0, 0.1),
        )
    ]
    tables = {
        "optimum": columns(f"draw quantity {NUMBERS}", optimum),
        "loss": columns(f"panel {NUMBERS}", [("a", 1.04, 1.0, 0.1), ("b", 0.96, 1.0, 0.1)]),
        "moments": columns(
            f"skewness kurtosis train_rate {NUMBERS} expected_change change change_error",
            [
                (skewness, kurtosis, rate, 1.0, 1.0, 0.1, change, change, 0.0001)
                for skewness, kurtosis, change in ((0, 3, 0.0), (0, 20, 0.02), (2, 20, 0.021))
                for rate in (-2.0, 0.0, 2.0)
            ],
        ),
    }
    return Record(maml_wishart.Config(), tables | TESTED, {}, {})


def test_every_claim_of_maml_wishart_can_fail():
    best, gain = "quantity == 'best_train_rate'", "quantity == 'gain'"
    spoiled = (
        ("negative-train-rate", "optimum", f"{best} and draw == 0", {"simulated": 0.4}),
        ("negative-train-rate", "optimum", f"{gain} and draw == 0", {"simulated": 0.04}),
        ("negative-for-every-draw", "optimum", f"{best} and draw == 1", {"theory": 0.1}),
        ("negative-for-every-draw", "optimum", f"{gain} and draw == 1", {"simulated": 0.04}),
        ("positive-test-rate", "optimum", "quantity == 'best_test_rate'", {"simulated": -0.04}),
        ("theory-accurate", "loss", "panel == 'b'", {"theory": 0.94}),
        ("analytic-test-loss", "test_data", "difference > 0", {"difference": 0.041}),
        ("theorem-3-for-other-moments", "moments", "skewness == 2", {"theory": 0.94}),
        ("fourth-moments-count", "moments", "skewness == 2", {"change": 0.03195}),
        ("third-moments-do-not-count", "moments", "skewness == 2", {"change": 0.031}),
    )
    check_every_claim(maml_wishart.EXPERIMENT, spoiled, wishart())
    assert verdicts(maml_wishart.EXPERIMENT, wishart(draws=1))["negative-for-every-draw"] is None
