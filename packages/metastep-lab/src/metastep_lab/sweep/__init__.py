"""Many runs of one experiment: a grid of configurations and seeds, on this machine or on Ray.

Each run is a process of its own and a run directory of its own, which can be interrupted, killed
and resumed like any other. What the sweep adds is the list of runs (`sweep.json`) and a table over
them (`sweep.csv`, `sweep.parquet`), which is made anew from the run directories whenever it is
written: nothing that happens to the process that drives the sweep can double or lose a row.
"""
