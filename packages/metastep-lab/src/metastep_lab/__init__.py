"""The laboratory of metastep: command line, experiments, runs, sweeps and reports."""
