"""Many runs of one experiment: a grid of configurations and seeds, on this machine or on Ray.

Each run has its own process and its own run directory, and can be interrupted, killed and resumed
like any other run. The sweep adds the list of runs (`sweep.json`) and a table over them
(`sweep.csv`, `sweep.parquet`). The table is always computed from the run directories, so no failure
of the driving process can duplicate or lose a row.
"""
