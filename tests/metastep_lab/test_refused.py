"""Configurations that experiments refuse, each with one line that names the field."""

import pytest

from metastep_lab.catalog import listing
from metastep_lab.configuration import parse_settings
from metastep_lab.experiment import load

# By experiment: settings, changes of the defaults, and a pattern of the message.
REFUSED = {
    "hypercleaning": r"""
        windows=0,5 | windows is
        windows=5,1 | windows is \(5, 1\); allowed are ascending integers from 1
        windows= | windows is \(\)
        windows=101 | windows is
        outer_steps=-1 | outer_steps is
        corruption=1.5 | corruption is
        thresholds=-1,-2 | threshold, -3, among them
        dataset=svhn | dataset
    """,
    "truncation-toy": r"""
        windows=5,1 | windows is \(5, 1\); allowed are ascending integers from 1
        windows=101 | windows is
        horizon=-1 | horizon is
        start=1.0 | start is
    """,
    "least-squares": r"""
        dim=0 | dim is .*integers from 1
        horizon=0 | horizon is .*integers from 1
        tasks=0 | tasks is .*integers from 1
        test_tasks=0 | test_tasks is .*integers from 1
        descent_steps=-1 | descent_steps is .*integers from 0
        noise= | noise is .*positive numbers
        noise=1.0,-1.0 | noise is .*positive numbers
        noise=1.0,1.0 | noise is .*different values
        samples=1 | samples is .*integers from 2
        samples= | samples is .*integers from 2
        grid= | grid is .*positive step sizes, at least one
        grid=0.0 | grid is .*positive step sizes, at least one
        validation_fraction=0.0 | validation_fraction is .*numbers between 0 and 1
        validation_fraction=1.5 | validation_fraction is .*numbers between 0 and 1
        validation_fraction=0.9999 | validation_fraction is .*.*leave an example on each side
    """,
    "least-squares-sgd": r"""
        dims= | dims is \(\)
        dims=8,10 | dims is \(8, 10\); allowed are multiples of 4 from 8
        noise=0.5 | noise is 0.5; allowed are numbers from 1
        tasks=0 | tasks is 0; allowed are integers from 1
        test_tasks=1 | test_tasks is 1; allowed are integers from 2
        grid_points=2 | grid_points is 2; allowed are integers from 3
        multiples=0,4 | multiples is \(0, 4\); allowed are integers from 1 to 1000
        validation_multiples= | validation_multiples is \(\); allowed are
        long_multiple=2147483647 | long_multiple is 2147483647; allowed are
        simulations=1 | simulations is 1; allowed are integers from 2
    """,
    "maml-linear": r"""
        setting= | setting is .*different names, at least one
        setting=2,2,3,6a,6b,6c | setting is .*different names, at least one
        setting=figure | setting is .*numbers, and numbers with a letter
        setting=6,6a,3,6b,6c,6d | setting is .*a figure, or panels of it, not both
        dim=60,30 | dim is .*one entry, or 6: one for each setting
        dim=6,30,50,50,50,50 | dim is .*numbers at least 2 from
        dim=0 | dim is .*integers from 1
        train_samples=0 | train_samples is .*integers from 1
        noise=0.0 | noise is .*positive numbers
        variability=-1.0 | variability is .*numbers from 0
        train_rate_limit=0.0 | train_rate_limit is .*positive numbers
        rates=8 | rates is .*odd integers from 5
        test_rates= | test_rates is .*different numbers
        runs=1 | runs is .*integers from 2
        test_runs=1 | test_runs is .*integers from 2
        test_tasks=0 | test_tasks is .*integers from 1
        test_samples=0 | test_samples is .*integers from 1
    """,
    "maml-wishart": r"""
        dim=7 | dim is .*integers above
        tasks=0 | tasks is .*integers from 1
        covariances=0 | covariances is .*integers from 1
        noise=0.0 | noise is .*positive numbers
        variability=-1.0 | variability is .*numbers from 0
        train_rate_limit=0.0 | train_rate_limit is .*positive numbers
        rates=4 | rates is .*odd integers from 5
        test_rates=0.1,0.0,0.2 | test_rates is .*3 or more, increasing
        runs=1 | runs is .*integers from 2
        test_runs=1 | test_runs is .*0 and integers from 2
    """,
    "maml-nonlinear": r"""
        dim=0 | dim is .*integers from 1
        width=0 | width is .*integers from 1
        linearized_runs=1 | linearized_runs is .*integers from 2
        trained_runs=2000 | trained_runs is .*as many as linearized ones, 1000
        trained_runs=-1 | trained_runs is .*integers from 0
        reading_trained_runs=300 | reading_trained_runs is .*as many as linearized ones, 200
        noise=-1.0 | noise is .*numbers from 0
        step_size=0.0 | step_size is .*positive numbers
        epochs=5,5 | epochs is .*ascending integers from 1
        epochs= | epochs is .*ascending integers from 1
        epochs=0,5 | epochs is .*ascending integers from 1
        train_rates=0.1 | train_rates is .*numbers with 0
        trained_rates=0.0,0.3 | trained_rates is .*some of train_rates
        test_rates=0.1,0.1 | test_rates is .*different numbers, at least one
    """,
    "estimator-costs": r"""
        windows=8,32,100 | windows is .*divisors of all horizons
        hyperparameters=3,5,7 | hyperparameters is .*divisors of parameters
    """,
    "task-interaction": r"""
        trials=0 | trials is 0
        coupling=0.0 | coupling is 0.0
        windows=5,1 | windows is \(5, 1\)
        windows=101 | up to the horizon, 100
        stability_limit=0.4 | stability_limit is 0.4; .* above .* = 0.5
    """,
    "one-shot": r"""
        ways=1 | ways is 1; allowed are integers from 2
        test_characters=4 | test_characters is 4; allowed are integers from 5
        rate=0.0 | rate is 0.0
        windows= | windows is \(\)
        windows=51 | up to the horizon, 50
        study_steps=10 | study_steps is 10; allowed are multiples of measure_every
    """,
    "sparse-coding": r"""
        seeds=0 | seeds is 0
        samples=0 | samples is 0
        processes=0 | processes is 0
        vary= | vary is
        initialization=local,local | initialization is
        realizations=100 | realizations is
        noises=-0.1 | noises is
        noises=0.1,0.1 | noises is
        dims=10 | dims is
        mask_fraction=0.0 | mask_fraction is 0
        mask_fraction=0.005 | mask_fraction is 0.005
        n_nonzero=95 | n_nonzero is 95
        learning_rate=0.0 | learning_rate is 0
    """,
    "anchor-vectors": r"""
        seeds=0 | seeds is 0
        vocabulary=0 | vocabulary is 0
        models= | models is
        models=gru,gru | models is
        hidden=6 models=transformer | hidden is 6
        top=10,100 | top is
        top=0 | top is
        top=0,5000 | top is .* below the vocabulary, 5000
        tokens=63 | tokens is 63
        skip=64 | skip is 64
        steps=0 | steps is 0
        step_size=0.0 | step_size is 0
        embedding_scale=0.0 | embedding_scale is 0
    """,
    "downstream-transfer": r"""
        models=0 | models is 0
        places=0 | places is 0
        steps=20 | steps is 20
        noise= | noise is
        shifted=1.0,1.0 | shifted is
        silenced=-1.0 | silenced is
        positive= | positive is
        negative=can | negative is
        top=5000 | top is 5000
        hidden=6 | hidden is 6
        batch=0 | batch is 0
    """,
    "hessian-structure": r"""
        model= | model is
        model=LeNet5,LeNet5 | model is
        labels= | labels is
        examples=127 | examples is 127
        epochs=0 | epochs is 0
        step_size=0.0 | step_size is 0
        models=0 | models is 0
        top=19 | top is 19
    """,
    "hessian-overlap": r"""
        model= | model is
        model=VGG12 | model is 'VGG12'; allowed are F-WIDTH
        rows=1199 | rows is 1199; allowed are integers from 1200
        model=ResNet18-W800 rows=1000 | allowed are integers from 1600
        dataset=svhn | dataset is 'svhn'
        labels=two | labels is 'two'
        models=1 | models is \(1,\); allowed are two
        models= | models is
        momentum=1.0 | momentum is
        momentum=0.0,0.9 | momentum is \(0.0, 0.9\); allowed are as many entries
        step_size=0.0 | step_size is
        weight_decay=-0.1 | weight_decay is
        examples=127 | examples is 127
    """,
    "hessian-two-layer": r"""
        units= | units is
        units=10 | units is .* above 10
        units=50,50 | units is
        classes=1 | classes is 1
        samples=300 | samples is 300
        hessian_samples=0 | hessian_samples is 0
        seeds=0 | seeds is 0
    """,
    "pac-bayes": r"""
        methods= | methods is
        methods=base,base | methods is
        labels= | labels is
        hidden= | hidden is
        hidden=0 | hidden is
        train=99 | train is 99
        epochs=0 | epochs is 0
        training_epochs=0 | training_epochs is 0
        interval=0 | interval is 0
        draws=0 | draws is 0
        seeds=0 | seeds is 0
        step_size=0.0 | step_size is 0
        initial_scale=-1.0 | initial_scale is -1
        training_momentum=1.5 | training_momentum is 1.5
        training_batch=0 | training_batch is 0
        methods=iter-d | decay_every is None
        decay_every=0 | decay_every is 0
        classes=3 | classes is '3'
    """,
}
ROWS = [
    (name, *row.strip().split(" | "))
    for name, rows in REFUSED.items()
    for row in rows.strip().splitlines()
]


@pytest.mark.parametrize(("name", "settings", "message"), ROWS)
def test_a_bad_configuration_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(load(listing(name)).config(), settings.split())
