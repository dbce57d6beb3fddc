"""The experiment `maml-linear`."""
