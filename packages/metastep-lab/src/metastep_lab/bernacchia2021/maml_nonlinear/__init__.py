"""The experiment `maml-nonlinear`."""
