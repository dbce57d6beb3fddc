"""The smallest run of every experiment, and its step sizes: rows of tables over the catalogue."""

TINY: dict[str, str] = {
    "step-size-quadratic": "dim=5 horizons=20 start_step_sizes=0.01 meta_steps=40 "
    "methods=log-domain,reverse-float32,stop-gradient-rmsprop",
    "least-squares": "dim=20 tasks=10 horizon=10 samples=12,30 noise=1,4 descent_steps=3 "
    "descent_tasks=5",
    "least-squares-sgd": "dims=8,12 tasks=8 test_tasks=20 grid_points=8 multiples=4,16 "
    "validation_multiples=1,4 simulations=400",
    "step-size-guarantees": "dims=8,12 horizons=5,10 noises=2 tasks=2,4 repeats=12 fresh=100 "
    "many_dim=4 ratios=5,20 sgd_dims=8 sgd_tasks=2 sgd_runs=20 problems=3 updates=3000",
    "mlp-optimizer": "samples=40 hidden=8 modes=train-by-validation horizon=24 updates=5 "
    "meta_seeds=1 tests=2 test_steps=16 measure_every=8 segment=8 unrolls=3 longest_segment=8 "
    "block=8 trajectories=1 monitor_every=3 monitor_tasks=1 tuning_tasks=1",
    "maml-linear": "setting=2,6c dim=24,10 train_samples=12 validation_samples=1,4 tasks=2,5 "
    "target_samples=8 noise=1 variability=0.5 center=0.1 train_rate_limit=2 rates=9 runs=20 "
    "tested=2 test_runs=2 test_tasks=4 "
    "sweeps=noise sweep_rates=5 sweep_runs=2",
    "maml-wishart": "dim=24 train_samples=12 validation_samples=1 tasks=2 target_samples=8 "
    "rates=9 runs=20 covariances=2 skewness=1 kurtosis=6 test_runs=2 test_tasks=4",
    "maml-nonlinear": "dim=5 train_samples=4 tasks=2 target_samples=4 width=8 epochs=3,6 "
    "train_rates=-0.2,-0.1,0,0.1 trained_rates=-0.1,0,0.1 test_rates=0,0.1 paper_rate=-0.1 "
    "paper_test_rate=0.1 linearized_runs=8 trained_runs=5",
    "truncation-toy": "windows=1,5,20 horizon=20 outer_steps=40",
    "estimator-costs": "parameters=8 horizons=4,8,16 windows=1,2,4 hyperparameters=1,2,4 repeats=1",
    "hypercleaning": "train=100 validation=100 windows=1,20 horizon=20 outer_steps=20",
    "task-interaction": "examples=6 trials=2 windows=1 horizon=3 outer_steps=5 measure_every=2 "
    "smoothness=4 stability_limit=none",
    "one-shot": "channels=2 ways=2 queries=2 test_queries=2 horizon=2 windows=1 full=false "
    "short_horizon=false study=false outer_steps=4 meta_batch=2 repetitions=2 "
    "validation_characters=2 test_characters=3 measure_every=2 measured_tasks=2 gradient_tasks=2 "
    "test_tasks=4",
    "label-noise": "train=150 validation=100 seeds=1 outer_steps=5 noise=uniform-50",
    "data-weights": "train=200 validation=100 width=8 rater_width=8 horizon=20 outer_steps=20 "
    "runs=2 seeds=1",
    "data-attribution": "models=linear train=40 queries=2 steps=4 window=2 speeds=1 subsets=3 "
    "removed=0.1 seeds=1",
    "sparse-coding": "seeds=1 samples=60 dim=20 atoms=40 n_nonzero=2 realizations=40,80 "
    "dims=20,30 noises=0.02,0.22 epochs=10 batch_size=30 processes=1 vary=realization,scale,noise "
    "training=false",
    "dictionary-losses": "dims=6 n_nonzero=1 norms=1 angles=4 signals=20 masked_dim=10 hidden=2 "
    "masked_atoms=4 scales=1,10,30,100 masked_signals=40",
    "anchor-vectors": "models=gru seeds=1 tokens=1300 vocabulary=150 hidden=8 steps=40 batch=4 "
    "context=16 top=0,5,20",
    "downstream-transfer": "models=1 noise=0.001,0.3 vocabulary=100 hidden=8 steps=16 batch=2 "
    "context=16 places=40 top=1 architecture=gru perturbed=0.1,1 shifted=1,10 silenced=1,8",
    "hessian-structure": "model=F-20-12 labels=true examples=128 epochs=1 models=2 top=20",
    "hessian-overlap": "model=F-12-8 examples=128 epochs=1 models=2 rows=200",
    "hessian-two-layer": "units=16,8 classes=3 samples=200 hessian_samples=200 seeds=1",
    "pac-bayes": "hidden=4 train=1000 training_epochs=2 epochs=2 interval=1 draws=500 seeds=1 "
    "methods=base,iter labels=random",
    "advisor": "problems=toy-100 seeds=1 outer_steps=2",
}

STEP_SIZES: dict[str, tuple[str, ...]] = {
    "step-size-quadratic": ("start_step_sizes", "meta_step_scale"),
    "least-squares": ("grid",),
    "mlp-optimizer": ("meta_step_size",),
    "maml-linear": ("train_rate", "test_rate", "train_rate_limit", "test_rates"),
    "maml-wishart": ("train_rate", "test_rate", "train_rate_limit"),
    "maml-nonlinear": ("step_size", "test_rates"),
    "truncation-toy": ("first_step",),
    "hypercleaning": ("step_size", "outer_step_size"),
    "task-interaction": ("step_size", "outer_step_size"),
    "data-weights": ("step_size", "outer_step_size"),
    "one-shot": ("rate", "outer_step_size"),
    "sparse-coding": ("learning_rate",),
    "anchor-vectors": ("step_size",),
    "downstream-transfer": ("step_size",),
    "hessian-structure": ("step_size",),
    "hessian-overlap": ("step_size",),
    "pac-bayes": ("training_step_size", "step_size"),
}
